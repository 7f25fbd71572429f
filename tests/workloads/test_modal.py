"""Projections by modality: counts by hand, one modality is the plain layer, routing by shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Mamba, ModalMamba, Run
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads
from opbyte.workloads.routing import make_router

RUN = Run(Numerics())
BASE = Mamba(1024, 2048, 16, 4, 64)
M = Batch.of([10, 20], [(30, 0)]).moments((0,))


def test_one_modality_is_the_plain_layer_exactly() -> None:
    one = ModalMamba(BASE, 1)
    assert one.routed is None
    assert one.ops(M, RUN, None) == BASE.ops(M, RUN, None)
    assert (one.weights(), one.state()) == (BASE.weights(), BASE.state())


def test_two_modalities_by_hand() -> None:
    """FLOPs and activations of the plain projections; weights of the modalities that are there."""
    ours = ModalMamba(BASE, 2)
    plain = [op for op in BASE.ops(M, RUN, None) if op.kind == "gemm"]
    for loads in (Loads(np.array([32.0]), np.array([1.0])), Loads(np.array([16.0]), np.array([2.0]))):
        ops = ours.ops(M, RUN, loads)
        rest = [op for op in ops[1:] if not op.name.endswith("_permute")]
        assert rest == [op for op in BASE.ops(M, RUN, None) if op.kind != "gemm"]
        permuted = {op.name: op.act_bytes for op in ops if op.name.endswith("_permute")}
        assert permuted == {f"{op.name}_permute": 2 * op.act_bytes for op in plain}
        assert ops[0].flops == sum(op.flops for op in plain)
        assert ops[0].act_bytes == sum(op.act_bytes for op in plain)
        assert ops[0].weight_bytes == loads.active * sum(op.weight_bytes for op in plain)
    big, small = BASE.weights()
    assert sum(w.total for w in ours.weights()) == 2 * big.total + small.total
    assert sum(w.active for w in ours.weights()) == big.total + small.total
    assert ours.shard(2).base == BASE.shard(2)


def test_refused() -> None:
    with pytest.raises(InputError, match="modalities: must be at least 1, not 0"):
        replace(ModalMamba(BASE, 2), modalities=0)


@pytest.mark.parametrize("shares", ["1,0", "0,1"])
def test_one_modality_alone_loads_one_expert(shares: str) -> None:
    router = make_router(f"modality:{shares}", layers=3, experts=2, top_k=1, seed=0)
    only = [float(share) for share in shares.split(",")]
    for tokens in (1, 40, 5000):
        for layer in range(3):
            loads = router.loads(0, layer, Batch.of([9] * tokens))
            assert loads.tokens.tolist() == [tokens * share for share in only]
            expected = router.expected(layer, float(tokens))
            assert (expected.tokens * expected.experts).tolist() == pytest.approx([tokens * share for share in only])


@pytest.mark.parametrize(
    ("routing", "said"),
    [("modality", "write modality:SHARE,SHARE"), ("modality:0,0", "needs shares from 0 on, not all 0"),
     ("modality:a,1", "needs shares from 0 on"), ("modality:-1,2", "needs shares from 0 on"),
     ("modality:1,1,1", "has 3 shares; parts of the model have 2 experts"),
     ("modality:nan,1", "needs shares from 0 on"), ("modality:inf,1", "needs shares from 0 on")],
)  # fmt: skip
def test_bad_shares_are_one_line(routing: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        make_router(routing, layers=2, experts=2, top_k=1, seed=0)
    assert said in str(error.value)
