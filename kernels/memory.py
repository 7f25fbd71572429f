"""Arrays that are aligned to cache lines, as vector stores need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LINE = 64
"""Size of a cache line, and of the widest vector register [B]."""


def aligned(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return an uninitialised float32 array that starts at a cache line.

    Examples
    --------
    >>> aligned((3, 5)).ctypes.data % LINE
    0
    """
    size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(np.float32).reshape(shape)
