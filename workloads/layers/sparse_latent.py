"""DeepSeek sparse attention (V3.2, GLM-5): latent attention to the keys that an indexer chose.

The indexer scores every key with a few narrow heads in 8 bits from a separate cache; the best `top_k` are then read,
absorbed, by prefill and decode (DeepSeek_V3_2.pdf, sections 1 and 3; ``inference/model.py`` of
deepseek-ai/DeepSeek-V3.2-Exp). Layers may reuse an earlier layer's choice (GLM-5.2). Short prompts may run dense
(``SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..batch import Moments
from ..ops import Access, Loads, Op
from .base import LayerCache, Reads, Run, State, Weights, elementwise, gemm, layer_kind
from .indexer import Indexer, short_sums
from .linears import PlainKind, WrappingKind
from .mla import LatentAttention
from .streamed import Sums, sparse_rates, streamed

SCALED = 128
"""Number of latent values that share a 4-byte scale in an 8-bit cache (deepseek-ai/FlashMLA, README)."""


@layer_kind("sparse_latent")
@dataclass(frozen=True, slots=True)
class SparseLatentAttention(WrappingKind, PlainKind):
    """Latent attention to at most `indexer.top_k` keys.

    Attributes
    ----------
    shared : bool
        Whether an earlier layer's choice is used: no indexer runs, and none is stored.
    """

    base: LatentAttention
    indexer: Indexer
    shared: bool = False

    @property
    def _row(self) -> LayerCache:
        rank = self.base.kv_rank
        return LayerCache(rank, exact=self.base.rope_dim, scale_bytes=4 * -(-rank // SCALED))

    @property
    def _q_in(self) -> int:
        """Width of the queries' input: their latent, or the hidden state if they have no latent."""
        return self.base.q_rank or self.hidden

    def weights(self) -> tuple[Weights, ...]:
        base, index = self.base.weights(), self.indexer
        if self.shared:
            return base
        # Keys of a pool are added up by weights of their own and of their places (GLM-5-Next).
        pooled = (self.hidden + index.pool) * index.dim if index.pool > 1 else 0
        gates = (Weights("attention", pooled, pooled),) if pooled else ()
        return (*base, *index.weights(self.hidden, self._q_in), *gates)

    def state(self) -> State:
        keys = () if self.shared else (self.indexer.kept(),)
        index = self.indexer
        read = Reads(index.top_k, index.pool, chosen=True, dense=index.span, tail=index.pool // 2)
        return State((*(() if self.base.shares else (self._row,)), *keys), (read,))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        base, top_k = self.base, self.indexer.span
        short = top_k if run.short_dense else 0

        def absorb(name: str, n: int, k: int) -> Op:
            # All tokens: a matmul's price follows one sum of a batch. Short prompts that run dense have
            # no need of it, which counts them a tenth of a layer's projections too much.
            return gemm(name, "attention", "other", moments.tokens, n, k, run, batch=base.heads)

        wide = base.nope_dim + base.v_dim
        ops = [
            gemm("q_up", "attention", "attention", moments.tokens,
                 base.heads * (base.nope_dim + base.rope_dim), self._q_in, run),
            elementwise("rope", "attention", moments.tokens, base.heads * base.rope_dim, 2, run),
        ]  # fmt: skip
        if base.down_width:
            ops.insert(0, gemm("qkv_down", "attention", "attention", moments.tokens, base.down_width, self.hidden, run))
        if not self.shared:
            if self.indexer.pool > 1:
                ops.append(
                    gemm("index_gate", "indexer", "attention", moments.tokens, self.indexer.dim, self.hidden, run)
                )
            ops += self.indexer.ops(moments, run, self.hidden, self._q_in, short)
        if short:
            kv = moments.prefill_kv(-short)
            ops += [
                gemm("kv_up", "attention", "attention", kv, base.heads * wide, base.kv_rank, run),
                self._dense(moments, run, short),
            ]
        ops += [
            absorb("q_absorb", base.kv_rank, base.nope_dim),
            self._sparse("prefill", moments, run, short),
            self._sparse("decode", moments, run, short),
            absorb("v_absorb", base.v_dim, base.kv_rank),
            gemm("out", "attention", "attention", moments.tokens, self.hidden, base.heads * base.v_dim, run),
        ]
        return ops

    def _dense(self, moments: Moments, run: Run, short: int) -> Op:
        """Return dense attention of the prompts that see few keys: expanded, causal, over all keys."""
        base, num = self.base, run.numerics
        width = base.nope_dim + base.rope_dim + base.v_dim
        tokens, pairs, kv = short_sums(moments, short)
        row = self._row.entry_bytes(num)
        return Op(
            name="mla_prefill", layer="attention", kind="mla_prefill", phase="prefill",
            shape={"batch": moments.prefills, "tokens": tokens, "kv": kv, "pairs": pairs,
                   "heads": base.heads},
            dtype=num.default, flops=2.0 * base.heads * width * pairs,
            act_bytes=base.heads * width * num.act_bytes * (tokens + kv),
            kv_read_bytes=row * kv, kv_write_bytes=row * tokens * (not base.shares), access=Access("pages", row),
        )  # fmt: skip

    def _sparse(self, phase: str, moments: Moments, run: Run, short: int) -> Op:
        """Return absorbed attention to the chosen keys: a prompt's tile shares them, each decode has separate ones."""
        base, num, top_k = self.base, run.numerics, self.indexer.read
        row = self._row.entry_bytes(num)
        width = 2 * base.kv_rank + base.rope_dim
        act = 2.0 * base.heads * width
        if phase == "prefill":
            less = short_sums(moments, short)
            sums = Sums(moments.prefills, moments.prefill_tokens - less[0], moments.prefill_pairs(top_k) - less[1],
                        moments.prefill_kv(0) - less[2])  # fmt: skip
        else:
            pairs = moments.decode_pairs(top_k)
            sums = Sums(moments.decodes, moments.decode_tokens, pairs, pairs)
        rates = sparse_rates(base.heads, width, row, phase == "decode", top_k)
        return streamed(
            f"sparse_{phase}", "attention", f"sparse_{phase}", phase, run, sums, rates,
            act=act * sums.tokens, written=row * sums.tokens * (not base.shares), access=Access("pages", row),
        )  # fmt: skip
