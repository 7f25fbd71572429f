"""Does `reproduce hecate` hold where results are given, use none of them, and lose no token or byte?

Expected values: results in analysis/papers/values/hecate.yaml; counts by hand from arXiv 2502.02581,
sections 2 to 4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.papers import hecate, published
from opbyte.analysis.papers.hecate import (
    CLUSTERS,
    EP,
    HECATE,
    SHAPES,
    LayerTimes,
    both,
    memory_over_ep,
    model_of,
    tasks,
    trained,
)
from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import figures_of
from opbyte.simulator.streams import run
from opbyte.workloads.layers import MixtureOfExperts

A16 = CLUSTERS[0]
ROUTING = "power_law:0.6"


def test_rows_figures_and_tables() -> None:
    result = reproduce("hecate", figures=True)
    rows = {row.id: row for row in result.table}
    given = published.published("hecate")["rows"]
    assert set(given) <= set(rows)
    judged = {name: row for name, row in rows.items() if row.published is not None}
    assert set(judged) == set(given)
    assert {row.status for row in judged.values()} == {"pass"}
    for cluster in ("A32", "B32"):
        assert rows[f"hecate.{cluster}.gain.low"].status == "prediction"
        assert (
            rows[f"hecate.{cluster}.gain.low"].simulated <= rows[f"hecate.{cluster}.gain.high"].simulated  # type: ignore[operator]
        )
    assert rows["hecate.memory.rematerialised_over_ep"].published is None
    assert set(figures_of(result)) == {"given", "skew", "iteration"}
    assert [table.name for table in result.tables] == ["gains", "parts"]


def test_nothing_simulated_reads_what_is_published() -> None:
    text = Path(hecate.__file__).with_name("hecate.py").read_text(encoding="utf-8")
    assert "import published" not in text


def test_memory_by_hand() -> None:
    """2 bytes of weight, 2 of gradient, 12 of optimiser: section 2.3 says that the last are 6 times."""
    assert memory_over_ep(1.0) == 1.0
    assert memory_over_ep(5.73) == pytest.approx((12 + 2 + 2 * 5.73) / 16)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
def test_models_are_the_papers(shape: object) -> None:
    assert shape in SHAPES
    model = model_of(shape, 64)  # type: ignore[arg-type]
    (ffn,) = {layer.ffn for layer in model.layers}
    assert isinstance(ffn, MixtureOfExperts)
    assert (ffn.experts, ffn.top_k, ffn.matrices, ffn.width) == (64, 2, 2, 2 * ffn.hidden)
    assert len(model.layers) == shape.layers  # type: ignore[attr-defined]


def test_loads_and_bytes_by_hand() -> None:
    """Equal loads on 16 devices of 2 nodes: half of all copies cross, each node gets as many."""
    own = trained(SHAPES[0], A16, "power_law:0")
    part = own.deployment.experts[0]
    times, hot = own.layer(part, hecate=False)
    copies = 4 * 2048 * 16 * 2
    assert hot == 0
    assert times.gather == times.scatter == 0.0
    assert times.exchange - 5e-6 == pytest.approx(copies / 4 * 768 * 2 / 12.5e9)
    _, hot = own.layer(part, hecate=True)
    dense, _ = own.dense
    assert hot == int(dense * 12.5e9 / (2 * 768 * 1536 * 2))


def test_the_iteration_is_neither_above_its_sum_nor_below_a_stream() -> None:
    found = both(SHAPES[2], A16, ROUTING)
    for iteration in found.values():
        busy = iteration.timeline.busy()
        assert max(busy.values()) <= iteration.seconds <= sum(busy.values()) + 1e-12
        assert sum(iteration.timeline.exposed()) == pytest.approx(iteration.seconds)
    assert found[HECATE].seconds < found[EP].seconds
    assert min(found[HECATE].copies) > 0 == max(found[EP].copies)


def test_without_copies_tasks_are_one_after_another() -> None:
    one = LayerTimes(1.0, 2.0, 3.0, 6.0, 0.5)
    assert run(tasks([one, one], 4.0, 8.0).graph()).makespan == 2 * (1 + 2 + 3 + 6 + 4 * 0.5) + 12
    copied = LayerTimes(1.0, 2.0, 3.0, 6.0, 0.5, gather=0.75, scatter=0.75)
    hidden = run(tasks([copied, copied], 4.0, 8.0).graph()).makespan
    assert hidden <= 2 * (1 + 2 + 3 + 6 + 4 * 0.5) + 12 + 0.75  # the last scatter alone can stand out


def test_maps_of_a_layer_serve_every_token() -> None:
    own = trained(SHAPES[0], A16, ROUTING)
    from opbyte.simulator.deploy.expert_maps import flows
    from opbyte.simulator.deploy.expert_parts import sites_of
    from opbyte.simulator.parts.expert_map.placing import ExpertPlacing

    part = own.deployment.experts[0]
    placing = ExpertPlacing("fssdp", 4 * part.ep, "local")
    sites = sites_of(part, placing, own.layout.serving, own.deployment.system)
    popular = part.router.inclusion[part.row]
    placed = placing.placed(popular, sites, 0)
    sent = flows(placed.map, placed.rule, popular * own.tokens)
    assert sent.sum() == pytest.approx(2 * own.tokens)
    assert sent.sum(axis=0) == pytest.approx(placed.group_loads(popular * own.tokens))
    assert sent.sum(axis=1) == pytest.approx(np.full(16, 2 * own.tokens / 16))
    away = sent.sum() - np.trace(sent)
    assert away == pytest.approx(float(popular @ placed.away) * own.tokens)
