"""Does the table of parts refuse what it says, in one line that names both options, and nothing else?

Each pair of the table is asked for with real options; the pairs that run are in `test_parts_together`.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import opbyte
from opbyte import catalog
from opbyte.simulator.registry import CODE, PAIRS, PARTS, check_parts, refused_with
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.workloads.errors import InputError

from ..tables import tables

TOP = Path(__file__).resolve().parents[2]
LOAD: dict[str, Any] = {"rate": 9.0, "requests": 4, "input_len": 40, "output_len": 4}
ASKED: dict[str, tuple[str, dict[str, Any]]] = tables(__file__)["asked"]
"""How a refusal names each part of the table, and options that ask for it."""


def test_every_pair_names_two_parts_and_a_reason() -> None:
    for (one, other), why in PAIRS.items():
        assert one in PARTS
        assert other in PARTS
        assert (other, one) not in PAIRS
        assert why
        assert "\n" not in why
        assert refused_with(one)[other] == refused_with(other)[one] == why


def test_all_other_pairs_are_let_through() -> None:
    for one, other in combinations(PARTS, 2):
        given = {one: f"--{one}", other: f"--{other}"}
        if (one, other) in PAIRS or (other, one) in PAIRS:
            with pytest.raises(InputError, match=rf"--{one}|--{other}"):
                check_parts(given)
        else:
            check_parts(given)


@pytest.mark.parametrize("pair", [p for p in PAIRS if p != ("sglang", "tensorrt-llm")])
def test_the_table_is_what_refuses(pair: tuple[str, str]) -> None:
    (first, one), (second, other) = (ASKED[name] for name in pair)
    options = {**LOAD, "policy": "vllm", **one, **other}
    system = None if "prefill" in options else "h100-x4"
    with pytest.raises(InputError) as caught:
        run_scenario(Scenario.of("mixtral-8x7b", system, **options))
    text = str(caught.value)
    assert first in text
    assert second in text
    assert PAIRS[pair] in text
    assert "\n" not in text


def test_a_part_is_where_the_list_says() -> None:
    """Its modules, page and tests are there, and they speak of it: of one of its options, or by its name."""
    root = Path(opbyte.__file__).parent
    for part in PARTS.values():
        code = [root / "simulator" / module for module in CODE[part.name]]
        files = [path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in code]
        files += [TOP / "docs" / f"{part.page}.md", *(TOP / "tests" / f"{name}.py" for name in part.tests)]
        assert code
        assert part.tests
        assert not [file for file in files if not file.is_file()]
        word = part.flags.split(",")[0].split()[0].removeprefix("POLICY+")
        assert word in (TOP / "docs" / f"{part.page}.md").read_text(encoding="utf-8")


def test_the_list_says_it() -> None:
    rows = {row["name"]: row for row in catalog("parts")}
    assert list(rows) == list(PARTS)
    assert PAIRS["kv-tiers", "sglang"] in rows["sglang"]["cannot be combined with"]
