"""Grouped attention to chosen blocks of keys: MiniMax sparse attention, NSA and MoBA.

Every KV head reads the best `blocks` of `block` tokens. Scores use separate index keys, one per token (MSA); the
attended pools (NSA, arXiv 2502.11089); means of the blocks' keys (MoBA, arXiv 2502.13189).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..errors import InputError
from ..ops import Access, Loads, Op
from .attention import Attention
from .base import LayerCache, Reads, Run, State, Weights, elementwise, gemm, layer_kind
from .indexer import SCORE_BYTES, score_rates, select_op
from .linears import PlainKind, WrappingKind
from .streamed import Rates, Sums, sparse_rates, streamed


@layer_kind("attention_blocks")
@dataclass(frozen=True, slots=True)
class BlockSparseAttention(WrappingKind, PlainKind):
    """Attention to the best blocks of keys, and maybe to a window and to pools of all.

    Attributes
    ----------
    base : Attention
        Heads and projections; without a window.
    block, blocks : int
        Tokens of a block, and blocks that a query reads.
    index_heads, index_dim : int
        Query heads that score, and their width; heads are never split over devices.
    index_pool : int
        Tokens of a scored key (means of learned ones: Qwen4-Exp).
    learned : bool
        Whether scores have separate projections and one separate key; else the keys are the KV heads', pooled.
    near : int
        Latest tokens that are read besides; 0 = none.
    attends_pools : bool
        Whether pools of keys and values are attended to as well; three gates a head weigh the branches.
    """

    base: Attention
    block: int
    blocks: int
    index_heads: int
    index_dim: int
    index_pool: int = 1
    learned: bool = True
    near: int = 0
    attends_pools: bool = False

    def __post_init__(self) -> None:
        if self.base.window:
            raise InputError("base.window", f"must be 0, not {self.base.window}; key `near` sets the local window")
        for name in ("block", "blocks", "index_heads", "index_dim", "index_pool"):
            if getattr(self, name) < 1:
                raise InputError(name, f"must be at least 1, not {getattr(self, name)}")

    @property
    def _index_width(self) -> int:
        """Columns of the projections that are used only for scores."""
        return (self.index_heads + 1) * self.index_dim if self.learned else 0

    def weights(self) -> tuple[Weights, ...]:
        big = self.hidden * self._index_width
        small = 2 * self.index_dim * self.learned + 3 * self.hidden * self.base.heads * self.attends_pools
        return *self.base.weights(), Weights("attention", big, big), Weights("other", small, small)

    @property
    def _index(self) -> LayerCache:
        values = self.index_dim if self.learned else self.base.kv_heads * self.base.head_dim
        return LayerCache(values * (1 + self.attends_pools), pool=self.index_pool)

    def state(self) -> State:
        reads = [Reads(self.blocks, self.block, chosen=True)]
        reads += [Reads(self.near)] if self.near else []
        reads += [Reads(0, self.index_pool)] if self.attends_pools else []
        return State((*self.base.state().keeps, self._index), tuple(reads))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        base = self.base
        qkv = base._in_width + self._index_width
        wide, roped = base.heads * base.head_dim, base.kv_heads * base.head_dim
        return [
            gemm("qkv", "attention", "attention", moments.tokens, qkv, self.hidden, run),
            elementwise("rope", "attention", moments.tokens, wide + roped + self._index_width, 2, run),
            *(op for phase in ("prefill", "decode") for op in self._phase(phase, moments, run)),
            gemm("out", "attention", "attention", moments.tokens, self.hidden, wide, run),
        ]

    def _phase(self, phase: str, moments: Moments, run: Run) -> list[Op]:
        """Return the ops for scores, choice and attention, of prompts or of decodes."""
        base, num, decode = self.base, run.numerics, phase == "decode"
        if decode:
            batch, tokens, seen, kv = moments.decodes, moments.decode_tokens, moments.decode_pairs, moments.decode_kv(0)
        else:
            batch, tokens, seen, kv = (
                moments.prefills,
                moments.prefill_tokens,
                moments.prefill_pairs,
                moments.prefill_kv(0),
            )
        key, pool = self._index.entry_bytes(num), self.index_pool
        scored = Sums(batch, tokens, seen(0) / pool, kv / pool)
        score = replace(
            score_rates(self.index_heads, self.index_dim, key, decode, key / pool),
            pair_bytes=SCORE_BYTES * self.index_heads * pool / max(self.block, pool),
        )
        blocks = self.index_heads * seen(0) / self.block
        chosen = Sums(batch, tokens, blocks, kv / self.block)
        pairs = seen(self.block * self.blocks) + (seen(self.near) if self.near else 0.0)
        pairs += seen(0) / pool if self.attends_pools else 0.0
        row = base._kv_width * num.kv_bytes
        sums = Sums(batch, tokens, pairs, pairs if decode else kv)
        rates = replace(sparse_rates(base.heads, 2 * base.head_dim, row, decode), rows=Rates(0).rows)
        return [
            streamed(f"index_{phase}", "indexer", f"index_{phase}", phase, run, scored, score,
                     act=score.pair_bytes * scored.pairs, written=key / pool * tokens,
                     access=Access("pages", key)),
            select_op(phase, run, chosen, self.index_heads * self.blocks),
            streamed(f"sparse_{phase}", "attention", f"sparse_{phase}", phase, run, sums, rates,
                     act=4.0 * base.heads * base.head_dim * tokens, written=row * tokens,
                     access=Access("pages", row, 2)),
        ]  # fmt: skip
