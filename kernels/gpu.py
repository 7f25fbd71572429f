"""The CUDA kernels as Python functions of arrays, with their grids, variants and workspaces.

A function takes a :class:`Device`, which runs kernels and makes arrays: CuPy's here, and in the tests one
that runs the same sources on the CPU. Arrays of numbers are fp16 or bf16 (`format_`); lengths,
tables and offsets are int32 and stay on the device, so that a captured graph serves other loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from .cuda_build import FORMATS, header_folders, source_text

WARPS = 4
"""Warps of an attention or expert block; in a decode each warp handles a separate part."""
NARROW = 64
"""Mean tokens per expert up to which weights are streamed; above, tiles of 128 x 128 are used."""
STAGES, TILE, PITCH = 3, 128, 40
TILED = 0
"""Value of `tiles` in `experts_layer` for tiled products instead of streamed weights."""


class Device(Protocol):
    """Interface of devices that run kernels."""

    @property
    def cores(self) -> int:
        """Number of streaming multiprocessors."""
        ...

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Return an array with undefined content, to be written before it is read."""
        ...

    def run(
        self, source: str, macros: Sequence[str], kernel: str, grid: Sequence[int], block: int,
        args: Sequence[Any], shared_bytes: int = 0,
    ) -> None:  # fmt: skip
        """Run a kernel; Python ints and floats are passed as 32-bit numbers, None as a null pointer."""
        ...


class CupyDevice:
    """The current CUDA device, accessed with CuPy.

    Raises
    ------
    ImportError
        CuPy is not installed.
    """

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.cores: int = cupy.cuda.Device().attributes["MultiProcessorCount"]

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self.cupy.empty(tuple(shape), dtype)

    def run(
        self, source: str, macros: Sequence[str], kernel: str, grid: Sequence[int], block: int,
        args: Sequence[Any], shared_bytes: int = 0,
    ) -> None:  # fmt: skip
        import numpy as np

        function = self._kernel(source, tuple(macros), kernel, shared_bytes)
        given = [
            np.int32(a) if type(a) is int else np.float32(a) if type(a) is float else np.intp(0) if a is None else a
            for a in args
        ]
        function((*grid, *([1] * (3 - len(grid)))), (block, 1, 1), given, shared_mem=shared_bytes)

    @lru_cache(maxsize=256)  # noqa: B019 - one device lives as long as the process
    def _kernel(self, source: str, macros: tuple[str, ...], kernel: str, shared: int) -> Any:
        # Kept: making a module anew loads it anew, which takes longer than the kernel.
        options = ("-std=c++17", *(f"-D{m}" for m in macros))
        options += tuple(f"-I{folder}" for folder in header_folders())
        module = self.cupy.RawModule(code=source_text(source), options=options, backend="nvrtc")
        function = module.get_function(kernel)
        if shared > 48 << 10:
            function.max_dynamic_shared_size_bytes = shared
        return function


