"""Operator graphs: rows have closed forms, every system has its own, published values are unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.reproduce import moe_graphs, published, reproduce
from opbyte.analysis.reproduce.graphs import GRAPHS
from opbyte.analysis.reproduce.published import Prediction
from opbyte.analysis.reproduce.write import figures_of


@pytest.fixture(scope="module")
def rows() -> dict[str, Prediction]:
    """All rows, made while no published value is there."""
    with pytest.MonkeyPatch.context() as patch:

        def missing(_: Any) -> Any:
            raise AssertionError("published values were read")

        patch.setattr(published, "VALUES", Path("nowhere"))
        patch.setattr(published, "published", missing)
        found = list(moe_graphs.predictions())
    assert len({row.id for row in found}) == len(found)
    return {row.id.removeprefix("moe-graphs."): row for row in found}


def test_every_system_has_rows_of_its_name(rows: dict[str, Prediction]) -> None:
    assert {"mom"} <= set(GRAPHS)
    for name in GRAPHS:
        assert any(id.startswith(f"{name}.") for id in rows), name
    assert all(id.partition(".")[0] in GRAPHS for id in rows)


def test_mom(rows: dict[str, Prediction]) -> None:
    """5 states x 4 heads x 256 x 256 x 24 layers; plain attention caches 2 x 1024 values a token."""
    assert rows["mom.state_MiB"].value == 5 * 4 * 256 * 256 * 24 * 2 / 2**20 == 60
    assert rows["mom.breakeven_tokens"].value == 5 * 4 * 256 * 256 / 2048 == 640
    # Of what plain attention reads, a step moves 3 of 5 states twice: no less in all.
    assert 2 * 3 / 5 * 640 / 4096 < rows["mom.step_time_over_attention.4k"].value < 1


def test_reproduce_shows_predictions_and_a_figure() -> None:
    result = reproduce("moe-graphs", seeds=(0,), figures=True)
    assert {row.status for row in result.table} == {"prediction"}
    assert set(figures_of(result)) == {"ratios"}
