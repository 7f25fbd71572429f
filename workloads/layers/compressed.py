"""DeepSeek-V4's attention: a window, and pools of tokens that a compressor leaves, all or the best.

One key of `head_dim` serves as key and value of all heads. ``compress_ratios`` gives each layer's pools:
none, 4 tokens of which an indexer chooses the best (CSA), or 128 that are all read (HCA). The output
goes through `out_groups` groups of low rank. Entries have 8 bits but for the values with positions
(``models/deepseek_v4/attention.py`` and ``compressor.py`` of vllm-project/vllm).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..errors import InputError
from ..ops import Access, Loads, Op
from .base import Fixed, LayerCache, Reads, Run, State, Weights, alone, elementwise, gemm, layer_kind, split
from .indexer import Indexer
from .linears import PlainKind
from .streamed import GATHERS, Sums, sparse_rates, streamed

OVERLAP = 2
"""Number of pools to which a token contributes in a layer with an indexer."""
SCALES = 8
"""Size of the scales of an 8-bit entry [B]."""
LEAST = 192
"""Least number of entries that a kernel computes per query; no fitted row has fewer."""


@layer_kind("compressed")
@dataclass(frozen=True, slots=True)
class CompressedAttention(PlainKind):
    """Attention to the latest `near` tokens and to pools of `ratio` tokens.

    Attributes
    ----------
    rope_dim : int
        Values of a key that carry its position, and stay in 16 bit.
    ratio : int
        Tokens of a pool; 0 = no pools.
    indexer : Indexer, optional
        What chooses pools; without it all are read.
    """

    hidden: int
    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    out_groups: int
    out_rank: int
    near: int
    ratio: int = 0
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        if self.heads % self.out_groups:
            reason = f"must divide the {self.heads} heads, not {self.out_groups}"
            raise InputError("out_groups", reason)
        if not 0 <= self.rope_dim < self.head_dim:
            raise InputError("rope_dim", f"must be below head_dim ({self.head_dim})")
        if self.indexer is not None and self.indexer.pool != self.ratio:
            raise InputError("indexer.pool", f"must be equal to the ratio, {self.ratio}")

    def _row(self, pool: int = 1) -> LayerCache:
        wide = self.head_dim - self.rope_dim
        return LayerCache(wide, exact=self.rope_dim, pool=pool, scale_bytes=SCALES)

    @property
    def _copies(self) -> int:
        """Number of pools to which a token contributes."""
        return OVERLAP if self.indexer else 1

    def _compressor(self, dim: int) -> tuple[int, int]:
        """Return the weights of a compressor: of its two products, and those learned for each position in a pool."""
        wide = 2 * self._copies * dim
        return self.hidden * wide, self.ratio * wide // 2 + dim

    def weights(self) -> tuple[Weights, ...]:
        wide = self.heads * self.head_dim
        big = self.hidden * (self.q_rank + self.head_dim) + self.q_rank * wide
        big += self.out_rank * (wide + self.out_groups * self.hidden)
        small = self.q_rank + self.head_dim + self.heads
        for dim in [self.head_dim] * bool(self.ratio) + [i.dim for i in (self.indexer,) if i]:
            compressor, places = self._compressor(dim)
            big, small = big + compressor, small + places
        if self.indexer:
            big += self.q_rank * self.indexer.heads * self.indexer.dim
            small += self.hidden * self.indexer.heads
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        window = Fixed(self.near * (self.head_dim + self.rope_dim + SCALES), "fp8")
        keeps: list[LayerCache] = [self._row(self.ratio)] if self.ratio else []
        fixed, reads = [window], [Reads(self.near)]
        if self.ratio:
            dims = [self.head_dim]
            if self.indexer:
                keeps.append(self.indexer.kept())
                dims.append(self.indexer.dim)
                reads.append(Reads(self.indexer.top_k, self.ratio, chosen=True))
            else:
                reads.append(Reads(0, self.ratio))
            fixed += [Fixed(self.ratio * self._copies**2 * 2 * dim, "fp32") for dim in dims]
        return State(tuple(keeps), tuple(reads), tuple(fixed))

    def shard(self, tp: int) -> CompressedAttention:
        """Return the part of one device: heads and output groups are split.

        Keys, compressors and the indexer are replicated.
        """
        return replace(
            self, heads=split(self.heads, tp, "query heads"), out_groups=split(self.out_groups, tp, "output groups")
        )

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        def linear(name: str, n: int, k: int, **more: int) -> Op:
            return gemm(name, "attention", "attention", moments.tokens, n, k, run, **more)  # type: ignore[arg-type]  # only batch is passed

        wide = self.heads * self.head_dim
        ops = [
            linear("qkv_down", self.q_rank + self.head_dim, self.hidden),
            linear("q_up", wide, self.q_rank),
            *alone("q_norm", "attention", moments.tokens, wide, 2, run),
            elementwise("rope", "attention", moments.tokens, self.heads * self.rope_dim, 2, run),
        ]
        if self.ratio:
            ops += self._pooled("compress", self.head_dim, moments, run)
        if self.indexer:
            index = self.indexer
            ops += [
                *self._pooled("index_compress", index.dim, moments, run),
                linear("index_q", index.heads * index.dim, self.q_rank),
                *alone("index_rotation", "indexer", moments.tokens, index.heads * index.dim, 2, run),
                gemm("index_weights", "indexer", "other", moments.tokens, index.heads, self.hidden, run),
                *index.choice(moments, run),
            ]
        ops += [self._attention(phase, moments, run) for phase in ("prefill", "decode")]
        group_width = wide // self.out_groups
        return [
            *ops,
            linear("out_down", self.out_rank, group_width, batch=self.out_groups),
            linear("out", self.hidden, self.out_groups * self.out_rank),
        ]

    def _pooled(self, name: str, dim: int, moments: Moments, run: Run) -> list[Op]:
        """Return the ops of a compressor: its products for every token, and weighted sums over each pool."""
        columns = 2 * self._copies * dim
        return [
            gemm(name, "attention", "attention", moments.tokens, columns, self.hidden, run),
            elementwise(f"{name}_pool", "attention", moments.tokens, columns, 2.0, run),
        ]

    def _attention(self, phase: str, moments: Moments, run: Run) -> Op:
        """Return attention over the latest tokens and over earlier compressed ones, of prompts or of decodes."""
        row = self._row().entry_bytes(run.numerics)
        pairs_in = moments.prefill_pairs if phase == "prefill" else moments.decode_pairs
        pairs, most = pairs_in(self.near), self.near
        if self.ratio:
            span = self.indexer.top_k * self.ratio if self.indexer else 0
            pairs += pairs_in(span) / self.ratio
            most += self.indexer.top_k if self.indexer else LEAST - self.near
        decode = phase == "decode"
        rates = sparse_rates(self.heads, 2 * self.head_dim, row, decode, most, GATHERS)
        if decode:
            sums = Sums(moments.decodes, moments.decode_tokens, pairs, pairs)
        else:
            kv = moments.prefill_kv(self.near) + (moments.prefill_kv(0) / self.ratio if self.ratio else 0.0)
            sums = Sums(moments.prefills, moments.prefill_tokens, pairs, kv)
        act = 4.0 * self.heads * self.head_dim * sums.tokens
        return streamed(
            f"sparse_{phase}", "attention", f"sparse_{phase}", phase, run, sums, rates, act=act,
            written=row * sums.tokens, access=Access("pages", row),
        )  # fmt: skip
