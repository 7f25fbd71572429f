"""Comparison of a kernel's result with a reference that is computed in fp64 from the same rounded inputs.

Three criteria must hold (from FlashAttention-3, DeepGEMM and FlashMLA's tests): the error's norm over the reference's
norm; the largest single error over the reference's largest value; the cosine distance ``1 - 2 <x, y> / (|x|^2 +
|y|^2)`` of every group (a sequence, a token, an expert), so that a small wrong group is not hidden by the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest accepted errors by the three criteria of this module."""

    norm: float
    largest: float
    cosine: float


TOLERANCES = {
    # fp32 sums of up to some thousand products: sqrt(4096) roundings of 6e-8, and a margin of 4.
    "fp32": Tolerance(1.5e-5, 1e-4, 1e-9),
    # Outputs rounded to 10 bits (fp16) or 7 bits (bf16) of fraction: half a unit, and a margin of
    # 4 for weights of the softmax and of SwiGLU that are rounded on the way.
    "fp16": Tolerance(2e-3, 4e-3, 5e-6),
    "bf16": Tolerance(1.6e-2, 3.2e-2, 2.5e-4),
}
"""Tolerances by the narrowest format in the computation of a result."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Errors of one result by the three criteria, and whether it is finite."""

    norm: float
    largest: float
    cosine: float
    finite: bool

    def within(self, tolerance: Tolerance) -> bool:
        return (
            self.finite
            and self.norm <= tolerance.norm
            and self.largest <= tolerance.largest
            and self.cosine <= tolerance.cosine
        )


def agreement(got: npt.ArrayLike, want: npt.NDArray[np.float64]) -> Agreement:
    """Compare a result with its reference.

    Parameters
    ----------
    got, want : arrays of one shape
        The first axis counts groups. NaN or infinity only in `got` is a failure.
    """
    x, y = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"result has shape {x.shape}, reference {y.shape}")
    if x.size == 0:
        return Agreement(0.0, 0.0, 0.0, True)
    if not np.isfinite(x).all():
        return Agreement(np.inf, np.inf, np.inf, False)
    scale = np.linalg.norm(y) or 1.0
    top = float(np.abs(y).max()) or 1.0
    a, b = x.reshape(len(x), -1), y.reshape(len(y), -1)
    squares = (a * a).sum(1) + (b * b).sum(1)
    # A group of zeros (no keys, no tokens) must be zeros: its distance is then 0, else 1.
    distance = 1.0 - 2.0 * (a * b).sum(1) / np.where(squares > 0, squares, 1.0)
    distance[squares == 0] = 0.0
    return Agreement(
        float(np.linalg.norm(x - y) / scale), float(np.abs(x - y).max() / top), float(distance.max()), True
    )


class WrongResult(ArithmeticError):
    """Raised if a kernel's result exceeds its tolerance, so that it is not timed."""


def require(got: Any, want: npt.NDArray[np.float64], dtype: str, what: str) -> Agreement:
    """Compare, and raise `WrongResult` outside the tolerance of `dtype`."""
    checked = agreement(got, want)
    if not checked.within(TOLERANCES[dtype]):
        raise WrongResult(f"{what}: {checked} is outside {TOLERANCES[dtype]}")
    return checked


def to_bf16(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round fp32 to bf16, to nearest with ties to even, and return the upper 16 bits.

    Examples
    --------
    >>> to_bf16(np.array([1.0, -2.5], dtype=np.float32)).tolist()
    [16256, 49184]
    """
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bf16(x: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Convert bf16, stored as uint16, to fp32."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
