"""Do the functions that scripts import keep their promises: names, types, errors, what they print?

The functions are walked, so that a new one is asked the same.
"""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opbyte
import opbyte.analysis
from opbyte.analysis.answers.seeds import Several
from opbyte.analysis.commands.app import names
from opbyte.analysis.manual import keywords
from opbyte.analysis.names import LISTS, catalog
from opbyte.analysis.plots.files import Picture
from opbyte.analysis.show.console import table_lines
from opbyte.analysis.show.result import Result
from opbyte.analysis.validate.check import Checked, Compared
from opbyte.simulator.option import options_of
from opbyte.simulator.scenario.scenario import Scenario

FUNCTIONS = {name: found for name in opbyte.__all__ if inspect.isfunction(found := getattr(opbyte, name))}
COMMANDS = {
    "calibrate tables": "calibrate", "init": "template", "kernels measure-torch": "measuring_script",
    "kernels shapes": "kernel_shapes", "list": "catalog",
    "measure": "measure_machine", "show": "describe",
}  # fmt: skip
"""Commands whose function has another name than their own words."""


def walk() -> Iterator[str]:
    for module in pkgutil.walk_packages(opbyte.analysis.__path__, "opbyte.analysis."):
        if "reproduce" not in module.name and not module.name.endswith("__main__"):
            yield module.name


def results(cls: type[Result] = Result) -> Iterator[type[Result]]:
    for inner in cls.__subclasses__():
        yield inner
        yield from results(inner)


def test_every_command_is_a_function() -> None:
    found = {name: COMMANDS.get(name, name.replace(" ", "_")) for name in names()}
    assert [name for name, own in found.items() if own not in FUNCTIONS] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_have_types(name: str) -> None:
    signature = inspect.signature(FUNCTIONS[name])
    told = [p.annotation for p in signature.parameters.values()] + [signature.return_annotation]
    assert inspect.Parameter.empty not in told
    assert [t for t in told if "Any" in str(t) and "dict[str, Any]" not in str(t)] == []
    assert pickle.loads(pickle.dumps(FUNCTIONS[name])) is FUNCTIONS[name]


def test_what_has_few_choices_says_which() -> None:
    """A checker sees them; the help names the same."""
    known = [p for p in options_of(Scenario) if p.option.choices]
    assert len(known) >= 6
    for p in known:
        words = ", ".join(f'"{word}"' for word in p.option.choices)
        assert f"    {p.name}: Literal[{words}]" in keywords.module()
        assert all(word in p.option.help for word in p.option.choices)


def test_every_result_prints_little_and_shows_a_table() -> None:
    for name in walk():
        importlib.import_module(name)
    # A dataclass with slots is a class made anew: the module has it.
    found = [cls for cls in set(results()) if getattr(sys.modules[cls.__module__], cls.__name__) is cls]
    assert len(found) >= 40
    for cls in found:
        assert cls.__repr__ is Result.__repr__, cls
        assert callable(cls._repr_html_)
        assert cls.rows is not Result.rows or cls in (Several, Compared, Checked), cls  # bases, or of one


WORK: dict[str, Any] = {"rate": 9.0, "requests": 12, "input_len": 64, "output_len": 8}
CALLS: dict[str, Callable[[], Result]] = {
    "inspect": lambda: opbyte.inspect("mixtral-8x7b"),
    "roofline": lambda: opbyte.roofline("mixtral-8x7b", "duplex-x4"),
    "compare": lambda: opbyte.compare("llama-3-8b", ["h100-x1", "h200-x1"]),
    "simulate": lambda: opbyte.simulate("llama-3-8b", "h100-x1", **WORK),
    "simulate_seeds": lambda: opbyte.simulate_seeds("llama-3-8b", "h100-x1", seeds=2, **WORK),
    "train": lambda: opbyte.train("llama-3-8b", "h100-x8", batch=8),
    "describe": lambda: opbyte.describe("h100"),
    "kernel_shapes": lambda: opbyte.kernel_shapes("llama-3-8b", "h100-x1"),
    "tune": lambda: opbyte.tune("gemm", {"m": 64, "n": 4096, "k": 4096}, device="h100"),
}


@cache
def called(name: str) -> Result:
    return CALLS[name]()


WITHOUT = {"inspect", "describe", "kernel_shapes"}
"""Answers that have no figure."""


