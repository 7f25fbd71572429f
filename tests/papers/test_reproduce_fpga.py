"""Do M3ViT's rows hold, and do Edge-MoE's predictions agree with their closed forms?

Closed forms are those derived from both papers in docs/fpga.md: constants fitted to M3ViT's
Table 4, and counts from Edge-MoE's source. They check the engine; nothing is computed with them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import Reproduction, Row
from opbyte.devices.catalog import load_device
from opbyte.workloads.catalog import load_model
from opbyte.workloads.vit_requests import make_image_router, queue_lengths


@pytest.fixture(scope="module")
def m3vit() -> Reproduction:
    return reproduce("m3vit", seeds=(0,))


@pytest.fixture(scope="module")
def edge_moe() -> dict[str, Row]:
    result = reproduce("edge-moe", seeds=(0,))
    assert result.to_dict() == reproduce("edge-moe", seeds=(0,)).to_dict()
    return {row.id: row for row in result.table}


def value(result: Reproduction, id: str) -> float:
    found = next(row.simulated for row in result.table if row.id == id)
    assert found is not None
    return found


def test_every_row_of_m3vit_holds(m3vit: Reproduction) -> None:
    wanted = {"T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T15"}
    assert {row.id.split(".")[0] for row in m3vit.table} == wanted
    failed = [row for row in m3vit.table if row.status == "fail"]
    assert not failed
    judged = [row for row in m3vit.table if row.status == "pass"]
    assert {row.id.split(".")[0] for row in judged} == wanted


def test_the_other_data_set_is_predicted(m3vit: Reproduction) -> None:
    """By multiply-accumulates alone the ratio would be 1.2331; the table says 1.2247."""
    ratio = value(m3vit, "T4.nyud.dense") / value(m3vit, "T4.pascal.dense")
    assert ratio == pytest.approx(1.2331, rel=0.003)
    assert value(m3vit, "T4.pascal.dense") == pytest.approx(68.931, rel=1e-4)


def test_the_fit_stands_in_the_device() -> None:
    from opbyte.analysis.papers.fpga import fit_utilisation

    fitted = fit_utilisation("vit-small-pascal", "zcu104", 68.931e-3)
    stored = load_device("zcu104")[0].processors["fabric"].compute_efficiency
    assert stored == pytest.approx(fitted, abs=5e-5)


@pytest.mark.parametrize(("name", "tokens"), [("pascal", 1025), ("nyud", 1201)])
def test_latencies_against_the_fitted_closed_form(m3vit: Reproduction, name: str, tokens: int) -> None:
    """T_d = (a N + b N^2) / f, plus 5 cycles a token in each of 6 MoE layers; cache: m = 3.

    The form has two more fitted constants than the engine: 1 % apart (the engine's NYUD error).
    """
    dense = (14863.6 * tokens + 5.1818 * tokens**2) / 300e3
    reordered = dense + 6 * tokens * 5 / 300e3
    assert value(m3vit, f"T4.{name}.dense") == pytest.approx(dense, rel=0.01)
    assert value(m3vit, f"T4.{name}.reordered") == pytest.approx(reordered, rel=0.01)
    cached = dense + 6 * tokens * (5 + 3 * 9240) / 300e3
    published = {"pascal": 9.234, "nyud": 8.878}[name]
    assert cached / reordered == pytest.approx(published, rel=0.01)  # T1's consistency check
    # The engine's cache misses more often than 3 times a token: distinct experts of one token
    # push each other out. 1 + (16.7 % of 4 visits hit) turns the closed form into the engine's.
    misses = dense + 6 * tokens * (5 + 3.33 * 9240) / 300e3
    assert value(m3vit, f"T1.{name}.latency") == pytest.approx(misses / reordered, rel=0.01)


def test_where_independence_of_experts_ends(m3vit: Reproduction) -> None:
    """Queues of 48 hide a load: the mean queue 4 x 1025 / E falls below that above 85 experts."""
    bend = value(m3vit, "T8.bend")
    assert 70 <= bend <= 85  # below 85: some queues are shorter than the mean
    assert value(m3vit, "T8") == pytest.approx(1, abs=0.01)
    assert value(m3vit, "T8.far") > 1.2


def test_a_switch_costs_nothing_reordered_and_something_cached(m3vit: Reproduction) -> None:
    assert value(m3vit, "T7") == 0
    assert 0 < value(m3vit, "T7.cache") <= 6 * 4 * 9240


def test_edge_moe_is_predicted(edge_moe: dict[str, Row]) -> None:
    assert {
        "latency_ms", "attention_share", "linear_share", "fps", "energy_j", "ddr_bytes_per_image",
        "no_reorder_latency_ms", "attention_without_reorder_latency_ms",
    } <= set(edge_moe)  # fmt: skip
    assert {row.status for row in edge_moe.values()} == {"prediction"}
    assert {row.published for row in edge_moe.values()} == {None}


def expected_cycles() -> dict[str, float]:
    """Cycles of Edge-MoE's units by hand: N 129, C 192, 128-bit ports under 256-bit words."""
    n, stretch, latency = 129, 2, 64
    linear = n * (192 // 16) * (192 // 16)
    attention = 2 * math.ceil((n + 3) / 4) * n * (192 // 8) * stretch
    router = make_image_router("uniform", tasks=2, layers=6, experts=16, top_k=2, seed=0)
    load = latency + 192 * 384 * 2 / 32 * stretch
    moe, in_order = 0.0, 0.0
    for layer in range(6):
        queues = queue_lengths(router.sequence(0, 0, layer, n), 16)
        visits = np.repeat(queues[queues > 0] * 12.0 * 24, 2)
        moe += load + np.maximum(visits[:-1], load).sum() + visits[-1]
        in_order += 2 * n * (latency + 2 * (load - latency) + 2 * 12 * 24)
    once = 18496 + 73728 + 25 * n * 150 + 6 * n * 170  # embedding, norms, gates
    return {
        "linear": 12 * 4 * linear + 6 * 8 * linear + moe,
        "attention": 12 * attention,
        "total": once + 12 * 4 * linear + 6 * 8 * linear + moe + 12 * attention,
        "in order": once + 12 * 4 * linear + 6 * 8 * linear + in_order + 12 * attention,
    }


def test_edge_moe_against_its_closed_form(edge_moe: dict[str, Row]) -> None:
    def got(id: str) -> float:
        return edge_moe[id].simulated or 0.0

    expected = expected_cycles()
    ms = {name: cycles / 300e3 for name, cycles in expected.items()}
    assert got("latency_ms") == pytest.approx(ms["total"], rel=0.005)
    assert got("no_reorder_latency_ms") == pytest.approx(ms["in order"], rel=0.005)
    assert got("attention_share") == pytest.approx(ms["attention"] / ms["total"], rel=0.005)
    assert got("linear_share") == pytest.approx(ms["linear"] / ms["total"], rel=0.005)
    assert got("attention_without_reorder_latency_ms") == pytest.approx(12 * 2 * 129 * 129 * 24 * 2 / 300e3, rel=0.005)
    assert got("fps") == pytest.approx(1e3 / got("latency_ms"))
    assert got("energy_j") == pytest.approx(14.54 * got("latency_ms") / 1e3)


def test_edge_moe_traffic_by_hand(edge_moe: dict[str, Row]) -> None:
    """Weights of every expert visited, keys and values once a group of 4 queries."""
    weights = 2 * (12 * 4 * 192**2 + 6 * 2 * 192 * 768 + 6 * 16 * 2 * 192 * 384 + 768 * 192)
    keys = 12 * 2 * 33 * 129 * 192 * 4
    total = edge_moe["ddr_bytes_per_image"].simulated or 0.0
    activations = total - weights - keys
    tensor = 129 * 192 * 4
    assert weights + keys == pytest.approx(0.75 * total, rel=0.1)
    # A layer: two norms, QKV, scores, projection, dense or two experts' hidden: 25 to 45 tensors.
    assert 12 * 25 * tensor < activations < 12 * 45 * tensor


def test_parameters_by_hand() -> None:
    """Attention 591,360; dense MLP 1,181,568; expert 295,680; two norms of 768 a layer."""
    once = 768 * 384 + 384 + 1025 * 384 + 384 + 768
    layer = 4 * 384 * 384 + 4 * 384 + 2 * 768
    dense = once + 12 * (layer + 2 * 384 * 1536 + 1536 + 384)
    expert = 2 * 384 * 384 + 2 * 384
    assert expert == 295_680
    moe = once + 12 * layer + 6 * (2 * 384 * 1536 + 1920) + 6 * (16 * expert + 5 * 16 * 384)
    assert load_model("vit-small-pascal").total_params == dense
    assert load_model("m3vit-pascal").total_params == moe
