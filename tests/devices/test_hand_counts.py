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

COUNTED = [
    # name, FLOP, bytes of weights, of KV read, of KV written, of inputs and outputs
    # 16 columns: (4 + 2 + 2) heads of 2.  2 x 6 x 16 x 8 | 16 x 8 x 2 | 6 x (8 + 16) x 2
    ("qkv", 1536, 256, 0, 0, 288),
    # 4 + 2 heads of 2 = 12 columns, read and written.  2 x 6 x 12 | that x 2
    ("rope", 144, 0, 0, 0, 288),
    # scores and sums: 4 x 8 x 34 | a key is 2 x 4 values: 16 B x 10 | x 4 | Q and out 2 x 8 x 4 x 2
    ("attention_prefill", 1088, 0, 160, 64, 128),
    # the whole matrix: 4 x 8 x 40 | beside those, 4 heads x 40 scores written and read twice, 2 B
    ("unfused", 1280, 0, 160, 64, 128 + 1280),
    # once where softmax is no kernel of its own
    ("fused-softmax", 1280, 0, 160, 64, 128 + 640),
    # 4 x 8 x 32 | 16 x 32 | 16 x 2 | 2 x 8 x 2 x 2
    ("attention_decode", 1024, 0, 512, 32, 64),
    # 2 x 6 x 8 x 8 | 8 x 8 x 2 | 6 x 16 x 2
    ("out", 768, 128, 0, 0, 192),
    # (3 + 2) + 3 = 8 wide, 2 heads: 2 x 16 x 34 | latent 6 values: 12 B x 10 | x 4
    # queries, keys, values and outputs of 8 in all: 2 x 8 x 2 B = 32 B x (4 + 10)
    ("mla_prefill", 1088, 0, 120, 48, 448),
    # scores over 6, sums over 4: 2 x 2 x 10 x 32 | 12 x 32 | 12 x 2 | 2 x 10 x 2 x 2
    ("mla_decode", 1280, 0, 384, 24, 80),
    # 2 x 6 x 4 x 8 | 4 x 8 x 2 | 6 x 12 x 2
    ("router", 384, 64, 0, 0, 144),
    # three matrices of 8 x 6 = 144: 2 x 12 x 144 | 3 experts x 144 x 2
    # inputs, gate, up and outputs: 12 x (8 + 8 + 3 x 6) x 2
    ("experts", 3456, 864, 0, 0, 816),
    # two outputs read and one written of 8 columns: 3 x 6 x 8 | that x 2
    ("combine", 144, 0, 0, 0, 288),
    # 10 x 4 | a state of 12 values read and written once | 6 in, 6 out: 12 x 4 x 2
    ("mamba_prefill", 40, 0, 24, 24, 96),
    ("mamba_decode", 20, 0, 48, 48, 48),
    # 2 heads of 4: 2 x 8 x 34 | keys of 4 + 4 B: x 10 | x 4 | queries 2 x 8 B x 4, scores 4 B x 34
    ("index_prefill", 544, 0, 80, 32, 64 + 136),
    # 16 x 32 | 8 x 32 | 8 x 2 | 16 x 2 + 4 x 32
    ("index_decode", 512, 0, 256, 16, 160),
    # every score of 34 + 32 read, 8 places of 4 B written for each of 6 tokens
    ("index_select", 32, 0, 0, 0, 4 * 32 + 2 * 32),  # the last of its name: of the decodes
    # 2 heads and a key of 4: 12 values, one and a half times read and written in 2 B, for 6 tokens
    ("index_rest", 72, 0, 0, 0, 216),
    # the best 8 of 7, 8, 9, 10: 31 pairs of 6 + 4 values and 2 heads | latent 12 B x 10 | x 4
    # queries and outputs of 10 values, 2 heads, 2 B: 40 x 4
    ("sparse_prefill", 1240, 0, 120, 48, 160),
    # 8 + 8 pairs: 40 x 16 | each its own 12 B | 12 x 2 | 40 x 2
    ("sparse_decode", 640, 0, 192, 24, 80),
    # 8 channels of 4 taps: 64 x 4 | 3 inputs of 8 kept, read and written | in and out 32 B x 4
    ("conv_prefill", 256, 0, 48, 48, 128),
    ("conv_decode", 128, 0, 96, 96, 64),
    # 2 heads of 2 x 2 in chunks of 64: 2 (6 x 4 + 3 x 2 x 64 + 64²) = 9008 a token | states 8 x 2 B
    # key, value, output and gate: 2 x 8 x 2 B = 32 B a token; a decode takes 8 FLOP an entry
    ("delta_prefill", 36032, 0, 16, 16, 128),
    ("delta_decode", 128, 0, 32, 32, 64),
    ("kda_prefill", 36032, 0, 16, 16, 128),
    ("kda_decode", 128, 0, 32, 32, 64),
    # 2 (256 x 2 + 4 x 4) + 256 x 2 = 1568 a token | 8 values | 2 (2 x 4 + 2 x 2) = 24 B a token
    ("scan_prefill", 6272, 0, 16, 16, 96),
    ("scan_decode", 96, 0, 32, 32, 48),
    # 2 streams of 8, mixers of 8 columns: 2 x 16 x 9 x 6 | their 16 x 8 weights of 4 B read once
    # 16 + 8 values of 2 B for each of 6 tokens
    ("hyper_pre", 1728, 0, 512, 0, 288),
    # 2 x 16 x 3 x 6 | 16 read, 16 written and the output of 8
    ("hyper_post", 576, 0, 0, 0, 480),
    # 2 heads of 4, every pair of 5: 4 x 8 x 25 | Q, K, V and out: 4 x 8 x 5 x 2
    ("image", 800, 0, 0, 0, 320),
    # the same in a tower's block
    ("tower", 800, 0, 0, 0, 320),
]


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
