"""Matrix product ``y = x w^T`` with weights in rows of the output, shape (n, k).

Few rows of `x` (a decode step) stream the weights once; many pass blocks of them that stay in the
second cache: see `blocked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocked import COLUMNS, DEFAULT, GemmConfig, product_of
from .check import require
from .jit import threads_for
from .lab import Bench, Case, Kernel, Shape, add
from .vector import LANES

F4 = npt.NDArray[np.float32]


def check_weights(w: npt.NDArray[np.generic], what: str) -> None:
    """Refuse weights that the vector kernel cannot process."""
    n, k = w.shape[-2:]
    if w.dtype not in (np.float32, np.uint16) or not w.flags.c_contiguous:
        raise ValueError(f"{what} must be contiguous float32, or bf16 as uint16")
    if n % COLUMNS or k % LANES:
        raise ValueError(f"{what} are {n} x {k}: need multiples of {COLUMNS} and {LANES}")


def gemm(x: F4, w: npt.NDArray[np.generic], out: F4, threads: int = 1, config: GemmConfig = DEFAULT) -> None:
    """Compute ``out = x w^T``: `x` (m, k) float32, `w` (n, k) float32 or bf16 as uint16, `out` (m, n).

    Raises
    ------
    ValueError
        Shapes or types that do not fit; see `check_weights`. A configuration that cannot run.
    """
    check_weights(w, "weights")
    (m, k), (n, depth) = x.shape, w.shape
    if k != depth or out.shape != (m, n):
        raise ValueError(f"shapes {x.shape}, {w.shape} and {out.shape} do not match")
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in (x, out)):
        raise ValueError("x and out must be contiguous float32")
    reason = config.invalid()
    if reason:
        raise ValueError(f"{config}: {reason}")
    threads = threads_for(w.nbytes, threads)
    product_of(config.register_m, config.register_n, w.dtype == np.float32)(
        x.ctypes.data, m, w.ctypes.data, n, k, out.ctypes.data, config.block_m or max(m, 1),
        config.block_n or n, threads,
    )  # fmt: skip


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes of small models' projections, from a decode step to a prompt."""
    rows = (1, 2, 4, 8, 16) if quick else (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
    sides = [(512, 512), (1536, 1024), (1024, 1024), (4096, 1024), (2048, 2048)]
    if not quick:
        sides += [(2560, 2560), (4096, 4096), (8192, 2048), (768, 768), (32000, 1024)]
    return [{"m": m, "n": n, "k": k, "batch": 1} for n, k in sides for m in rows]


def operands(m: int, n: int, k: int, bench: Bench) -> tuple[Any, Any, Any]:
    """Return copies of the weights, inputs, and an array for the product."""
    weights = [bench.take((n, k)) for _ in range(bench.copies(4.0 * n * k))]
    return weights, bench.take((m, k)), np.empty((m, n), np.float32)


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    m, n, k = shape["m"], shape["n"], shape["k"]
    moved = 4.0 * (n * k + m * (n + k))
    weights, x, out = operands(m, n, k, bench)

    def check() -> None:
        out[:] = np.nan
        gemm(x, weights[0], out, bench.threads)
        want = x.astype(np.float64) @ weights[0].T.astype(np.float64)
        require(out, want, "fp32", f"gemm {dict(shape)}")

    return Case(
        {"kernel": "gemm", "dtype": "fp32", **shape}, 2.0 * m * n * k, moved, len(weights),
        lambda i: gemm(x, weights[i % len(weights)], out, bench.threads), check,
    )  # fmt: skip


CPU = add(Kernel("gemm", "numba", "gemm", shapes, case))