@pytest.mark.parametrize("name", CALLS)
def test_answers_are_short_and_drawn(name: str) -> None:
    result = called(name)
    assert len(repr(result)) < 2000
    assert result._repr_html_().startswith("<table>")
    if name in WITHOUT:
        with pytest.raises(opbyte.InputError, match="has no plot"):
            result.plot()
    else:
        picture = result.plot()
        assert isinstance(picture, Picture)
        assert picture._repr_png_()[0].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*CALLS, *LISTS])
def test_tables_fit_80_columns_and_names_stay_whole(name: str) -> None:
    rows = catalog(name) if name in LISTS else None
    for block in [rows] if rows else called(name).blocks():
        if isinstance(block, str) or not block:
            continue
        text = "\n".join(table_lines(block, 80))
        for row in block:
            first = next(iter(row.values()))  # what the row is about
            for word in str(first).split() if isinstance(first, str) else ():
                assert word in text
        words = [w for row in block for value in row.values() for w in str(value).split()]
        assert max(map(len, text.splitlines())) <= max(80, *map(len, words))


class Many(Result):
    """An answer of many rows."""

    def rows(self) -> list[dict[str, object]]:
        return [{"row": i} for i in range(10_000)]


def test_a_long_table_is_cut() -> None:
    text = Many()._repr_html_()
    assert len(text) < 10_000
    assert "9,800 more rows" in text


# A value that no option takes, whatever its kind.
WRONG = {int: 2.5, float: "fast", str: 7, bool: "yes", tuple: "one", object: 3.5}


@given(st.sampled_from([p for p in options_of(Scenario) if p.name not in ("model", "system")]))
def test_errors_name_parameters(option: Any) -> None:
    with pytest.raises(opbyte.InputError) as caught:
        opbyte.simulate("llama-3-8b", "h100-x1", **{option.name: WRONG[option.option.kind]})
    text = str(caught.value)
    assert text.startswith(f"{option.name}: ")
    assert "--" not in text


ASKED: dict[str, Callable[[], object]] = {
    "load": lambda: opbyte.plan("llama-3-8b", "h100", "ttft_p99=1"),
    "goal": lambda: opbyte.plan("llama-3-8b", "h100", "ttft_p99=1", load=1.0, goal="joy"),  # type: ignore[arg-type]
    "slo": lambda: opbyte.capacity("llama-3-8b", "h100-x1", "soon=1"),
    "systems": lambda: opbyte.capacity("llama-3-8b", "", "ttft_p99=1"),
    "tolerance": lambda: opbyte.capacity("llama-3-8b", "h100-x1", "ttft_p99=1", tolerance=2.0),
    "batch": lambda: opbyte.roofline("llama-3-8b", "h100-x1", batch=-1),
    "tp": lambda: opbyte.roofline("llama-3-8b", "h100-x1", tp=3),
    "rate": lambda: opbyte.open_requests(rate=-1.0),
    "seeds": lambda: opbyte.simulate_seeds("llama-3-8b", "h100-x1", seeds=0, **WORK),
    "workers": lambda: opbyte.sweep("none.yaml", workers=0),
}


@pytest.mark.parametrize("name", ASKED)
def test_other_functions_name_parameters_too(name: str) -> None:
    with pytest.raises(opbyte.InputError) as caught:
        ASKED[name]()
    assert str(caught.value).startswith(name)
    assert "--" not in str(caught.value)


def test_a_frame_or_rows_are_a_trace(tmp_path: Path) -> None:
    rows = [{"arrival_s": i / 8, "input_tokens": 64 + i, "output_tokens": 4} for i in range(9)]
    file = tmp_path / "requests.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    runs = [opbyte.simulate("llama-3-8b", "h100-x1", trace=t).run for t in (file, rows, pd.DataFrame(rows))]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.requests.last_token_s, runs[0].requests.last_token_s)
    assert opbyte.open_requests(rows).read().input_tokens.tolist() == list(range(64, 73))
    with pytest.raises(opbyte.InputError, match="row 1 has the columns"):
        opbyte.open_requests([{"arrival_s": 0.0}, {"input_tokens": 3}])
    with pytest.raises(opbyte.InputError, match="trace: must be text"):
        opbyte.simulate("llama-3-8b", "h100-x1", trace=5)  # type: ignore[arg-type]
