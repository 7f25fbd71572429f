"""Does the search find designs at least as good as the published ones, within the board?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.studies.search import DesignSearch, pareto, search
from opbyte.devices.catalog import load_device
from opbyte.devices.fpga.resources import engine_of
from opbyte.simulator.fpga.designs import Design

if TYPE_CHECKING:
    from conftest import Ask

FABRIC = engine_of(load_device("zcu104")[0])[2]
ENGINE = engine_of(load_device("zcu104")[0])[1]


@pytest.fixture(scope="module")
def found() -> DesignSearch:
    return search("m3vit-pascal", "zcu104")


def test_at_least_as_fast_as_m3vit_within_its_board(found: DesignSearch) -> None:
    """M3ViT's own buffers are 2 % more than the board has; the found design's are not."""
    assert found.best.latency_s <= found.published.latency_s
    assert found.published.latency_s == pytest.approx(69.08e-3, rel=1e-3)
    assert found.published_excess == ("5,075,712 on-chip bytes, 4,976,640 available",)
    for design in (found.best, *found.front):
        assert design.dsp <= FABRIC.dsp
        assert design.on_chip_bytes <= FABRIC.on_chip_bytes


def test_no_design_is_faster_than_its_multipliers(found: DesignSearch) -> None:
    """31.8 GMAC at 1,728 a cycle and the share of useful cycles bound every latency."""
    floor = 31.79e9 / (FABRIC.dsp * 0.8913) / 300e6
    assert floor < found.best.latency_s < 1.02 * floor


def test_the_front_is_one(found: DesignSearch) -> None:
    assert found.front == pareto(found.front)
    assert found.best.latency_s == found.front[0].latency_s
    assert len({design.key for design in found.front}) == len(found.front) > 10


@given(st.lists(st.tuples(*[st.integers(1, 6)] * 3), max_size=30))
def test_pareto_against_its_definition(points: list[tuple[int, int, int]]) -> None:
    designs = [Design(ENGINE, 1, float(a), float(a), float(b), float(c)) for a, b, c in points]
    kept = [design.key for design in pareto(designs)]
    expected = {
        p for p in points
        if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in points)
    }  # fmt: skip
    assert set(kept) == expected
    assert kept == sorted(kept)


def test_fill_energy_and_files(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data: dict[str, Any] = ask(
        "search", "edge-moe-cityscapes", "--board", "zcu102", "--fill", 0.5, "--objective",
        "energy", "--json", "--out", out,
    ).json()  # fmt: skip
    assert data["best"]["dsp"] <= 0.5 * 2520
    assert data["best"]["joules"] == min(design["joules"] for design in data["front"])
    assert data["best"]["latency_s"] < data["published"]["latency_s"]
    assert data["limits"]["on-chip bytes"] == 0.5 * 912 * 4608
    assert {"front.png", "search.json"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--board", "h100"), "h100: is no FPGA"),
        (("--board", "zcu104-x2"), "--board: zcu104-x2 is several devices"),
        (("--board", "zcu104", "--fill", 0), "--fill: must be above 0"),
        (("--board", "zcu104", "--fill", 0.001), "zcu104: no design fits: needs"),
        (("--board", "zcu104", "--objective", "area"), "--objective: must be latency or energy"),
        (("--board", "zcu10"), "unknown system; did you mean 'zcu10"),
    ],
)
def test_bad_searches(ask: Ask, arguments: tuple[object, ...], message: str) -> None:
    assert message in ask("search", "m3vit-pascal", *arguments).refused()
