"""The indexer of sparse attention: narrow heads score all keys, and the best are chosen.

Index keys are in a separate cache, 8 bits and a 4-byte scale each for any format of the KV cache (``class Indexer`` of
deepseek-ai/DeepSeek-V3.2-Exp, ``inference/model.py``). Scores are written in 32 bits and read again by the choice.
Heads are never split over devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..batch import Moments
from ..errors import InputError
from ..ops import Access, Op
from .base import LayerCache, Run, Weights, gemm
from .streamed import Amount, Rates, Sums, streamed

INDEX_FORMAT = "fp8"
SCORE_BYTES = 4.0
SPLIT = 256
"""Number of keys that one piece of work scores for a decode."""


def short_sums(moments: Moments, most: int) -> tuple[float, float, float]:
    """Return new tokens, pairs and keys of prompts that see at most `most` tokens; zeros if `most` is 0."""
    if not most:
        return 0.0, 0.0, 0.0
    return moments.short_tokens(most), moments.prefill_pairs(-most), moments.prefill_kv(-most)


@dataclass(frozen=True, slots=True)
class Indexer:
    """The indexer of a layer: it scores all keys, or all pools of keys, and chooses the best.

    Attributes
    ----------
    heads, dim : int
        Query heads and their width; there is one key.
    top_k : int
        Entries chosen.
    pool : int
        Tokens of an entry.
    format : str
        Number format of the keys.
    """

    heads: int
    dim: int
    top_k: int
    pool: int = 1
    format: str = INDEX_FORMAT

    def __post_init__(self) -> None:
        for name in ("heads", "dim", "top_k", "pool"):
            if getattr(self, name) < 1:
                raise InputError(f"indexer.{name}", f"must be at least 1, not {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Maximum number of tokens that a query chooses."""
        return self.top_k * self.pool

    @property
    def read(self) -> int:
        """Number of tokens that a query reads on average: the chosen ones, and half of an incomplete pool."""
        return self.span + self.pool // 2

    def kept(self) -> LayerCache:
        """Return the cache of index keys."""
        scales = 4 if self.format == INDEX_FORMAT else 0
        return LayerCache(self.dim, pool=self.pool, scale_bytes=scales, format=self.format)

    def weights(self, hidden: int, q_rank: int) -> tuple[Weights, ...]:
        """Return the weights: queries from their latent, one key with its norm, and a weight per head (16 bits)."""
        big, small = q_rank * self.heads * self.dim + hidden * self.dim, hidden * self.heads
        small += 2 * self.dim
        return Weights("attention", big, big), Weights("other", small, small)

    def ops(self, moments: Moments, run: Run, hidden: int, q_rank: int, short: int = 0) -> list[Op]:
        """Return the ops for projections, scores and choice.

        Prompts that see at most `short` tokens only write keys.
        """
        wide = self.heads * self.dim
        return [
            gemm("index_q", "indexer", "attention", moments.tokens, wide, q_rank, run),
            gemm("index_k", "indexer", "attention", moments.tokens, self.dim, hidden, run),
            gemm("index_weights", "indexer", "other", moments.tokens, self.heads, hidden, run),
            self._rest(moments, run),
            *self.choice(moments, run, short),
        ]

    def _rest(self, moments: Moments, run: Run) -> Op:
        """Return the rotation and quantisation of queries and key, including the small kernels around them."""
        sums = Sums(1.0, moments.tokens, moments.tokens, 0.0)
        wide = (self.heads + 1) * self.dim
        rates = Rates(float(wide), token_bytes=1.5 * run.numerics.act_bytes * wide, seq_units=1e3, walks_keys=True)
        return streamed("index_rest", "indexer", "index_rest", "both", run, sums, rates, act=rates.bytes(sums))

    def choice(self, moments: Moments, run: Run, short: int = 0) -> list[Op]:
        """Return the ops that compute the scores and choose the best."""
        key, share = self.kept().entry_bytes(run.numerics), 1.0 / self.pool
        less = short_sums(moments, short)
        tokens = moments.prefill_tokens - less[0]
        prompts = Sums(
            moments.prefills,
            tokens,
            (moments.prefill_pairs(0) - less[1]) * share,
            (moments.prefill_kv(0) - less[2]) * share,
        )
        decodes = Sums(
            moments.decodes, moments.decode_tokens, moments.decode_pairs(0) * share, moments.decode_kv(0) * share
        )

        def scores(phase: str, sums: Sums) -> Op:
            rates = score_rates(self.heads, self.dim, key, phase == "decode", key * share)
            act = self.heads * (self.dim + 4.0) * sums.tokens + SCORE_BYTES * sums.pairs
            return streamed(
                f"index_{phase}", "indexer", f"index_{phase}", phase, run, sums, rates,
                dtype=INDEX_FORMAT, act=act, written=key * share * sums.tokens,
                access=Access("pages", key),
            )  # fmt: skip

        both = (("prefill", prompts), ("decode", decodes))
        return [*(scores(*one) for one in both), *(select_op(phase, run, sums, self.top_k) for phase, sums in both)]


def score_rates(heads: Amount, dim: Amount, key: Amount, paged: bool, written: Amount = 0.0) -> Rates:
    """Return the rates of scoring keys of `key` bytes with narrow heads, split over pieces if keys are in pages.

    A tile computes at least `SPLIT` keys. `written` is the number of bytes of index keys that a token writes.
    """
    return Rates(
        2.0 * heads * dim, pair_bytes=SCORE_BYTES, key_bytes=key,
        token_bytes=heads * (dim + 4.0) + written, rows=heads, token_units=0.0 if paged else 0.25,
        seq_units=1.0 if paged else 0.0,
        key_units=1 / SPLIT if paged else 0.0, walks_keys=not paged, least_pairs=SPLIT,
    )  # fmt: skip


def select_rates(best: Amount, decode: Amount) -> Rates:
    """Return the rates of choosing a query's best scores: one piece of work per query of a prompt, or per decode."""
    return Rates(1.0, pair_bytes=SCORE_BYTES, token_bytes=4.0 * best, token_units=1.0 - decode,
                 seq_units=1.0 * decode, walks_keys=True)  # fmt: skip


def select_op(phase: str, run: Run, sums: Sums, best: int) -> Op:
    """Return the op that chooses the best scores, of prompts or of decodes."""
    rates = select_rates(best, phase == "decode")
    return streamed("index_select", "indexer", "index_select", phase, run, sums, rates, act=rates.bytes(sums))
