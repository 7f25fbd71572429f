"""Multi-head latent attention (DeepSeek-V2): one compressed latent per token is cached.

Prefill expands the latent to per-head keys and values; decode absorbs that expansion into the
query and the output, so that all heads read the same latent (DeepSeek-V2 report, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..numerics import Numerics
from ..ops import Access, Loads, Op
from .base import LayerCache, Reads, Run, State, Weights, alone, elementwise, gemm, layer_kind, split
from .linears import PlainKind


@layer_kind("mla")
@dataclass(frozen=True, slots=True)
class LatentAttention(PlainKind):
    """Latent attention; `q_rank` 0 means queries are projected directly.

    Attributes
    ----------
    gate_dim : int
        Columns of an output gate for each head (Kimi-K3: as many as values, Ling-3.0: one); 0 = none.
    window : int
        Keys a query sees at most; 0 = all (dots3-note).
    shares : bool
        It reads the latent of a layer before it: no projection to one, nothing is written (Mistral Large 4).
    """

    hidden: int
    heads: int
    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    bias: bool = False
    gate_dim: int = 0
    window: int = 0
    shares: bool = False

    @property
    def _q_width(self) -> int:
        return self.heads * (self.nope_dim + self.rope_dim)

    @property
    def _latent(self) -> int:
        return self.kv_rank + self.rope_dim

    @property
    def down_width(self) -> int:
        """Columns of the projections down to the latents of queries and keys."""
        return self.q_rank + self._latent * (not self.shares)

    def weights(self) -> tuple[Weights, ...]:
        q = (self.hidden + self._q_width) * self.q_rank if self.q_rank else (self.hidden * self._q_width)
        kv = self.hidden * self._latent * (not self.shares) + self.kv_rank * self.heads * (self.nope_dim + self.v_dim)
        count = q + kv + self.heads * (self.v_dim + self.gate_dim) * self.hidden
        norms = self.q_rank + self.kv_rank * (not self.shares)
        if self.bias:
            # Only the down projections and the output have one (transformers' DeepseekV3Attention).
            norms += self.down_width + self.hidden
        return Weights("attention", count, count), Weights("other", norms, norms)

    def state(self) -> State:
        if self.shares:
            return State(reads=(Reads(self.window),))
        return State((LayerCache(self._latent, self.window),))

    def shard(self, tp: int) -> LatentAttention:
        return replace(self, heads=split(self.heads, tp, "query heads"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        def linear(name: str, rows: float, n: int, k: int) -> Op:
            return gemm(name, "attention", "attention", rows, n, k, run)

        def absorb(name: str, n: int, k: int) -> list[Op]:
            # vLLM keeps 16-bit copies of these halves of the up projection, whatever the rest
            # has: "we currently do not have quantized bmm's" (`process_weights_after_loading`
            # in vllm-project/vllm, vllm/v1/attention/backends/mla/common.py).
            op = gemm(name, "attention", "other", moments.decode_tokens, n, k, run, batch=self.heads)
            # From 8 bits to 16, then times their scale: two kernels, whose 1 + 2 and 2 + 2 bytes stand beside the product's.
            casts = alone("absorbed_cast", "attention", moments.decode_tokens, 1, 1, run)
            return [*casts, replace(op, weight_bytes=op.weight_bytes * (1.0 + 1.75 * len(casts)))]

        # vLLM and SGLang run the down projections of query and latent as one matmul
        # (`fused_qkv_a_proj` in vllm/model_executor/models/deepseek_v2.py,
        # `fused_qkv_a_proj_with_mqa` in python/sglang/srt/models/deepseek_v2.py).
        q_in = self.q_rank or self.hidden
        down, norms = "qkv_down" if self.q_rank else "kv_down", self.down_width - self.rope_dim * (not self.shares)
        ops = [linear(down, moments.tokens, self.down_width, self.hidden)] if self.down_width else []
        if norms:  # of both latents, one kernel or two beside each other
            ops.append(elementwise("latent_norm", "attention", moments.tokens, norms, 2, run))
        kv, keys = moments.prefill_kv(self.window), self.nope_dim + self.rope_dim
        return [
            *ops,
            linear("q_up", moments.tokens, self._q_width, q_in),
            elementwise("rope", "attention", moments.tokens, self.heads * self.rope_dim, 2, run),
            *alone("q_concat", "attention", moments.decode_tokens, self.heads * (self.kv_rank + self.rope_dim), 2, run),
            *alone("kv_norm", "attention", moments.tokens, self.kv_rank, 2, run),
            *alone("kv_write", "attention", moments.tokens, self._latent * (not self.shares), 2, run),
            linear("kv_up", kv, self.heads * (self.nope_dim + self.v_dim), self.kv_rank),
            # Every head's keys are written anew, behind them the rotated part that all share (``_concat_k_nope_k_pe``
            # in vLLM's common.py, ``concat_mla_k`` in SGLang, the copies of ``forward_context`` in TensorRT-LLM).
            elementwise("keys", "attention", kv, self.heads * keys, 1 + self.nope_dim / keys, run, "prefill"),
            self._prefill(moments, run),
            *absorb("q_absorb", self.kv_rank, self.nope_dim),
            self._decode(moments, run),
            *absorb("v_absorb", self.v_dim, self.kv_rank),
            *([linear("gate", moments.tokens, self.heads * self.gate_dim, self.hidden)] if self.gate_dim else ()),
            linear("out", moments.tokens, self.hidden, self.heads * self.v_dim),
        ]

    def _prefill(self, moments: Moments, run: Run) -> Op:
        num, width = run.numerics, self.nope_dim + self.rope_dim + self.v_dim
        kv, rect, pairs = (
            moments.prefill_kv(self.window),
            moments.prefill_rect(self.window),
            moments.prefill_pairs(self.window),
        )
        row = self.heads * width * num.act_bytes
        scores = run.score_passes * self.heads * rect * num.act_bytes
        sums = {"batch": moments.prefills, "tokens": moments.prefill_tokens, "kv": kv, "pairs": pairs}
        flops = 2.0 * self.heads * width * (rect if run.score_passes else pairs)
        return self._attention("prefill", sums, num, flops, row * (moments.prefill_tokens + kv) + scores)

    def _decode(self, moments: Moments, run: Run) -> Op:
        num, tokens, pairs = run.numerics, moments.decode_tokens, moments.decode_pairs(self.window)
        sums = {"batch": moments.decodes, "tokens": tokens, "kv": moments.decode_kv(self.window), "pairs": pairs}
        flops = 2.0 * self.heads * (self._latent + self.kv_rank) * pairs
        return self._attention(
            "decode", sums, num, flops, num.act_bytes * self.heads * (self._latent + self.kv_rank) * tokens
        )

    def _attention(self, phase: str, sums: dict[str, float], num: Numerics, flops: float, act_bytes: float) -> Op:
        entry = self._latent * num.kv_bytes
        return Op(
            name=f"mla_{phase}", layer="attention", kind=f"mla_{phase}", phase=phase, shape={**sums, "heads": self.heads},
            dtype=num.default, flops=flops, act_bytes=act_bytes, kv_read_bytes=entry * sums["kv"],
            kv_write_bytes=0.0 if self.shares else entry * sums["tokens"], access=Access("pages", entry),
        )  # fmt: skip
