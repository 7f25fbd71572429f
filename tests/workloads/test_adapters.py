"""Do adapters, recurrent routers and merged experts count as their closed forms, and fall back to plain layers?

Closed forms: LoRA has ``rank x (inputs + outputs)`` weights a matrix (arXiv 2106.09685); MixLoRA's optimised
block takes 2/3 + 2 x 1/3 of a block's FLOPs where a plain one takes 2 (arXiv 2404.15159, section 3.3);
RMoE's router has ``l p (h + E) + 6 p^2`` (arXiv 2408.06793); MoDE's merged experts those of top-k
(arXiv 2412.12953).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.layers import (
    AdapterExperts,
    Attention,
    FeedForward,
    LayerKind,
    LowRank,
    Mamba,
    MergedExperts,
    MixtureOfExperts,
    PooledAdapter,
    RankExperts,
    RecurrentExperts,
    Run,
)
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads, Op

RUN = Run(Numerics())
MODEL = load_model("llama-2-7b")
MIXER, BLOCK = MODEL.layers[0].mixer, MODEL.layers[0].ffn
assert isinstance(MIXER, Attention)
assert isinstance(BLOCK, FeedForward)
SMALL = FeedForward(64, 256)

batches = st.builds(
    Batch.of, st.lists(st.integers(0, 99), max_size=4),
    st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99)), min_size=1, max_size=3),
)  # fmt: skip


def even(tokens: float, experts: int, top_k: int) -> Loads:
    return Loads(np.array([tokens * top_k / experts]), np.array([float(experts)]))


def flops(ops: Sequence[Op], vectors: bool = False) -> float:
    return sum(op.flops for op in ops if vectors or op.kind != "elementwise")


def total(part: LayerKind) -> int:
    return sum(w.total for w in part.weights())


def test_lora_on_llama_2_7b_has_2_4986_million_weights_a_rank() -> None:
    own = LowRank(MIXER, 64).pair + LowRank(BLOCK, 64).pair
    assert own * 32 == 64 * 2_498_560
    assert total(LowRank(BLOCK, 64, adapters=5)) == total(BLOCK) + 5 * LowRank(BLOCK, 64).pair


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (LowRank(BLOCK, 0), BLOCK),
        (LowRank(MIXER, 0, adapters=3), MIXER),
        (RankExperts(MIXER, 16, 16), LowRank(MIXER, 16)),
        (PooledAdapter(BLOCK, 16, 16), LowRank(BLOCK, 16)),
        (AdapterExperts(BLOCK, 1, 1, 16), LowRank(BLOCK, 16)),
        (AdapterExperts(BLOCK, 1, 1, 16, base_once=False), LowRank(BLOCK, 16)),
        (RecurrentExperts(64, 8, 2, 128, router_width=0), MixtureOfExperts(64, 8, 2, 128)),
        (MergedExperts(64, 1, 1, 256), SMALL),
    ],
)
@given(batch=batches)
def test_the_plain_layer_is_a_case_of_each_kind(kind: LayerKind, plain: LayerKind, batch: Batch) -> None:
    """Rank 0, every rank, nothing shared, one expert, no state: ops and weights to the last bit."""
    m = batch.moments((0,))
    loads = None if plain.routed is None else even(m.tokens, 8, 2)
    assert (kind.routed, kind.state()) == (plain.routed, plain.state())
    assert repr(kind.ops(m, RUN, loads)) == repr(plain.ops(m, RUN, loads))
    assert total(kind) == total(plain)
    assert sum(w.active for w in kind.weights()) == sum(w.active for w in plain.weights())


def test_several_adapters_do_the_work_of_one_and_read_what_is_used() -> None:
    """However requests choose, FLOPs are those of one adapter; bytes of weights are those of the distinct."""
    batch = Batch.of([10] * 12)
    m = batch.moments((0,))
    one = flops(LowRank(BLOCK, 16).ops(m, RUN, None))
    many = LowRank(BLOCK, 16, adapters=6)
    for loads in (even(12, 6, 1), Loads(np.array([12.0]), np.array([1.0]))):
        assert flops(many.ops(m, RUN, loads)) == pytest.approx(one, rel=1e-12)
        assert many.expert_op(loads, RUN).weight_bytes == 2 * many.pair * loads.active


@given(tokens=st.integers(1, 500), top_k=st.integers(1, 4))
def test_mixloras_optimised_block_saves_gate_and_up_of_all_but_one_expert(tokens: int, top_k: int) -> None:
    m = Batch.of([5] * tokens).moments((0,))
    loads, one = even(tokens, 8, top_k), 2.0 * tokens * SMALL.hidden * SMALL.width
    for once, matrices in ((True, 2 + top_k), (False, 3 * top_k)):
        part = AdapterExperts(SMALL, 8, top_k, 4, base_once=once)
        own = 2.0 * tokens * top_k * part.pair
        router = 2.0 * tokens * 8 * SMALL.hidden
        assert flops(part.ops(m, RUN, loads)) == pytest.approx(one * matrices + own + router)
        kernels = part.kernels([tokens * top_k / 8] * 8, RUN)
        assert flops(kernels) == pytest.approx(flops(part.ops(m, RUN, loads)))


def test_smoras_share_of_an_adapter_is_that_of_its_ranks() -> None:
    part, m = RankExperts(BLOCK, 64, 8), Batch.of([9] * 32).moments((0,))
    adapter = flops(LowRank(BLOCK, 64).ops(m, RUN, None)) - flops(BLOCK.ops(m, RUN, None))
    assert part.expert_op(even(32, 64, 8), RUN).flops == pytest.approx(adapter / 8)
    assert part.gathered_bytes(32, RUN) == 32 * 8 * 2 * LowRank(BLOCK, 1).pair


def test_a_pool_stores_its_rank_and_runs_the_assembled_one() -> None:
    part, m = PooledAdapter(BLOCK, 64, 8), Batch.of([9]).moments((0,))
    assert total(part) - total(BLOCK) == LowRank(BLOCK, 8).pair
    assert part.ops(m, RUN, None) == LowRank(BLOCK, 64).ops(m, RUN, None)
    moved = sum(op.act_bytes for op in part.assembly(RUN))
    assert moved == 2 * 2 * LowRank(BLOCK, 64).pair
    with pytest.raises(InputError, match=r"must be in \[1, 64\], not 65"):
        PooledAdapter(BLOCK, 64, 65)


def test_rmoes_router_has_a_matrix_a_layer_and_one_cell() -> None:
    first = RecurrentExperts(352, 16, 2, 704, router_width=128, owns_cell=True)
    others = replace(first, owns_cell=False)
    weights = first.router_weights + 7 * others.router_weights
    assert weights == 8 * 128 * (352 + 16) + 6 * 128**2
    m = Batch.of([3] * 10).moments((0,))
    by_hand = 2 * 10 * (128 * (352 + 16) + 6 * 128**2)
    assert flops(others.router_ops(m.tokens, RUN)) == by_hand
    assert flops(first.ops(m, RUN, even(10, 16, 2))) - by_hand == pytest.approx(
        flops(MixtureOfExperts(352, 16, 2, 704).ops(m, RUN, even(10, 16, 2))) - 2 * 10 * 16 * 352
    )


def test_merged_experts_cost_what_top_k_cost_and_levels_take_memory() -> None:
    merged, m = MergedExperts(64, 4, 2, 256, levels=10), Batch.of([3] * 7).moments((0,))
    routed = MixtureOfExperts(64, 4, 2, 256)
    assert flops(merged.ops(m, RUN, None)) == routed.expert_op(even(7, 4, 2), RUN).flops
    assert total(merged) == (4 + 10 * 2) * 3 * 64 * 256


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_tensor_parallel_splits_the_base_and_one_side_of_a_pair(tp: int) -> None:
    for part in (LowRank(BLOCK, 8), RankExperts(BLOCK, 8, 8), PooledAdapter(BLOCK, 8, 8)):
        held = total(part.shard(tp)) - total(BLOCK.shard(tp))
        assert held == 8 * (3 * BLOCK.hidden + 3 * BLOCK.width // tp)


def test_a_kind_without_matrices_of_its_own_takes_no_adapter() -> None:
    mamba = next(layer.mixer for layer in load_model("jamba-mini").layers if isinstance(layer.mixer, Mamba))
    with pytest.raises(InputError, match="layer kind mamba: has no linear layers"):
        LowRank(mamba, 8).weights()  # type: ignore[arg-type]


def written(mixer: dict[str, object]) -> dict[str, object]:
    layer = {"mixer": mixer, "ffn": {"kind": "rmoe", "experts": 4, "top_k": 2, "width": 64}}
    return {"architectures": ["LayerList"], "hidden_size": 64, "vocab_size": 100, "layers": [layer]}


def test_adapters_are_written_around_what_they_join() -> None:
    base = {"kind": "attention", "heads": 4, "kv_heads": 4, "head_dim": 16}
    keys = written({"kind": "smora", "rank": 8, "top_k": 2, "base": base})
    model = model_from_keys(keys, name="x", where="x.json")
    assert model.layers[0].mixer == RankExperts(Attention(64, 4, 4, 16), 8, 2)
    mamba = {"kind": "mamba", "inner": 64, "d_state": 4, "d_conv": 2, "dt_rank": 4}
    bad = written({"kind": "lora", "rank": 8, "base": mamba})
    with pytest.raises(InputError, match="must be a kind that names its matrices, not mamba"):
        model_from_keys(bad, name="x", where="x.json")
    none = written({"kind": "mos", "rank": 8, "pool_rank": 9, "base": base})
    with pytest.raises(InputError, match=r"pool_rank: must be in \[1, 8\], not 9"):
        model_from_keys(none, name="x", where="x.json")