def rmsnorm(device: Device, x: Any, w: Any, out: Any, residual: Any, format_: str, eps: float = 1e-6) -> None:
    """Normalise the rows of `x`, shape (rows, cols), into `out`; `residual` may be None."""
    rows, cols = x.shape
    if cols < 256 or cols % 256 or (cols >= 2048 and cols % 2048) or (cols % 4096 and cols > 8192):
        raise ValueError(f"rows of {cols} numbers: 256 to 1,792 by 256, or a multiple of 2,048")
    threads = 512 if cols >= 8192 else 256 if cols >= 2048 else cols // 8
    blocks = min(rows, device.cores * (2048 // threads))
    device.run("rmsnorm", (f"COLS={cols}", *FORMATS[format_]), "rmsnorm", (blocks,), threads,
               (x, residual, w, out, rows, eps))  # fmt: skip


def route(
    device: Device, logits: Any, bias: Any, k: int, kind: str, ids: Any, weights: Any, normalise: bool = True
) -> None:
    """Choose experts from float32 `logits`, shape (tokens, experts), and write `ids` and `weights`."""
    tokens, experts = logits.shape
    if not 1 <= k <= min(32, experts):
        raise ValueError(f"k is {k}: must be between 1 and {min(32, experts)}")
    device.run("router", (f"EXPERTS={experts}",), "route", (-(-tokens // 4),), 128,
               (logits, bias, ids, weights, tokens, k, int(kind == "sigmoid"), int(normalise)))  # fmt: skip


def sort_slots(device: Device, ids: Any, experts: int, offsets: Any, slots: Any, position: Any) -> None:
    """Sort the choices, shape (tokens, k), by expert; see `permute.SlotOrder` for the outputs."""
    device.run("permute", (), "sort_slots", (experts // 4 + 1,), 128,
               (ids, offsets, slots, position, int(ids.size), experts))  # fmt: skip


def gather(device: Device, x: Any, slots: Any, k: int, out: Any, format_: str) -> None:
    """Copy each slot's token row, shape (tokens, hidden), to the slot's sorted position."""
    count, hidden = int(slots.size), x.shape[1]
    device.run("permute", FORMATS[format_], "gather_rows", (min(count, 65535),), 128, (x, slots, out, count, k, hidden))


def combine(device: Device, y: Any, position: Any, weights: Any, out: Any, format_: str) -> None:
    """Write the weighted sum of each token's k rows of `y`."""
    tokens, k = weights.shape
    device.run("permute", FORMATS[format_], "combine_rows", (min(tokens, 65535),), 128,
               (y, position, weights, out, tokens, k, out.shape[1]))  # fmt: skip


def grouped_gemm(
    device: Device, x: Any, offsets: Any, w: Any, out: Any, most_rows: int, format_: str, stages: int = STAGES
) -> None:
    """Multiply the rows of each expert by its weights, shape (experts, n, k), transposed.

    `stages` of both operands are in shared memory (gemm.cu).
    """
    experts, n, k = w.shape
    if k % 32 or n % 8:
        raise ValueError(f"weights are {n} x {k}: need multiples of 8 and 32")
    grid = (-(-n // TILE), -(-most_rows // TILE), experts)
    device.run("gemm", (f"STAGES={stages}", *FORMATS[format_]), "grouped_gemm", grid, 256,
               (x, offsets, w, out, n, k), 2 * stages * TILE * PITCH * 2)  # fmt: skip


def expert_tiles(mean: float) -> int:
    """Return how `experts_layer` runs experts with a mean number of tokens: tiles of 8 tokens, or `TILED`."""
    if mean > NARROW:
        return TILED
    return 1 if mean <= 8 else 2 if mean <= 16 else 4


def experts_layer(
    device: Device, x: Any, offsets: Any, gate: Any, up: Any, down: Any, h: Any, out: Any,
    format_: str, tiles: int | None = None, block: int = 0,
) -> None:  # fmt: skip
    """Apply each expert to its sorted rows of `x`; `h`, shape (slots, inter), is workspace.

    `tiles` of 8 tokens share a pass over the weights: 1, 2 or 4; `TILED` for products of 128 x 128
    tiles; by `expert_tiles` without it.
    `block` are the weights under one scale of packed 4-bit rows (`four_bit.BLOCK`); 0 = 16-bit weights.
    """
    experts, inter, _ = gate.shape
    slots, hidden = x.shape
    tiles = 2 if block else expert_tiles(slots / experts) if tiles is None else tiles
    if tiles == TILED:
        import numpy as np

        other = device.empty(h.shape, str(h.dtype))
        grouped_gemm(device, x, offsets, gate, h, slots, format_)
        grouped_gemm(device, x, offsets, up, other, slots, format_)
        count = slots * inter
        device.run("gemm", FORMATS[format_], "swiglu", (min(-(-count // 2048), 65535),), 256,
                   (h, other, h, np.int64(count)))  # fmt: skip
        grouped_gemm(device, h, offsets, down, out, slots, format_)
        return
    if hidden % 128 or inter % 128:
        raise ValueError(f"hidden {hidden} and inter {inter} must be multiples of 128")
    macros = (f"NT={tiles}", *([f"FOUR={block}"] if block else ()), *FORMATS[format_])
    device.run("experts", macros, "gate_up", (inter // 16, experts), 128, (x, offsets, gate, up, h, hidden, inter))
    device.run("experts", macros, "down", (hidden // 16, experts), 128, (h, offsets, down, out, hidden, inter))


def page_shift(page: int) -> int:
    """Return the base-2 logarithm of a page size."""
    if page < 1 or page & (page - 1):
        raise ValueError(f"pages of {page} keys: must be a power of two")
    return page.bit_length() - 1


def most_splits(seen: int) -> int:
    """Return the maximum number of parts of a decode's keys: each warp gets at least 64 keys."""
    return max(1, -(-seen // (64 * WARPS)))


def decode_splits(cores: int, blocks: int, seen: int) -> int:
    """Return the number of parts into which `decode` cuts a sequence's keys; two blocks fit a multiprocessor."""
    return max(1, min(-(-2 * cores // blocks), most_splits(seen)))


def mla_splits(cores: int, blocks: int, longest: int) -> int:
    """Return the number of parts into which `mla_decode` cuts the keys of a sequence.

    Three blocks fit a multiprocessor, and a part has at least 64 keys.
    """
    return max(1, min(-(-3 * cores // blocks), -(-longest // 64)))


def decode(
    device: Device, q: Any, keys: Any, values: Any, table: Any, lengths: Any, out: Any, longest: int,
    window: int, scale: float, format_: str, splits: int | None = None,
) -> None:  # fmt: skip
    """Run GQA decode: `q`, `out` (sequences, heads_q, dim), with a paged cache (see `attention`).

    Parameters
    ----------
    longest : int
        At least the longest length; splits are chosen by it, so that a graph stays valid.
    splits : int, optional
        Parts of a sequence's keys; by `decode_splits` without it.
    """
    sequences, heads, dim = q.shape
    heads_kv, page = keys.shape[1], keys.shape[2]
    group = heads // heads_kv
    blocks = sequences * heads_kv * -(-group // 16)
    seen = min(longest, window) if window else longest
    splits = decode_splits(device.cores, blocks, seen) if splits is None else splits
    parts = splits * WARPS
    tops, sums = (device.empty((sequences, heads, parts), "float32") for _ in range(2))
    outs = device.empty((sequences, heads, parts, dim), "float32")
    macros = (f"DIM={dim}", *FORMATS[format_])
    device.run("attention", macros, "decode", (splits, heads_kv * -(-group // 16), sequences), 128,
               (q, keys, values, table, lengths, tops, sums, outs, heads_kv, group,
                page_shift(page), table.shape[1], window, scale))  # fmt: skip
    device.run("attention", macros, "merge", (sequences * heads,), dim, (tops, sums, outs, out, parts))


def prefill(
    device: Device, q: Any, keys: Any, values: Any, table: Any, lengths: Any, queries: Any, out: Any,
    window: int, scale: float, format_: str,
) -> None:  # fmt: skip
    """Run causal attention of `q`, shape (sequences, positions, heads_q, dim), into `out`."""
    sequences, most, heads, dim = q.shape
    device.run("attention", (f"DIM={dim}", *FORMATS[format_]), "prefill",
               (-(-most // 64), heads, sequences), 128,
               (q, keys, values, table, lengths, queries, out, most, heads, keys.shape[1],
                page_shift(keys.shape[2]), table.shape[1], window, scale))  # fmt: skip


def mla_decode(
    device: Device, q: Any, cache: Any, table: Any, lengths: Any, out: Any, longest: int,
    scale: float, format_: str, splits: int | None = None,
) -> None:  # fmt: skip
    """Run MLA decode: `q` (sequences, heads, 576), `cache` (pages, page, 576), `out` (.., heads, 512).

    `splits` are parts of a sequence's keys; by `mla_splits` without it.
    """
    sequences, heads, _ = q.shape
    packs = -(-heads // 16)
    if splits is None:
        splits = mla_splits(device.cores, sequences * packs, longest)
    tops, sums = (device.empty((sequences, heads, splits), "float32") for _ in range(2))
    outs = device.empty((sequences, heads, splits, 512), "float32")
    device.run("mla", FORMATS[format_], "mla_decode", (splits, packs, sequences), 128,
               (q, cache, table, lengths, tops, sums, outs, heads, page_shift(cache.shape[1]),
                table.shape[1], scale))  # fmt: skip
    device.run("mla", FORMATS[format_], "mla_merge", (sequences * heads,), 512, (tops, sums, outs, out, splits))


def index(
    device: Device, q: Any, weights: Any, keys: Any, table: Any, lengths: Any, scores: Any, chosen: Any, format_: str
) -> None:
    """Compute an indexer's scores (arrays as in `indexer.index_scores`), and write each row's best to `chosen`."""
    sequences, tokens, heads, dim = q.shape
    longest, macros = scores.shape[2], (f"DIM={dim}", *FORMATS[format_])
    device.run("indexer", macros, "index_scores", (-(-longest // 64), tokens, sequences), 128,
               (q, weights, keys, table, lengths, scores, heads, page_shift(keys.shape[1]),
                table.shape[1], longest))  # fmt: skip
    device.run("indexer", macros, "index_select", (tokens, sequences), 256,
               (scores, lengths, chosen, longest, chosen.shape[2]))  # fmt: skip


def recur(device: Device, x: Sequence[Any], states: Any, out: Any, worst: Any, erase: bool, format_: str) -> None:
    """Process one token of each sequence, or prompts (with a second axis), in place on `states`.

    `x` are `recurrent.TokenInputs`; `worst` gets 1 where decays of channels come too low, see `recurrent.LEAST`.
    """
    _, k, v, decay, _ = x
    *lead, heads, values = v.shape
    sizes, macros = ((k.shape[-2], values, decay.shape[-1], int(erase)), (f"KEYS={k.shape[-1]}", *FORMATS[format_]))
    if len(lead) == 1:
        device.run("recurrent", macros, "recurrent_step", (-(-values // 32), heads, lead[0]), 128,
                   (*x, states, out, *sizes))  # fmt: skip
    else:
        device.run("recurrent", macros, "recurrent_chunks", (values // 16, heads, lead[0]), 128,
                   (*x, states, out, worst, lead[1], *sizes))  # fmt: skip
