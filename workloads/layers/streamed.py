"""Streaming ops: their work is a linear function of four sums over a batch, with constant rates.

Indexers, sparse attention, scans and recurrences differ in what a pair, a key, a token and a sequence
cost; how long a device takes for that is one formula (`devices.calibrated.layer_kernels`).

Hyper-connections: several residual streams, mixed before and after every part (mHC, DeepSeek-V4).

Before a part its input is a mix of the streams, whose weights a small product of all streams gives,
evened out by Sinkhorn's rounds on chip; after it the part's output is added to a mix of them. The
streams are read and written twice (``hc_mult`` streams).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..batch import Moments
from ..ops import IN_SEQUENCE, Access, Op
from .base import Run

Amount = Any
"""A number; or an array of them, where tables of measured kernels are read."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The four sums over all sequences of one call.

    Attributes
    ----------
    batch, tokens : float
        Sequences, and their new tokens.
    pairs, kv : float
        Pairs of query and key, and keys read; of a recurrence, the tokens for both.
    """

    batch: float
    tokens: float
    pairs: float
    kv: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Work per pair, key, token and sequence of a streaming op.

    Attributes
    ----------
    flops : float
        FLOP of a pair.
    pair_bytes, key_bytes, token_bytes, seq_bytes : float
        Main-memory traffic of one of them, writes to caches and states included [B].
    token_units, key_units, seq_units : float
        Pieces of each that run side by side.
    rows : float
        Rows of the matrix product that a piece computes at once: heads.
    walks_keys : bool
        Whether a piece walks along the keys of a sequence, not along its tokens.
    least_pairs : float
        Minimum pairs that a kernel computes per token, also with fewer keys.
    """

    flops: float
    pair_bytes: float = 0.0
    key_bytes: float = 0.0
    token_bytes: float = 0.0
    seq_bytes: float = 0.0
    token_units: float = 0.0
    key_units: float = 0.0
    seq_units: float = 0.0
    rows: float = 1e3
    walks_keys: bool = False
    least_pairs: float = 0.0

    def bytes(self, s: Sums) -> float:
        """Return the main-memory traffic of a call [B]."""
        return (
            self.pair_bytes * s.pairs + self.key_bytes * s.kv + self.token_bytes * s.tokens + self.seq_bytes * s.batch
        )


GATHERS = 128.0
"""Pieces of work that gather a sequence's pools before its prompt reads them, independent of the number of pools."""


def sparse_rates(
    heads: Amount, width: Amount, row: Amount, decode: bool, least: Amount = 0.0, gathers: Amount = 0.0
) -> Rates:
    """Return the rates of attention to chosen entries that all heads share.

    Parameters
    ----------
    heads, width : float
        Query heads; values of an entry's key and value, with which each head multiplies.
    row : float
        Bytes of an entry.
    decode : bool
        Whether each query reads separate entries, split over pieces; a prompt's queries share them.
    least : float
        See `Rates.least_pairs`; of prompts.
    gathers : float
        Pieces of work for each sequence of prompts besides: `GATHERS` where pools are gathered.
    """
    act = 2.0 * heads * width + row
    if decode:
        return Rates(2.0 * heads * width, pair_bytes=row, token_bytes=act, key_units=1 / 64, rows=heads)
    return Rates(2.0 * heads * width, key_bytes=row, token_bytes=act, token_units=1.0,
                 seq_units=gathers, rows=heads, least_pairs=least)  # fmt: skip


def encoder_rates(heads: Amount, head_dim: Amount) -> Rates:
    """Return the rates of bidirectional attention: pieces of 128 queries of a head read all keys of their picture.

    Return rates: kernels compute heads of 64 values unpadded and pad others to their next tile, which the rows
    represent.
    """
    is_full_tile = 1024.0 * (head_dim == 64)
    return Rates(
        4.0 * heads * head_dim, token_bytes=8.0 * heads * head_dim, token_units=heads / 128.0,
        rows=head_dim + is_full_tile, walks_keys=True,
    )  # fmt: skip


def streamed(
    name: str, layer: str, kind: str, phase: str, run: Run, sums: Sums, rates: Rates, *,
    dtype: str = "", act: float = 0.0, written: float = 0.0, access: Access = IN_SEQUENCE,
) -> Op:  # fmt: skip
    """Return a streaming op.

    Parameters
    ----------
    dtype : str
        Arithmetic format; default: as activations.
    act, written : float
        Activations, and bytes written to caches and states, among the call's traffic [B].
    """
    return Op(
        name=name, layer=layer, kind=kind, phase=phase,
        shape={**asdict(sums), **{k: float(v) for k, v in asdict(rates).items()}},
        dtype=dtype or run.numerics.default,
        flops=rates.flops * sums.pairs,
        act_bytes=act, kv_write_bytes=written, kv_read_bytes=rates.bytes(sums) - act - written,
        access=access,
    )  # fmt: skip


def hyper_rates(hidden: Amount, streams: Amount, before: bool) -> Rates:
    """Return the rates of mixing `streams` streams of `hidden` values, before a part or after it.

    Before: the mixers' weights (2 + m) m columns of m h rows in 32 bit, streams read, one written.
    """
    wide = hidden * streams
    columns = (2.0 + streams) * streams
    if before:
        return Rates(2.0 * wide * (columns + 1.0), token_bytes=2.0 * (wide + hidden),
                     seq_bytes=4.0 * wide * columns, token_units=1.0)  # fmt: skip
    return Rates(2.0 * wide * (streams + 1.0), token_bytes=2.0 * (2.0 * wide + hidden), token_units=1.0)


def mixer_weights(hidden: int, streams: int) -> int:
    """Return the number of weights of one part's mixers: their matrix, its biases and three scales."""
    columns = (2 + streams) * streams
    return columns * streams * hidden + columns + 3


def hyper_ops(hidden: int, streams: int, moments: Moments, run: Run) -> tuple[Op, Op]:
    """Return the mixing ops before and after a part; the mixers' weights are read once."""
    sums = Sums(1.0, moments.tokens, moments.tokens, moments.tokens)

    def op(name: str) -> Op:
        rates = hyper_rates(hidden, streams, name == "hyper_pre")
        return streamed(name, "residual", name, "both", run, sums, rates, act=rates.token_bytes * sums.tokens)

    return op("hyper_pre"), op("hyper_post")
