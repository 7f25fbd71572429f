"""Memory of arrays' rows, given back to the system while the arrays stay."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import numpy.typing as npt


@cache
def _advise() -> Any:
    """The system's ``madvise`` where ``MADV_DONTNEED`` gives anonymous memory back; None elsewhere."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)


def give_back(array: npt.NDArray[Any], first: int, last: int) -> None:
    """Give the memory of rows that are never looked at again back to the system, whole pages of it."""
    begin = array.ctypes.data + first * array.strides[0]
    begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (array.ctypes.data + last * array.strides[0]) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin and (advise := _advise()) is not None:
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
