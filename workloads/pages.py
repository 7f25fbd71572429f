"""Memory of arrays' rows, given back to the system while the arrays stay."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

OWN_MAP = 1 << 18
"""Size in bytes from which rows get a separate mapping; a process has some 65,000."""
PRIVATE: dict[str, Any] = {}
if hasattr(mmap, "MAP_PRIVATE"):
    PRIVATE["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # pages of a shared mapping are never given back
PAGE_ROWS = mmap.PAGESIZE // 8
"""Rows of a column of 8 bytes that fill a page."""


@cache
def _madvise() -> Any:
    """The system's ``madvise`` where ``MADV_DONTNEED`` gives anonymous memory back; None elsewhere."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)


def give_back(array: npt.NDArray[Any], first: int, last: int) -> None:
    """Give the memory of rows that are never looked at again back to the system, whole pages of it.

    What is looked at all the same is zero.
    """
    begin = array.ctypes.data + first * array.strides[0]
    begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (array.ctypes.data + last * array.strides[0]) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin and (advise := _madvise()) is not None:
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def new_rows(shape: int | tuple[int, ...], dtype: npt.DTypeLike, lets_go: bool) -> npt.NDArray[Any]:
    """Zeros; where rows are let go, they take memory only where they are written, and not in huge pages.

    A page costs a microsecond when it is first written, a huge one a twentieth of it by its bytes.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < OWN_MAP or not lets_go:
        return np.zeros(shape, dtype)
    room = mmap.mmap(-1, size, **PRIVATE)  # what was in use before would be zeroed, and so taken, as a whole
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, dtype).reshape(shape)


def runs(which: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and behind last place of each run of true ones.

    Examples
    --------
    >>> list(runs(np.array([True, True, False, True])))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(which, prepend=False, append=False)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)
