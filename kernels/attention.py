"""Common parts of the attention kernels: the paged cache, the reference, and the inputs of a case.

A cache is two arrays ``(pages, heads_kv, page_size, head_dim)``, and a table
``(sequences, pages of the longest)`` says where each sequence's keys lie. A contiguous cache
is one page a sequence: ``page_size`` its longest length, table ``[[0], [1], ...]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .check import require
from .flash import I8, AttentionConfig, Units, attention, cut
from .jit import threads_for
from .lab import Bench, Case, Shape
from .tiles import GROUP
from .vector import LANES

F4 = npt.NDArray[np.float32]
I4 = npt.NDArray[np.int32]
DEFAULT = AttentionConfig()
PAGE = 128


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of a batch, in the layout of this module.

    Attributes
    ----------
    keys, values : float32 array, shape (pages, heads_kv, page_size, head_dim)
        `values` may be `keys` itself where values are the first numbers of keys (MLA).
    table : int32 array, shape (sequences, most pages)
    lengths : int64 array, shape (sequences,)
    """

    keys: F4
    values: F4
    table: I4
    lengths: I8

    def __post_init__(self) -> None:
        page = self.keys.shape[2]
        if self.keys.shape != self.values.shape:
            raise ValueError(f"keys {self.keys.shape} and values {self.values.shape} differ")
        if self.keys.shape[3] % LANES:
            raise ValueError(f"head_dim {self.keys.shape[3]} must be a multiple of {LANES}")
        used = -(-self.lengths // page)
        if (self.lengths < 0).any() or (used > self.table.shape[1]).any():
            raise ValueError(f"lengths must be between 0 and {self.table.shape[1] * page} keys")
        inside = np.arange(self.table.shape[1])[None, :] < used[:, None]
        pages = self.table[inside]
        if len(pages) and not 0 <= pages.min() <= pages.max() < len(self.keys):
            raise ValueError(f"the table names pages outside 0 to {len(self.keys) - 1}")
        if not (self.keys.flags.c_contiguous and self.values.flags.c_contiguous):
            raise ValueError("keys and values must be contiguous")

    def gather(self, sequence: int) -> tuple[F4, F4]:
        """Return the keys and values of one sequence, shape (length, heads_kv, head_dim)."""
        length, page = int(self.lengths[sequence]), self.keys.shape[2]
        at = np.arange(length)
        pages = self.table[sequence, at // page]
        return self.keys[pages, :, at % page], self.values[pages, :, at % page]


@dataclass(slots=True)
class AttentionUnits:
    """Units and workspace for partial results of a batch of one shape; all layers of a step use them."""

    units: Units
    shares: I8
    offset: I8
    window: int
    group: int
    tile: int
    top: F4
    total: F4
    parts: F4


def plan(
    queries: I8, lengths: I8, heads_q: int, heads_kv: int, dim_v: int, window: int, threads: int,
    config: AttentionConfig = DEFAULT,
) -> AttentionUnits:  # fmt: skip
    """Divide a batch into units and allocate their workspace.

    Parameters
    ----------
    queries, lengths : int64 array, shape (sequences,)
        New positions at the end of each sequence, and its keys.
    window : int
        Keys a query sees at most, itself included; 0 = all.

    Raises
    ------
    ValueError
        Heads or lengths that do not fit, or a configuration that cannot run.
    """
    reason = config.invalid()
    if reason:
        raise ValueError(f"{config}: {reason}")
    if heads_q % heads_kv:
        raise ValueError(f"{heads_q} query heads are not a multiple of {heads_kv} key/value heads")
    live = lengths > 0
    if (queries[live] > lengths[live]).any():
        raise ValueError("more new positions than keys in a sequence")
    group = heads_q // heads_kv
    traffic = 8.0 * dim_v * heads_kv * float(lengths.sum()) * max(1.0, float(queries.mean()) / 8)
    threads = threads_for(traffic, threads)
    block = config.block if (queries > 1).any() else 1
    # Prompts have units enough without cutting their keys.
    keys = config.chunk if block == 1 else int(max(lengths.max(initial=1), 1))
    units = cut(queries, lengths, heads_kv, window, block, keys, group, config.tile)
    most = -(-block * group // GROUP) * GROUP
    count = len(units.rows)
    return AttentionUnits(
        units, units.shares(threads), lengths - queries, window, group, config.tile,
        np.empty((count, most), np.float32), np.empty((count, most), np.float32),
        np.empty((count, most, dim_v), np.float32),
    )  # fmt: skip


def attend(p: AttentionUnits, q: F4, cache: Cache, scale: float, out: F4) -> None:
    """Compute attention of `q`, shape (sequences, new positions, heads_q, head_dim), into `out`.

    Positions beyond a sequence's own count, and sequences without keys, are set to 0.
    """
    dim, dim_v = q.shape[3], out.shape[3]
    if q.shape[3] != cache.keys.shape[3]:
        raise ValueError(f"queries of {q.shape[3]} numbers, keys of {cache.keys.shape[3]}")
    if not (q.flags.c_contiguous and out.flags.c_contiguous and q.dtype == out.dtype == np.float32):
        raise ValueError("queries and output must be contiguous float32")
    heads, page = cache.keys.shape[1], cache.keys.shape[2]
    out[:] = 0.0
    attention(dim, dim_v, p.tile)(
        q, cache.keys.ctypes.data, cache.values.ctypes.data, cache.table, heads, page,
        p.units.rows, p.units.groups, p.shares, p.group, np.float32(scale), p.offset, p.window,
        p.top, p.total, p.parts, out, len(p.shares) - 1,
    )  # fmt: skip


def reference(q: F4, cache: Cache, queries: I8, window: int, scale: float, dim_v: int) -> npt.NDArray[np.float64]:
    """Return attention by its definition in fp64: softmax(scale q k) v under the causal mask."""
    sequences, most, heads, _ = q.shape
    out = np.zeros((sequences, most, heads, dim_v))
    for b in range(sequences):
        keys, values = (x.astype(np.float64) for x in cache.gather(b))
        length, new = len(keys), int(queries[b])
        if not length or not new:
            continue
        group = heads // keys.shape[1]
        position = length - new + np.arange(new)
        seen = np.arange(length)[None, :] <= position[:, None]
        if window:
            seen &= np.arange(length)[None, :] > position[:, None] - window
        for h in range(heads):
            score = scale * (q[b, :new, h].astype(np.float64) @ keys[:, h // group].T)
            score = np.where(seen, score, -np.inf)
            weight = np.exp(score - score.max(1, keepdims=True))
            weight /= weight.sum(1, keepdims=True)
            out[b, :new, h] = weight @ values[:, h // group, :dim_v]
    return out


def paged_cache(bench: Bench, batch: int, kv_len: int, heads: int, dim: int, latent: bool = False) -> Cache:
    """Return a cache of scattered pages of `PAGE` keys; the values of a latent cache are its keys."""
    pages = -(-kv_len // PAGE) * batch
    keys = bench.take((pages, heads, PAGE, dim))
    values = keys if latent else bench.take(keys.shape)
    table = bench.rng.permutation(pages).astype(np.int32).reshape(batch, -1)
    return Cache(keys, values, table, np.full(batch, kv_len, dtype=np.int64))


class AttentionInputs(NamedTuple):
    """Inputs of one shape: queries, caches that calls use in turn, and new positions of each sequence."""

    q: F4
    caches: list[Cache]
    queries: I8
    dim_v: int
    scale: float
    window: int = 0

    def reference(self) -> npt.NDArray[np.float64]:
        """Return the reference result with the first cache."""
        return reference(self.q, self.caches[0], self.queries, self.window, self.scale, self.dim_v)

    def call(self, threads: int, config: AttentionConfig = DEFAULT) -> tuple[Callable[[int], None], F4]:
        """Return a function that attends with the i-th cache, and the array that it writes."""
        first, heads = self.caches[0], self.q.shape[2]
        out = np.empty((*self.q.shape[:3], self.dim_v), np.float32)
        units = plan(self.queries, first.lengths, heads, first.keys.shape[1], self.dim_v, self.window, threads, config)
        return lambda i: attend(units, self.q, self.caches[i % len(self.caches)], self.scale, out), out

    def case(
        self, columns: Shape, flops: float, bytes_: float, threads: int, config: AttentionConfig = DEFAULT
    ) -> Case:
        """Return the case of these inputs; `columns`, `flops` and `bytes_` as in `Case`."""
        run, out = self.call(threads, config)

        def check() -> None:
            checked(run, out, self.reference(), str(dict(columns)))

        return Case(columns, flops, bytes_, len(self.caches), run, check)


def checked(run: Callable[[int], object], out: F4, want: npt.NDArray[np.float64], what: str) -> None:
    """Run a kernel once on a poisoned output and compare the result.

    Raises
    ------
    WrongResult
        The output differs from the reference.
    """
    out[:] = np.nan
    run(0)
    require(out, want, "fp32", what)


def paged_inputs(shape: Shape, bench: Bench, copy_bytes: float = 0.0) -> AttentionInputs:
    """Return inputs of grouped attention: a decode of ``kv_len`` keys, or ``q_len`` positions after ``kv_prefix``.

    `copy_bytes` are those of one set of inputs; its keys and values where none are given.
    """
    batch, heads_q, heads_kv, dim = (shape[n] for n in ("batch", "heads_q", "heads_kv", "head_dim"))
    new = shape.get("q_len", 1)
    kv_len = shape["kv_len"] if "kv_len" in shape else new + shape["kv_prefix"]
    copies = bench.copies(copy_bytes or 8.0 * batch * kv_len * heads_kv * dim)
    caches = [paged_cache(bench, batch, kv_len, heads_kv, dim) for _ in range(copies)]
    q = bench.take((batch, new, heads_q, dim))
    return AttentionInputs(q, caches, np.full(batch, new, np.int64), dim, dim**-0.5, shape["window"])
