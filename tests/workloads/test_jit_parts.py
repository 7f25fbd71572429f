"""Is compiled code right, and small, where one function is linked into another?"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from numba import float64

from opbyte.workloads.jit import compiled, compiled_part
from opbyte.workloads.jit_parts import _Part

MODULE = """
from opbyte.kernels.jit import inner, serial
from opbyte.workloads.jit import compiled, compiled_part

@compiled_part
def third(x):
    return x / 3.0

@compiled_part
def sum_of_thirds(n):
    total = 0.0
    for i in range(n):
        total += third(i)
    return total

@compiled
def outer(n):
    return sum_of_thirds(n) + third(1)

def twice_more(step):
    @inner
    def more(x):
        return x + step

    @serial
    def twice(x):
        return more(more(x))

    return twice
"""
RUN = "import nested; print(nested.outer(7), len(nested.outer.stats.cache_hits))"
CLOSED = """
import nested
for step in (1, 20):
    twice = nested.twice_more(step)
    print(twice(0), len(twice.stats.cache_hits))
"""
CODE = "import nested; nested.outer(7); print(*nested.outer.inspect_asm().values())"
WHOLE = "from opbyte.workloads import jit_parts; jit_parts.keep_less_book = lambda: None; "


@compiled_part
def doubled(x: float) -> float:
    """Twice x."""
    return 2.0 * x


@compiled
def quadrupled(x: float) -> float:
    """Four times x."""
    return doubled(doubled(x))


def test_only_the_caller_is_made_executable() -> None:
    assert quadrupled(1.5) == 6.0
    doubled.compile((float64,))  # type: ignore[attr-defined]  # a kept caller needs no part
    part, whole = (
        next(iter(function.overloads.values())).library  # type: ignore[attr-defined]
        for function in (doubled, quadrupled)
    )
    assert isinstance(part, _Part)
    assert not isinstance(whole, _Part)


def test_collections_are_as_before() -> None:
    before = gc.get_threshold()
    quadrupled(3)  # compiled anew, for integers
    assert gc.get_threshold() == before


def _run(folder: Path, script: str) -> str:
    """What a script of another process says, which compiles into the folder."""
    (folder / "nested.py").write_text(MODULE)
    env = {**os.environ, "OPBYTE_CACHE": str(folder)}
    env["PYTHONPATH"] = os.pathsep.join([str(folder), env.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True).stdout


def test_less_book_is_the_same_code(tmp_path: Path) -> None:
    """With all that Numba does around a compile, the same instructions come out."""
    for name in ("less", "whole"):
        (tmp_path / name).mkdir()
    less = _run(tmp_path / "less", CODE)
    assert less.count("\n") > 50
    assert less == _run(tmp_path / "whole", WHOLE + CODE)


def test_linked_code_is_found_again(tmp_path: Path) -> None:
    """(0 + ... + 6) / 3 + 1/3 = 22/3; a second process loads it."""
    first, again = _run(tmp_path, RUN).split(), _run(tmp_path, RUN).split()
    assert abs(float(first[0]) - 22 / 3) < 1e-15
    assert first == [again[0], "0"]
    assert again[1] == "1"


def test_code_of_closures_over_compiled_functions_is_found_again(tmp_path: Path) -> None:
    """Closures over equal functions of other values are told apart."""
    assert _run(tmp_path, CLOSED).split() == ["2", "0", "40", "0"]
    assert _run(tmp_path, CLOSED).split() == ["2", "1", "40", "1"]
