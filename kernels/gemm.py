"""Matrix product ``y = x w^T`` with weights in rows of the output, shape (n, k).

Few rows of `x` (a decode step) stream the weights once, four rows of them at a time against four
rows of `x`, in vector registers; from `BLAS_ROWS` rows on NumPy's BLAS is faster and is called.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from .check import require
from .dots import dots
from .jit import inner, parallel, threads_for
from .lab import Bench, Case, Kernel, Shape, add
from .vector import LANES

F4 = npt.NDArray[np.float32]
BLAS_ROWS = 17
"""Rows from which BLAS takes over: at 16 the two were equal on a Zen 4 core, at 64 it led by 20 %
(kernels.md of the research notes, section 7)."""
COLUMNS = 4
"""Rows of weights taken at once."""


@inner
def tile_rows(x_at, m, w_at, k, wide, out_at, out_step):
    """`m` rows of `x` against `COLUMNS` rows of weights, fp32 (`wide`) or bf16."""
    x_step = 4 * k
    done = 0
    if wide:
        while m - done >= 4:
            dots(x_at + done * x_step, x_step, w_at, 4 * k, k, out_at + done * out_step, out_step,
                 4, 4, 1)  # fmt: skip
            done += 4
        if m - done >= 2:
            dots(x_at + done * x_step, x_step, w_at, 4 * k, k, out_at + done * out_step, out_step,
                 2, 4, 1)  # fmt: skip
            done += 2
        if m > done:
            dots(x_at + done * x_step, x_step, w_at, 4 * k, k, out_at + done * out_step, out_step,
                 1, 4, 1)  # fmt: skip
    else:
        while m - done >= 4:
            dots(x_at + done * x_step, x_step, w_at, 2 * k, k, out_at + done * out_step, out_step,
                 4, 4, 0)  # fmt: skip
            done += 4
        if m - done >= 2:
            dots(x_at + done * x_step, x_step, w_at, 2 * k, k, out_at + done * out_step, out_step,
                 2, 4, 0)  # fmt: skip
            done += 2
        if m > done:
            dots(x_at + done * x_step, x_step, w_at, 2 * k, k, out_at + done * out_step, out_step,
                 1, 4, 0)  # fmt: skip


@parallel
def _product(x_at, m, w_at, n, k, wide, out_at, threads):
    blocks = n // 4
    width = 4 if wide else 2
    for thread in numba.prange(threads):
        for b in range(blocks * thread // threads, blocks * (thread + 1) // threads):
            tile_rows(x_at, m, w_at + 4 * b * k * width, k, wide, out_at + 16 * b, 4 * n)


def check_weights(w: npt.NDArray[np.generic], what: str) -> None:
    """Refuse weights that the vector kernel cannot walk."""
    n, k = w.shape[-2:]
    if w.dtype not in (np.float32, np.uint16) or not w.flags.c_contiguous:
        raise ValueError(f"{what} must be contiguous float32, or bf16 as uint16")
    if n % COLUMNS or k % LANES:
        raise ValueError(f"{what} are {n} x {k}: need multiples of {COLUMNS} and {LANES}")


def gemm(x: F4, w: npt.NDArray[np.generic], out: F4, threads: int = 1) -> None:
    """``out = x w^T``: `x` (m, k) float32, `w` (n, k) float32 or bf16 as uint16, `out` (m, n).

    Raises
    ------
    ValueError
        Shapes or types that do not fit; see `check_weights`.
    """
    check_weights(w, "weights")
    (m, k), (n, depth) = x.shape, w.shape
    if k != depth or out.shape != (m, n):
        raise ValueError(f"shapes {x.shape}, {w.shape} and {out.shape} do not match")
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in (x, out)):
        raise ValueError("x and out must be contiguous float32")
    wide = w.dtype == np.float32
    if wide and m >= BLAS_ROWS:
        np.matmul(x, w.T, out=out)
    else:
        threads = threads_for(w.nbytes, threads)
        _product(x.ctypes.data, m, w.ctypes.data, n, k, wide, out.ctypes.data, threads)


def shapes(quick: bool) -> Sequence[Shape]:
    """Projections of small models, from a decode step to a prompt."""
    rows = (1, 2, 4, 8, 16) if quick else (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
    sides = [(512, 512), (1536, 1024), (1024, 1024), (4096, 1024), (2048, 2048)]
    if not quick:
        sides += [(2560, 2560), (4096, 4096), (8192, 2048), (768, 768), (32000, 1024)]
    return [{"m": m, "n": n, "k": k, "batch": 1} for n, k in sides for m in rows]


def case(shape: Shape, bench: Bench) -> Case:
    """Inputs for one shape, and the same by NumPy."""
    m, n, k = shape["m"], shape["n"], shape["k"]
    moved = 4.0 * (n * k + m * (n + k))
    copies = bench.copies(4.0 * n * k)
    weights = [bench.take((n, k)) for _ in range(copies)]
    x, out = bench.take((m, k)), np.empty((m, n), np.float32)

    def check() -> None:
        out[:] = np.nan
        gemm(x, weights[0], out, bench.threads)
        want = x.astype(np.float64) @ weights[0].T.astype(np.float64)
        require(out, want, "fp32", f"gemm {dict(shape)}")

    return Case(
        {"kernel": "gemm", "dtype": "fp32", **shape}, 2.0 * m * n * k, moved, copies,
        lambda i: gemm(x, weights[i % copies], out, bench.threads), check,
        lambda i: np.matmul(x, weights[i % copies].T, out=out), m >= BLAS_ROWS,
    )  # fmt: skip


CPU = add(Kernel("gemm", "numba", "gemm", shapes, case))
