"""Operator graphs: rows have closed forms, every system has its own, published values are unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.papers import moe_graphs, published
from opbyte.analysis.papers.moe_graphs import GRAPHS
from opbyte.analysis.papers.published import Prediction
from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import figures_of
from opbyte.devices.catalog import load_system


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
    assert {"mom", "momamba", "uoe"} <= set(GRAPHS)
    for name in GRAPHS:
        assert any(id.startswith(f"{name}.") for id in rows), name
    assert all(id.partition(".")[0] in GRAPHS for id in rows)


def test_mom(rows: dict[str, Prediction]) -> None:
    """5 states x 4 heads x 256 x 256 x 24 layers; plain attention caches 2 x 1024 values a token."""
    assert rows["mom.state_MiB"].value == 5 * 4 * 256 * 256 * 24 * 2 / 2**20 == 60
    assert rows["mom.breakeven_tokens"].value == 5 * 4 * 256 * 256 / 2048 == 640
    # Of what plain attention reads, a step moves 3 of 5 states twice: no less in all.
    assert 2 * 3 / 5 * 640 / 4096 < rows["mom.step_time_over_attention.4k"].value < 1


def test_momamba(rows: dict[str, Prediction]) -> None:
    """Layers of width 2,048: projections twice, all else once; a mixed batch reads both sets."""
    hidden, inner, states, rank = 2048, 4096, 16, 128
    big = 3 * hidden * inner + inner * (rank + 2 * states) + rank * inner
    small = inner * (4 + 1) + inner + inner * (states + 1)
    ends = hidden / 48  # the last norm, over the layers
    whole = (2 * big + small + hidden + ends) / (big + small + hidden + ends)
    assert rows["momamba.params_ratio"].value == pytest.approx(whole, rel=1e-9)
    memory = load_system("h100-x1").device.memory
    share = load_system("h100-x1").device.processors["xpu"].memory_efficiency
    second = 48 * 2 * big / (memory.bandwidth_bytes_per_s * share)
    more = rows["momamba.batch_time.mixed"].value - rows["momamba.batch_time.text"].value
    assert more * 1e-3 == pytest.approx(second, rel=1e-6)


def test_uoe(rows: dict[str, Prediction]) -> None:
    """Half of the matmuls and a router of 8; scores of 1,024 tokens see half, and their own token."""
    n, d = 1024, 512
    router, mlp = 2 * d * 8, 2 * 2 * d * 2048
    projections, pairs = 2 * 4 * d * d, (n + 1) / 2
    scores = 4 * d * pairs
    some = 4 * d / 2 * (1 + (pairs - 1) / 2)
    found = {name: rows[f"uoe.flop_share{name}"].value for name in (".mlp", ".attention", "")}
    ours = (mlp / 2 + router, projections / 2 + some + router)
    assert found[".mlp"] == pytest.approx(ours[0] / mlp)
    assert found[".attention"] == pytest.approx(ours[1] / (projections + scores))
    assert found[""] == pytest.approx(sum(ours) / (mlp + projections + scores))


def test_reproduce_shows_predictions_and_a_figure() -> None:
    result = reproduce("moe-graphs", seeds=(0,), figures=True)
    assert {row.status for row in result.table} == {"prediction"}
    assert set(figures_of(result)) == {"ratios"}
