"""Memory of array rows that are no longer needed, returned to the operating system while the arrays stay."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

OWN_MAP = 1 << 18
"""Array size [B] from which rows get a separate memory mapping; a process can have some 65,000 mappings."""
PRIVATE: dict[str, Any] = {}
if hasattr(mmap, "MAP_PRIVATE"):
    PRIVATE["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # pages of a shared mapping are never given back
PAGE_ROWS = mmap.PAGESIZE // 8
"""Number of 8-byte values that fill a memory page."""


@cache
def _madvise() -> Any:
    """Return the system's ``madvise`` if ``MADV_DONTNEED`` frees anonymous memory; None otherwise."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)


def give_back(array: npt.NDArray[Any], first: int, last: int) -> None:
    """Return the memory of rows that are not read again to the system, in whole pages.

    Rows that are read nevertheless are zero.
    """
    begin = array.ctypes.data + first * array.strides[0]
    begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (array.ctypes.data + last * array.strides[0]) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin and (advise := _madvise()) is not None:
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def new_rows(shape: int | tuple[int, ...], dtype: npt.DTypeLike, lets_go: bool) -> npt.NDArray[Any]:
    """Return zeroed rows.

    If rows are freed later (`lets_go`), memory is used only where they are written, without huge pages.

    The first write of a page takes a microsecond; for a huge page it is a twentieth of that per byte.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < OWN_MAP or not lets_go:
        return np.zeros(shape, dtype)
    room = mmap.mmap(-1, size, **PRIVATE)  # what was in use before would be zeroed, and so taken, as a whole
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, dtype).reshape(shape)


def runs(which: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the first index of each run of true values, and the index behind its last.

    Examples
    --------
    >>> list(runs(np.array([True, True, False, True])))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(which, prepend=False, append=False)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)
