"""Does `reproduce fsmoe` hold where results are given, use none of them, and count layers right?

Expected values: results in analysis/papers/values/fsmoe.yaml; counts by the closed forms of
arXiv 2501.10714 (sections 4.1 and 6), f' = k f.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.papers import fsmoe, published
from opbyte.analysis.papers.fsmoe.layer import MIXTRAL, SIMPLE, Size, layers, ops_of, times_of
from opbyte.analysis.papers.fsmoe.schedules import DEGREES, SCHEMES, SHARED, schedule
from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import Reproduction, Row, figures_of

GIVEN = 10


@pytest.fixture(scope="module")
def result() -> Reproduction:
    return reproduce("fsmoe", figures=True)


@pytest.fixture(scope="module")
def rows(result: Reproduction) -> dict[str, Row]:
    assert len({row.id for row in result.table}) == len(result.table)
    return {row.id: row for row in result.table}


def test_given_rows_hold(rows: dict[str, Row]) -> None:
    assert set(published.published("fsmoe")["rows"]) <= set(rows)
    judged = [row for row in rows.values() if row.published is not None]
    assert len(judged) == GIVEN
    assert {row.status for row in judged} == {"pass"}
    assert all(row.note for row in judged)


def test_every_prediction_that_is_asked_for_is_there(rows: dict[str, Row]) -> None:
    wanted = [
        f"{bed}.{name}"
        for bed in ("B", "B.shared")
        for name in ("mean_improved_vs_tutel", "mean_noiio_vs_tutel", "mean_vs_tutel")
    ]
    wanted.remove("B.shared.mean_improved_vs_tutel")
    wanted += [f"model.mean_vs_{name}" for name in ("tutel", "improved", "noiio")]
    wanted += [f"A.L{length}.vs_tutel" for length in (512, 1024, 2048)]
    wanted += [f"ops.A.mixtral.{name}" for name in ("a2a", "rs", "ar")]
    wanted += ["ops.B.mixtral.a2a", "A.free.mean_vs_tutel", "B.degree_differs"]
    assert {f"fsmoe.{name}" for name in wanted} <= set(rows)
    assert 0.0 <= rows["fsmoe.B.degree_differs"].simulated <= 1.0  # type: ignore[operator]


def test_nothing_simulated_reads_what_is_published(rows: dict[str, Row], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Any) -> Any:
        raise AssertionError("published values were read")

    monkeypatch.setattr(published, "VALUES", Path("nowhere"))
    monkeypatch.setattr(fsmoe, "published", missing)
    found = {row.id: row.value for row in fsmoe.predictions()}
    assert found == {id: row.simulated for id, row in rows.items()}
    for name in ("layer", "schedules"):
        text = Path(fsmoe.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        assert "import published" not in text
        assert "..base" not in text


@pytest.mark.parametrize("matrices", [SIMPLE, MIXTRAL])
def test_counts_of_a_layer_by_hand(matrices: int) -> None:
    size = Size(4, 1024, 2048, 6144, 2.4, matrices, 16)
    layout, tokens, routed = fsmoe.A.layout, 4 * 1024, 2 * 2.4 * 4 * 1024
    ops = ops_of(size, layout)
    values = {name: op.act_bytes / 4 for name, op in ops.items() if op.layer == "communication"}
    assert values == pytest.approx({
        "dispatch": routed * 2048, "gather": routed * 2048, "scatter": routed * 2048,
        "mp_gather": tokens * 2048, "mp_scatter": tokens * 2048,
        "gradient": {SIMPLE: 4.0, MIXTRAL: 2.5}[matrices] * 2048**2 / 8,
    })  # fmt: skip
    assert ops["experts"].flops == pytest.approx(2 * matrices * routed * 2048 * 6144 / 8)
    attention = (4 * tokens * 2048**2 + 2 * 4 * 1024**2 * 2048) / 8
    assert ops["attention"].flops == pytest.approx(2 * attention)


def test_there_are_1458_layers_of_486_sizes() -> None:
    for testbed in (fsmoe.A, fsmoe.B):
        sizes = layers(testbed)
        assert len(sizes) == 1458
        assert len({replace(size, heads=0) for size in sizes}) == 486
    few = [replace(sizes[0], heads=heads) for heads in (8, 32)]
    one, other = (times_of([size], fsmoe.B) for size in few)
    assert all(one.of(name) == other.of(name) for name in one.alpha)


def test_freer_schedules_are_never_slower() -> None:
    """More streams and more places for the gradient can only help where links are free."""
    sizes = layers(fsmoe.A)[::97]
    times = times_of(sizes, fsmoe.A)
    found = {name: schedule(name, times) for name in SCHEMES}
    for slower, faster in (("tutel", "improved"), ("noiio", "fsmoe")):
        assert (found[faster].seconds <= found[slower].seconds * (1 + 1e-9)).all()
    shared = schedule("fsmoe", times, (SHARED,))
    assert (shared.seconds >= found["fsmoe"].seconds * (1 - 1e-9)).all()
    assert set(np.unique(found["fsmoe"].forward)) <= set(DEGREES)


def test_figures_and_tables(result: Reproduction) -> None:
    drawn = figures_of(result)
    assert set(drawn) == {"given", "schedules", "streams-tutel", "streams-fsmoe"}
    assert {table.name for table in result.tables} == {"gains", "ops"}
    assert len(result.tables[0].rows) == 5 * 3
    for row in result.tables[1].rows:  # lines by op times do agree with op times
        assert row["lines_by_times_ms"] == pytest.approx(row["published_ms"], rel=0.12)
