"""Hyper-connections: several residual streams, mixed before and after every part (mHC, DeepSeek-V4).

Before a part its input is a mix of the streams, whose weights a small product of all streams gives,
evened out by Sinkhorn's rounds on chip; after it the part's output is added to a mix of them. The
streams are read and written twice (``hc_mult`` streams).
"""

from __future__ import annotations

from ..batch import Moments
from ..ops import Op
from .base import Run
from .streamed import Amount, Rates, Sums, streamed


def hyper_rates(hidden: Amount, streams: Amount, before: bool) -> Rates:
    """Mixing of `streams` of `hidden` values before a part, or after it.

    Before: the mixers' weights (2 + m) m columns of m h rows in 32 bit, streams read, one written.
    """
    wide = hidden * streams
    columns = (2.0 + streams) * streams
    if before:
        return Rates(2.0 * wide * (columns + 1.0), token_bytes=2.0 * (wide + hidden),
                     seq_bytes=4.0 * wide * columns, token_units=1.0)  # fmt: skip
    return Rates(2.0 * wide * (streams + 1.0), token_bytes=2.0 * (2.0 * wide + hidden), token_units=1.0)


def mixer_weights(hidden: int, streams: int) -> int:
    """Weights of the mixers of one part: their matrix, its biases and three scales."""
    columns = (2 + streams) * streams
    return columns * streams * hidden + columns + 3


def hyper_ops(hidden: int, streams: int, moments: Moments, run: Run) -> tuple[Op, Op]:
    """Mixing before a part and after it; the mixers' weights are read once."""
    sums = Sums(1.0, moments.tokens, moments.tokens, moments.tokens)

    def op(name: str) -> Op:
        rates = hyper_rates(hidden, streams, name == "hyper_pre")
        return streamed(name, "residual", name, "both", run, sums, rates, act=rates.token_bytes * sums.tokens)

    return op("hyper_pre"), op("hyper_post")
