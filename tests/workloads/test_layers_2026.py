"""Do the layers of 2025 and 2026 weigh, keep and compute what their published counts say?

Weights are transformers' own counts or a checkpoint's tensors; bytes and FLOP follow from the formulas
of the engines' sources (docs/attention-2026.md names them).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.answers.inspect import inspect
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf.read import model_from_keys
from opbyte.workloads.layers import Attention, BlockSparseAttention, LayerKind, Lightning, Run
from opbyte.workloads.model import ModelSpec, embedding_ops, head_ops, layer_ops
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads, Op

from ..tables import tables

CACHES = {"DeepSeek-V3.2": 48_068, "GLM-5.2-FP8": 53_940, "DeepSeek-V4-Flash": 3_850.25,
          "MiniMax-M3": 122_880 + 14_592, "Kimi-Linear-48B-A3B-Instruct": 8_064}  # fmt: skip


Read = Callable[[str], ModelSpec]


@pytest.fixture
def model(data_set: Callable[[str], Path]) -> Read:
    folder = data_set("model_configs_2026")
    return lambda name: load_model(Path(folder) / name / "config.json")


@pytest.mark.parametrize("name", CACHES)
def test_bytes_of_a_token(name: str, model: Read) -> None:
    assert model(name).kv_bytes_per_token == CACHES[name]


def test_state_is_in_the_format_of_the_file(model: Read) -> None:
    """Qwen3.5-35B: 30 layers of 32 x 128 x 128 in fp32, and 3 inputs of 8,192 channels in 16 bit."""
    spec = model("Qwen3.5-35B-A3B")
    assert spec.state_bytes_per_sequence == 30 * (4 * 32 * 128 * 128 + 2 * 3 * 8192)
    assert model("Kimi-Linear-48B-A3B-Instruct").state_bytes_per_sequence == pytest.approx(40 * 2**20, rel=0.04)


def flops(spec: ModelSpec, context: int) -> float:
    """FLOP of one decoded token."""
    m, run = Batch.of([context - 1]).moments(spec.windows), Run(spec.numerics)
    total = sum(op.flops for op in (*embedding_ops(spec, m, run), *head_ops(spec, m, run, 1))
                if op.kind != "elementwise")  # fmt: skip
    for layer, count in spec.groups:
        for ops in layer_ops(layer, m, run, _one(layer)):
            total += count * sum(
                op.flops for op in ops if op.kind not in ("elementwise", "hyper_pre", "hyper_post", "index_select")
            )
    return total


def _one(layer: object) -> Loads | None:
    parts = layer.expert_parts  # type: ignore[attr-defined]
    return Loads.expected(1, parts[0].routed.top_k, parts[0].routed.experts, parts[0].routed.experts) if parts else None


def test_sparse_attention_stops_growing(model: Read) -> None:
    """A query of V3.2 reads 2,048 keys at most: from there on only the indexer's FLOP grow."""
    spec = model("DeepSeek-V3.2")
    near, far = flops(spec, 4_096), flops(spec, 131_072)
    assert far - near == 61 * 2 * 64 * 128 * (131_072 - 4_096)
    below = flops(spec, 2_048) - flops(spec, 1_024)
    assert below == 61 * 1_024 * (2 * 64 * 128 + 2 * 128 * (576 + 512))
    assert "the best 2,048" in str(inspect(spec).rows())


def test_a_token_at_a_million(model: Read) -> None:
    """V4 reads pools: at 1 M tokens a decoded token of Flash takes less than a tenth of V3.2's FLOP."""
    v4, v3 = model("DeepSeek-V4-Flash"), model("DeepSeek-V3.2")
    csa, hca, window = 21, 20, 2
    attention = 4 * 64 * 512 * (csa * (512 + 128) + hca * (2**20 / 128 + 128) + window * 128)
    indexer = csa * 2 * 64 * 128 * 2**20 / 4
    grown = flops(v4, 2**20) - flops(v4, 1)
    least = 4 * 64 * 512 * (43 + csa / 4 + hca / 128) + csa * 2 * 64 * 128 / 4
    assert grown == pytest.approx(attention + indexer - least, rel=1e-9)
    assert flops(v3, 2**20) / flops(v4, 2**20) > 8


GLM5_NEXT = tables(__file__)["glm5 next"]


def test_pools_of_glm_5_next_by_tensors() -> None:
    """Six KDA and two indexed layers, three of them dense, by the shapes of their tensors."""
    h, wide = 4096, 64 * 128
    kda = 4 * h * wide + h * 64 + 2 * (h + wide) * 128 + 3 * wide * 4 + 128 + wide + 64
    latent = h * 1536 + 1536 + 1536 * 64 * 256 + h * 512 + 512 + 512 * 64 * 512 + 64 * 256 * h
    index = 1536 * 32 * 128 + h * 128 + 2 * 128 + h * 32 + 16 * 128 + 128 * h
    mixing = 2 * (24 * 4 * h + 24 + 3) + 2 * h
    experts = 289 * 3 * h * 2048 + 288 * h + 288
    want = 6 * kda + 2 * (latent + index) + 8 * mixing + 3 * 3 * h * 12288 + 5 * experts
    spec = model_from_keys(GLM5_NEXT, name="x", where="x")
    assert spec.total_params == want + 2 * 154880 * h + h
    # A token leaves its latent in two layers, and a sixteenth of an index key of 128 + 4 bytes.
    assert spec.kv_bytes_per_token == 2 * (2 * 512 + 132 / 16)
    assert spec.state_bytes_per_sequence == 6 * (4 * wide * 128 + 2 * 3 * 3 * wide)


