"""Do an op's FLOP, bytes and joules agree with a count by hand, for one op of each kind?

The batch is small enough to count on paper: two decodes that read 11 and 21 keys (the new one
among them), and a prompt's chunk of 4 tokens after 6 that are in the cache.

    tokens 2 + 4 = 6, decode keys 11 + 21 = 32, chunk keys 10,
    query-key pairs of the chunk 7 + 8 + 9 + 10 = 34, its whole score matrix 4 x 10 = 40

All values have 2 bytes. Energy: 3 pJ a byte of weights and KV, 5 pJ a byte of inputs and outputs,
2 pJ a FLOP, 7 pJ a byte over a link.
"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.devices.cost import Roofline
from opbyte.devices.link import LinkModel
from opbyte.devices.spec import LinkSpec
from opbyte.simulator.deploy.programs import all_reduce
from opbyte.workloads.batch import Batch
from opbyte.workloads.layers import (
    Attention,
    GatedDeltaNet,
    Indexer,
    KimiDelta,
    Mamba2,
    MixtureOfExperts,
    Run,
    SparseLatentAttention,
)
from opbyte.workloads.layers.linear_state import _scan
from opbyte.workloads.layers.mla import LatentAttention
from opbyte.workloads.layers.streamed import Sums, encoder_rates, hyper_ops, streamed
from opbyte.workloads.layers.vit import BidirectionalAttention
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import OP_KINDS, Loads, Op

FLASH = Run(Numerics())
MOMENTS = Batch.of([10, 20], [(4, 6)]).moments((0,))
IMAGE = Batch.of([], [(5, 0)]).moments((0,))
GQA = Attention(hidden=8, heads=4, kv_heads=2, head_dim=2)
MLA = LatentAttention(hidden=8, heads=2, q_rank=0, kv_rank=4, nope_dim=3, rope_dim=2, v_dim=3)
WIDE = Batch.of([10, 20], [(4, 6)]).moments((-8, 0, 8))
SPARSE = SparseLatentAttention(
    LatentAttention(hidden=8, heads=2, q_rank=3, kv_rank=4, nope_dim=3, rope_dim=2, v_dim=3), Indexer(2, 4, 8)
)
NET = GatedDeltaNet(8, key_heads=1, value_heads=2, key_dim=2, value_dim=2, d_conv=4)
KDA = KimiDelta(8, heads=2, head_dim=2, d_conv=4, state_format="bf16")
SCAN = Mamba2(8, heads=2, head_dim=2, groups=1, d_state=2, d_conv=4)
MOE = MixtureOfExperts(hidden=8, experts=4, top_k=2, width=6)
LOADS = Loads(np.array([5.0, 4.0, 3.0, 0.0]), np.ones(4))
"""6 tokens of 2 experts each: 12 pairs on three experts; the fourth stays in memory."""
DEVICE = Roofline(
    peak={"bf16": 1e12, "fp8": 1e12}, bandwidth=1e12, compute_efficiency=1.0, memory_efficiency=1.0,
    fixed_s=0.0, stream_J_per_byte=3e-12, act_J_per_byte=5e-12, J_per_flop={"bf16": 2e-12, "fp8": 2e-12},
)  # fmt: skip

from ..tables import tables

OPS: dict[str, Op] = {
    **{op.name: op for op in GQA.ops(MOMENTS, FLASH, None)},
    **{name: GQA.ops(MOMENTS, Run(Numerics(), name), None)[2] for name in ("fused-softmax", "unfused")},
    **{op.name: op for op in MLA.ops(MOMENTS, FLASH, None) if op.kind.startswith("mla")},
    **{op.name: op for op in MOE.ops(MOMENTS, FLASH, LOADS)},
    **{op.name: op for op in _scan("mamba", MOMENTS, FLASH, 10, 6, 12)},
    **{op.name: op for op in SPARSE.ops(WIDE, FLASH, None) if op.kind.startswith(("index", "sparse"))},
    **{
        op.name: op
        for net in (KDA, SCAN, NET)
        for op in net.ops(MOMENTS, FLASH, None)
        if op.kind.startswith(("delta", "kda", "scan", "conv"))
    },
    **{op.name: op for op in hyper_ops(8, 2, MOMENTS, FLASH)},
    "tower": streamed(
        "tower",
        "vision",
        "encoder_attention",
        "prefill",
        FLASH,
        Sums(1.0, 5.0, 25.0, 5.0),
        encoder_rates(2, 4),
        act=encoder_rates(2, 4).bytes(Sums(1.0, 5.0, 25.0, 5.0)),
    ),
    "image": BidirectionalAttention(hidden=8, heads=2, head_dim=4).ops(IMAGE, FLASH, None)[1],
}

COUNTED = tables(__file__)["counted"]


@pytest.mark.parametrize(("name", "flops", "weights", "read", "written", "act"), COUNTED)
def test_flop_bytes_and_joules(name: str, flops: int, weights: int, read: int, written: int, act: int) -> None:
    op = OPS[name]
    assert op.flops == flops
    assert (op.weight_bytes, op.kv_read_bytes, op.kv_write_bytes) == (weights, read, written)
    assert op.act_bytes == act
    joules = DEVICE.cost(op).joules
    assert joules["compute"] == pytest.approx(2e-12 * flops, rel=1e-12)
    stream = weights + read + written
    assert joules["dram"] == pytest.approx(3e-12 * stream + 5e-12 * act, rel=1e-12)


def test_every_kind_of_op_is_counted() -> None:
    assert {OPS[row[0]].kind for row in COUNTED} == set(OP_KINDS)


def test_stored_formats_by_hand() -> None:
    """FP4 in blocks: 32 values of 4 bits with 8 bits (MX), 16 with 8 (NVFP4); fp8 by 128 x 128."""
    for dtype, bits in (("mxfp4", (32 * 4 + 8) / 32), ("nvfp4", (16 * 4 + 8) / 16),
                        ("fp8_block", (128 * 128 * 8 + 32) / 128**2), ("fp8", 8)):  # fmt: skip
        run = Run(Numerics(weights=(("experts", dtype),)))
        assert MOE.expert_op(LOADS, run).weight_bytes == pytest.approx(3 * 144 * bits / 8, rel=1e-12)


def test_collective_by_hand() -> None:
    """Ring among 4: each device sends 2 x 3/4 of 6 tokens x 8 values x 2 B, in 6 hops."""
    link = LinkSpec(name="a", bandwidth_bytes_per_s=1e9, latency_s=1e-6, energy_J_per_byte=7e-12)
    op = all_reduce("mixer", 6, 8, 4, FLASH)
    assert op.act_bytes == 96
    cost = LinkModel(link, 4).cost(op)
    assert cost.seconds == pytest.approx(1.5 * 96 / 1e9 + 6e-6, rel=1e-12)
    assert cost.joules == {"link": pytest.approx(1.5 * 96 * 7e-12, rel=1e-12)}
