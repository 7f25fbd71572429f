"""Attention whose heads have different spans (MoA, mixture of attention, arXiv 2406.14909)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil

from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..attention import Attention, KeySums, keys_within
from ..base import LayerCache, Run, State, Weights, layer_kind
from ..linears import PlainKind, WrappingKind

LEAST_TOKENS, PAGE_TOKENS = 128, 64
"""Least number of keys that a head keeps, and the multiple to which the number is rounded up. The first `PAGE_TOKENS`
keys are always kept, the others are the latest (MoA/attention/cache_utils.py of thu-nics/MoA)."""


def span_of(alpha: float, beta: float, length: int) -> int:
    """Return the number of keys that a head keeps of sequences of `length` tokens; 0 if it keeps all.

    Examples
    --------
    >>> span_of(-1024, 1.0, 4096), span_of(0, 0.5, 4000), span_of(0, 0.01, 4096), span_of(0, 1, 4096)
    (3072, 2048, 128, 0)
    """
    span = max(LEAST_TOKENS, min(length, alpha + beta * length))
    rounded = ceil(span / PAGE_TOKENS) * PAGE_TOKENS
    return rounded if rounded < length else 0


@layer_kind("attention_spans")
@dataclass(frozen=True, slots=True)
class SpanAttention(WrappingKind, PlainKind):
    """Attention whose heads keep min(N, alpha + beta N) keys of a sequence of N tokens, each its own.

    N is the longest sequence of a run (``--max-model-len``, else the model's positions) for all of
    its sequences: what an engine that lays out its caches beforehand keeps. KV heads that several
    query heads share keep the longest span of their group. One kernel serves all heads.

    Attributes
    ----------
    base : Attention
        Shape and projections; without a window.
    spans : tuple of (int, float, float)
        Query heads with equal spans, in order of the heads: how many, alpha [tokens], and beta.
    length : int
        N [tokens].
    """

    base: Attention
    spans: tuple[tuple[int, float, float], ...]
    length: int

    def __post_init__(self) -> None:
        if self.base.window:
            raise InputError("base.window", f"must be 0 with spans, not {self.base.window}")
        if self.length < 1:
            raise InputError("length", f"must be at least 1, not {self.length}")
        heads = sum(count for count, _, _ in self.spans)
        if heads != self.base.heads or any(count < 1 for count, _, _ in self.spans):
            reason = f"must have {self.base.heads} query heads in sum, not {heads}"
            raise InputError("spans", reason)
        for _, _, beta in self.spans:
            if not 0.0 <= beta <= 1.0:
                raise InputError("spans", f"must have a beta from 0 to 1, not {beta:g}")

    @property
    def windows(self) -> tuple[int, ...]:
        """Number of keys that each KV head keeps; 0 = all."""
        group = self.base.heads // self.base.kv_heads
        spans = [span_of(a, b, self.length) for count, a, b in self.spans for _ in range(count)]
        return tuple(_longest(spans[i : i + group]) for i in range(0, len(spans), group))

    def weights(self) -> tuple[Weights, ...]:
        return self.base.weights()

    def state(self) -> State:
        one, windows = 2 * self.base.head_dim, self.windows
        classes = sorted(Counter(windows).items())
        return State(tuple(LayerCache(one * heads, window) for window, heads in classes))

    def within(self, longest: int) -> SpanAttention:
        """Return this attention for sequences of at most `longest` tokens."""
        return replace(self, length=min(self.length, longest))

    def shard(self, tp: int) -> SpanAttention:
        """Return the part of the device with the most keys; heads are distributed in order of falling span."""
        base = self.base.shard(tp)
        group = self.base.heads // self.base.kv_heads
        span_of_head = [(a, b) for count, a, b in self.spans for _ in range(count)]
        groups = [tuple(span_of_head[i : i + group]) for i in range(0, len(span_of_head), group)]
        heads_per_kv, windows = base.heads // base.kv_heads, self.windows
        order = sorted(range(len(groups)), key=lambda i: (windows[i] > 0, -windows[i]))
        chosen = order[:: max(len(groups) // base.kv_heads, 1)][: base.kv_heads]
        spans = [span for i in chosen for span in self._first(groups[i], heads_per_kv)]
        return replace(self, base=base, spans=tuple((1, a, b) for a, b in spans))

    def _first(self, group: tuple[tuple[float, float], ...], count: int) -> list[tuple[float, float]]:
        """Return the query heads of a group with the longest spans, for a device with `count` of them."""
        spans = [(span_of(a, b, self.length), a, b) for a, b in group]
        spans.sort(key=lambda span: (span[0] > 0, -span[0]))
        return [(a, b) for _, a, b in spans[:count]]

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return self.base.ops_seeing(self.keys(moments), moments, run)

    def keys(self, moments: Moments) -> KeySums:
        """Return the keys that the queries see, as the mean over KV heads."""
        windows = self.windows
        reads = [(heads / len(windows), keys_within(moments, w)) for w, heads in Counter(windows).items()]
        return KeySums(
            sum(share * k.pairs for share, k in reads), sum(share * k.kv for share, k in reads),
            sum(share * k.rect for share, k in reads),
            sum(share * k.decode_pairs for share, k in reads),
            sum(share * k.decode_kv for share, k in reads), _longest(windows),
        )  # fmt: skip


def _longest(windows: tuple[int, ...] | list[int]) -> int:
    """Return the longest of some windows; 0 if one of them is unlimited."""
    return max(windows) if all(windows) else 0