def test_pools_are_scored_once_and_read_whole() -> None:
    """At 64k tokens an indexed layer scores 4,096 pools and reads 128 of 16 tokens, and half a pool that is not full
    yet on average; short contexts all."""
    spec = model_from_keys(GLM5_NEXT, name="x", where="x")
    layer = next(x for x in spec.layers if x.mixer.kind == "sparse_latent")
    for context, scored, read in ((65535, 4096, 2048 + 8), (1023, 64, 1024)):
        m = Batch.of([context]).moments(spec.windows)
        ops = {op.name: op for op in layer.mixer.ops(m, Run(spec.numerics), None)}
        assert ops["index_decode"].shape["pairs"] == scored
        assert ops["sparse_decode"].shape["pairs"] == read
    with pytest.raises(InputError, match="multiple of index_kpool"):
        model_from_keys({**GLM5_NEXT, "index_topk": 2040}, name="x", where="x")


OP_PER_BYTE = {
    ("deepseek-v3", "mla", 0): (195, 241, 30), ("deepseek-v3.2-exp", "sparse_latent", 0): (266, 136, 112),
    ("deepseek-v4-pro", "compressed", 4): (196, 151, 108),
    ("deepseek-v4-pro", "compressed", 128): (104, 323, 53),
    ("minimax-m3", "attention_blocks", 0): (14.4, 5.3, 4.1), ("kimi-k3", "kda", 0): (1.0, 1.0, 1.0),
    ("qwen3.5-397b-a17b", "delta_net", 0): (1.0, 1.0, 1.0),
    ("nemotron-3-super-120b-a12b", "mamba2", 0): (0.7, 0.7, 0.7),
}  # fmt: skip
"""Mixers: Op/B at 1k and 128k tokens, and at 128k with heads over 8 devices (docs/attention-2026.md)."""


@pytest.mark.parametrize("mixer", OP_PER_BYTE, ids=lambda m: f"{m[1]}-{m[2]}")
def test_op_per_byte_is_what_the_page_says(mixer: tuple[str, str, int]) -> None:
    """And the batch has no part in it: sequences share no bytes but small kernels' weights."""
    name, kind, ratio = mixer
    spec = load_model(name)
    found = next(layer.mixer for layer in spec.layers if layer.mixer is not None
                 and layer.mixer.kind == kind and getattr(layer.mixer, "ratio", 0) == ratio)  # fmt: skip

    def op_per_byte(batch: int, context: int, shards: int) -> float:
        m = Batch.of([context - 1] * batch).moments(spec.windows)
        ops = [op for op in found.shard(shards).ops(m, Run(spec.numerics), None)
               if op.kind not in ("gemm", "elementwise") and op.phase != "prefill"]  # fmt: skip
        return sum(op.flops for op in ops) / sum(op.bytes for op in ops)

    short, long, split = OP_PER_BYTE[mixer]
    got = op_per_byte(64, 1024, 1), op_per_byte(64, 131072, 1), op_per_byte(64, 131072, 8)
    assert got == pytest.approx((short, long, split), rel=0.01, abs=0.05)
    assert op_per_byte(1, 131072, 1) == pytest.approx(got[1], rel=1e-3)


def decode_ops(mixer: LayerKind, tokens: int) -> dict[str, Op]:
    """Ops of one decoded token that sees so many, by name."""
    spans = tuple(sorted({0} | mixer.state().spans))
    ops = mixer.ops(Batch.of([tokens - 1]).moments(spans), Run(Numerics("bf16")), None)
    return {op.name: op for op in ops if op.phase != "prefill"}


@pytest.mark.parametrize(("tokens", "keys"), [(8192, 2048), (65536, 5632)])
def test_keys_that_nsa_reads(tokens: int, keys: int) -> None:
    """Pools every 16 tokens, 16 blocks of 64, a window of 512: 11.6 times fewer than all at 64k (arXiv 2502.11089)."""
    base = Attention(2560, 64, 4, 128)
    mixer = BlockSparseAttention(base, 64, 16, 64, 128, 16, learned=False, near=512, attends_pools=True)
    ops = decode_ops(mixer, tokens)
    assert ops["sparse_decode"].shape["pairs"] == keys
    assert ops["sparse_decode"].flops == 4.0 * 64 * 128 * keys
    assert ops["index_decode"].shape["pairs"] == tokens / 16


def test_keys_that_moba_reads() -> None:
    """Of a million tokens the means of 256 blocks are scored, and 12 blocks of 4,096 read whole (arXiv 2502.13189)."""
    mixer = BlockSparseAttention(Attention(4096, 32, 8, 128), 4096, 12, 32, 128, 4096, learned=False)
    ops = decode_ops(mixer, 1 << 20)
    assert ops["index_decode"].shape["pairs"] == 256
    assert ops["sparse_decode"].flops == 4.0 * 32 * 128 * 12 * 4096
    assert decode_ops(mixer, 4096)["sparse_decode"].shape["pairs"] == 4096


def test_lightning_attention_keeps_a_state_alone() -> None:
    """MiniMax-Text-01: 64 heads of 128 x 128 in fp32; a decode takes 5 FLOP an entry at any context."""
    mixer = Lightning(6144, 64, 128)
    for tokens in (100, 100_000):
        op = decode_ops(mixer, tokens)["scan_decode"]
        assert op.flops == 5.0 * 64 * 128 * 128
        assert op.kv_read_bytes == op.kv_write_bytes == 4.0 * 64 * 128 * 128
    assert not mixer.state().keeps
    assert sum(w.total for w in mixer.weights()) == 5 * 6144 * 8192 + 8192
