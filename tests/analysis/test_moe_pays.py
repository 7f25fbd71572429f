"""Do tables of what pays say what `roofline` says, and are their figures drawn?"""

from __future__ import annotations

import pytest

from opbyte import roofline
from opbyte.analysis.answers.moe_pays import cache_speeds, copy_gains, overlap_gains
from opbyte.analysis.plots.pays import pays

CASES = [("deepseek-v2-lite", "h100-x8")]


def seconds(**options: object) -> float:
    return roofline("deepseek-v2-lite", "h100-x8", **options).step_seconds  # type: ignore[arg-type]


def test_overlap() -> None:
    (row,) = overlap_gains(CASES, (16,)).to_dict("records")
    own = {"tp": 1, "batch": 128, "context": 2048}
    assert row["gain"] == pytest.approx(seconds(**own) / seconds(**own, overlap="two-batch"))


def test_caches() -> None:
    found = cache_speeds(CASES, (0.5, 1.0))
    assert found["speed"].iloc[1] == pytest.approx(1.0)
    assert 0.0 < found["speed"].iloc[0] < 1.0
    pays(found, "share", "speed", "Shares", ("kept", "speed"))


def test_copies_and_their_figure() -> None:
    found = copy_gains(CASES, (16,), ("measured", "power_law:0.8"))
    own = {"tp": 1, "batch": 128, "context": 512, "routing": "power_law:0.8"}
    assert found["gain"].iloc[1] == pytest.approx(seconds(**own) / seconds(**own, redundant_experts=8))
    figure = pays(found, "sequences", "gain", "Copies", ("sequences", "gain"), "routing")
    assert [axes.get_title("left") for axes in figure.axes] == ["measured", "power_law:0.8"]
