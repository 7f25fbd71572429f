"""Registry of kernels, and the data of one shape that is ready to run.

A kernel's module adds a :class:`Kernel` for each backend it has. The harness (`measure`) asks it for
a case, checks the result against the reference, and only then takes the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ..workloads.errors import InputError, nearest
from ..workloads.kernel_schemas import SCHEMAS
from ..workloads.registry import Registry
from .check import to_bf16
from .memory import LINE, aligned

MODULES = ("attention_decode", "attention_prefill", "mla_decode", "experts", "gemm", "rmsnorm",
           "router", "permute", "indexer", "gathered_attention", "delta_rule", "mamba_scan",
           "four_bit")  # fmt: skip
"""Modules of this package that add kernels."""
NAMES = tuple(name for module in MODULES for name in {"delta_rule": (module, "kda")}.get(module, (module,)))
"""Names of the kernels in these modules, in the order of lists."""

Shape = Mapping[str, Any]
MOST_COPIES = 1024
"""Maximum sets of inputs: with 64, sets of 128 KiB were still in a cache of 32 MiB."""


@dataclass(frozen=True, slots=True)
class Case:
    """One shape of one kernel, ready to run.

    Attributes
    ----------
    columns : mapping
        ``kernel``, ``dtype`` and the shape columns of its table.
    flops, bytes : float
        Matmul FLOP, and least bytes of main memory moved [B], of one call.
    copies : int
        Sets of inputs; calls take them in turn, so that none is still in a cache.
    run : callable
        ``run(i)`` computes with inputs ``i % copies``.
    check : callable
        Runs once, compares with the reference, and raises `check.WrongResult`.
    """

    columns: Mapping[str, Any]
    flops: float
    bytes: float
    copies: int
    run: Callable[[int], object]
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on one backend.

    Attributes
    ----------
    name : str
        Module's name.
    backend : str
        "numba"; GPU kernels are cases of `gpu_cases`.
    family : str or None
        Stem of its table (`workloads.kernel_tables`); None where no family has such rows.
    shapes : callable
        ``shapes(quick)``: what `opbyte measure` runs.
    case : callable
        ``case(shape, bench)``; `bench` is a :class:`Bench`, or the device's own for cupy.
    title : str
        One line on it; empty: the first line of `case`'s module.
    """

    name: str
    backend: str
    family: str | None
    shapes: Callable[[bool], Sequence[Shape]]
    case: Callable[[Shape, Any], Case]
    title: str = ""


def _measurable(kernel: Kernel) -> None:
    """Refuse a kernel that the harness cannot run or for which it has no table."""
    if kernel.backend != "numba":
        raise InputError("its backend", f"must be numba, not {kernel.backend!r}")
    if kernel.family is not None and kernel.family not in SCHEMAS:
        raise InputError("its family", f"is not a kernel table{nearest(kernel.family, SCHEMAS)}")
    if not kernel.shapes(True):
        raise InputError("its shapes", "must be at least 1")


KERNELS: Registry[Kernel] = Registry("kernel", described=True, check=_measurable)


def add(kernel: Kernel) -> Kernel:
    """Register a kernel.

    Raises
    ------
    InputError
        Unknown backend or family, no shapes, or neither a title nor a docstring of its module.
    """
    home = sys.modules.get(kernel.case.__module__)
    title = kernel.title or (getattr(home, "__doc__", None) or "").strip().partition("\n")[0]
    name = f"{kernel.name}:{kernel.backend}"
    return KERNELS.register(name, title.rstrip(".:"))(kernel)


def kernels(backend: str) -> list[Kernel]:
    """Return the kernels of a backend: `NAMES` in order, then user-defined ones by name."""
    for module in MODULES:
        import_module(f".{module}", __package__)
    listed = [KERNELS[name] for name in KERNELS if name.endswith(f":{backend}")]
    order = {name: place for place, name in enumerate(NAMES)}
    return sorted(listed, key=lambda kernel: order.get(kernel.name, len(order)))


class Bench:
    """Source of a CPU case's inputs: views of one large block of random numbers.

    Filling gigabytes with fresh numbers for each shape would take longer than the timing. Views start at cache lines
    and follow one another around the block, so that the copies of a case, and the cases after it, meet cold caches.

    Parameters
    ----------
    block_bytes : int
        Size of the block; more than the last-level cache several times over.
    """

    def __init__(self, block_bytes: int, threads: int, seed: int = 0) -> None:
        self.threads = threads
        self.rng = np.random.default_rng(seed)
        self.block = aligned((block_bytes // 4,))
        piece = self.rng.standard_normal(1 << 20, dtype=np.float32)
        for start in range(0, len(self.block), len(piece)):
            part = self.block[start : start + len(piece)]
            # Rolled, so that no two pieces are equal line by line.
            part[:] = np.roll(piece, 7 * start // len(piece))[: len(part)]
        self._halves: npt.NDArray[np.uint16] | None = None
        self._room: npt.NDArray[np.float32] | None = None
        self._at, self._room_at = 0, 0

    def copies(self, bytes_: float) -> int:
        """Return the number of separate sets of inputs of this size [B] in the block.

        Raises
        ------
        ValueError
            Not one: a case's inputs would share memory, and read it from a cache.
        """
        if bytes_ > self.block.nbytes:
            raise ValueError(f"{bytes_:.3g} B of inputs do not fit into {self.block.nbytes} B")
        return max(1, min(MOST_COPIES, int(0.9 * self.block.nbytes // max(bytes_, 1))))

    def take(self, shape: Sequence[int], bf16: bool = False) -> npt.NDArray[Any]:
        """Return standard normal numbers of a shape, as float32 or as bf16 in uint16; they must not be written."""
        if bf16 and self._halves is None:
            self._halves = to_bf16(self.block)
        source: npt.NDArray[Any] = self.block if not bf16 else self._halves  # type: ignore[assignment]
        out, self._at = _cut(source, self._at, shape)
        return out

    def room(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return a writable array of a shape with finite numbers: a view of a second block, half as large."""
        if self._room is None:
            self._room = aligned((len(self.block) // 2,))
            self._room[:] = 1.0
        out, self._room_at = _cut(self._room, self._room_at, shape)
        return out

    def rooms(self, bytes_: float) -> int:
        """Return the number of distinct sets of written arrays of this size [B] in `room`."""
        return max(1, min(MOST_COPIES, int(0.45 * self.block.nbytes // max(bytes_, 1))))


def _cut(source: npt.NDArray[Any], at: int, shape: Sequence[int]) -> tuple[npt.NDArray[Any], int]:
    """Return a view of `source` from `at` on, or from its start if too little is left, and the next position."""
    count = int(np.prod(shape))
    if count > len(source):
        raise ValueError(f"an input of {count} numbers does not fit into {len(source)}")
    start = at % len(source)
    if start + count > len(source):
        start = 0
    step = LINE // source.itemsize
    return source[start : start + count].reshape(shape), -(-(start + count) // step) * step
