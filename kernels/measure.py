"""Measure the kernels on this machine: check each shape, then time it between two ceilings.

A row is kept if the read rate before and after it agree and enough of its repetitions were left
alone; else it is tried again, and at last rejected with the reason. On a machine that is never
quiet `lenient` keeps such rows and says so in their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..workloads.kernel_tables import SCHEMAS
from .ceilings import Ceilings, measure_ceilings, read_rate
from .host import Host, this_host
from .jit import blas_threads, max_threads, use_threads
from .lab import Bench, Case, Kernel, kernels
from .timing import Sample, sample

MAX_DRIFT = 0.05
"""Largest change of the read rate across a row (kernels.md, C5)."""
TRIES = 3
LEAST = 5
"""Repetitions that must count."""


@dataclass(frozen=True, slots=True)
class Row:
    """One shape, measured.

    Attributes
    ----------
    name, family : str, str or None
        Kernel module, and the table it goes to.
    columns : mapping
        ``kernel``, ``dtype`` and the shape.
    sample, other : Sample, Sample or None
        Times of the kernel and of the same by NumPy.
    flops, bytes : float
        Of one call.
    read_Bps, drift : float
        Mean read rate around it, and its relative change.
    reason : str
        Why it should not be relied on; empty for a good row.
    """

    name: str
    family: str | None
    columns: Mapping[str, Any]
    sample: Sample
    other: Sample | None
    flops: float
    bytes: float
    read_Bps: float
    drift: float
    reason: str

    @property
    def share(self) -> float:
        """Share of the adjacent read rate."""
        return self.bytes / self.sample.median_s / self.read_Bps

    def at_rate(self, read_Bps: float) -> Row:
        """The row as it would be at another read rate: its least memory time is scaled.

        The read rate of a shared machine can double between one shape and the next.
        """
        memory_s = min(self.bytes / self.read_Bps, self.sample.median_s)
        factor = 1.0 + memory_s / self.sample.median_s * (self.read_Bps / read_Bps - 1.0)
        return replace(self, sample=self.sample.scaled(factor), read_Bps=read_Bps)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A run: rows kept and rejected, ceilings, and the machine."""

    host: Host
    ceilings: Ceilings
    rows: Sequence[Row]
    rejected: Sequence[Row]

    @property
    def best_read_Bps(self) -> float:
        return max([self.ceilings.read_Bps, *(row.read_Bps for row in self.rows)])

    @property
    def source(self) -> str:
        """Whose kernels the rows timed."""
        return "opbyte/numba" if self.host.name is None else "opbyte/cuda"

    def launch_s(self) -> float:
        """Shortest time of any kernel."""
        return min((row.sample.median_s for row in self.rows), default=1e-6)

    def memory_share(self) -> float:
        """Median share of the read rate of rows that move much and compute little."""
        ridge = self.ceilings.fma_flops_per_s / self.ceilings.read_Bps
        shares = [
            row.share
            for row in self.rows
            if row.bytes > 4e6 and row.flops / row.bytes < 0.5 * ridge and row.flops > 0
        ]
        return float(np.median(shares)) if shares else 1.0

    def at_best_rate(self) -> Measurement:
        """Every row as at the best read rate, which is the bandwidth of `yaml`'s device."""
        return replace(self, rows=[row.at_rate(self.best_read_Bps) for row in self.rows])

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """Columns of each family's table (`workloads.kernel_tables`), and what else is known."""
        out: dict[str, dict[str, list[Any]]] = {}
        for row in self.rows:
            if row.family is None:
                continue
            shape = {name: row.columns[name] for name in SCHEMAS[row.family].shape}
            line = {
                "source": self.source,
                "device": self.host.device, "kernel": row.columns["kernel"],
                "dtype": row.columns["dtype"], **shape, "timing": "kernel" if self.host.name is None else "graph",
                "measured_s": row.sample.median_s, "p10_s": row.sample.p10_s,
                "p90_s": row.sample.p90_s, "accepted": row.sample.accepted,
                "taken": row.sample.taken, "read_Bps": row.read_Bps, "drift": row.drift,
                "note": row.reason,
            }  # fmt: skip
            table = out.setdefault(row.family, {name: [] for name in line})
            for name, value in line.items():
                table[name].append(value)
        return out


def measure(
    *, quick: bool = False, threads: int | None = None, only: Sequence[str] = (),
    lenient: bool = False, compare: bool = False, seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:  # fmt: skip
    """Measure the CPU kernels.

    Parameters
    ----------
    quick : bool
        Fewer shapes, smaller buffers, shorter times: under two minutes.
    threads : int, optional
        All that this process may use without it.
    only : sequence of str
        Names of kernels; all without it.
    lenient : bool
        Keep rows that were disturbed.
    compare : bool
        Also time the same by NumPy where a kernel has it.
    progress : callable, optional
        Told how many shapes are done, of how many.

    Raises
    ------
    WrongResult
        A kernel disagrees with its reference: nothing of it is timed.
    """
    threads = threads or max_threads()
    use_threads(threads)
    with blas_threads(threads):
        return _measure(quick, threads, only, lenient, compare, seed, progress)


def _measure(
    quick: bool, threads: int, only: Sequence[str], lenient: bool, compare: bool, seed: int,
    progress: Callable[[int, int], None] | None,
) -> Measurement:  # fmt: skip
    """Ceilings first, then kernel after kernel, shape after shape."""
    bench = Bench((192 if quick else 640) << 20, threads, seed)
    ceilings = measure_ceilings(bench, budget_s=0.1 if quick else 0.5)
    chosen = [k for k in kernels("numba") if not only or k.name in only]
    work = [(kernel, shape) for kernel in chosen for shape in kernel.shapes(quick)]
    rows: list[Row] = []
    rejected: list[Row] = []
    for done, (kernel, shape) in enumerate(work):
        if progress:
            progress(done, len(work))
        case = kernel.case(shape, bench)
        case.check()
        tries = 1 if lenient else TRIES
        for _ in range(tries):
            row = _row(kernel, case, bench, quick, compare)
            if not row.reason:
                break
        (rows if lenient or not row.reason else rejected).append(row)
    return Measurement(this_host(threads), ceilings, rows, rejected)


def _row(kernel: Kernel, case: Case, bench: Bench, quick: bool, compare: bool) -> Row:
    """Time one case between two readings of the ceiling."""
    budget = 0.06 if quick else 0.4
    before = read_rate(bench)
    taken = sample(
        case.run, threads=1, least=LEAST, most=20 if quick else 40, budget_s=budget, warm_up=2
    )
    after = read_rate(bench)
    other = None
    if compare and case.other is not None:
        other = sample(case.other, threads=1, least=LEAST, most=40, budget_s=budget, warm_up=1)
    drift = after / before - 1.0
    reason = ""
    if abs(drift) > MAX_DRIFT:
        reason = f"read rate changed by {drift:+.0%}"
    elif taken.accepted < LEAST:
        reason = f"{taken.accepted} of {taken.taken} repetitions undisturbed"
    return Row(
        kernel.name, kernel.family, case.columns, taken, other, case.flops, case.bytes,
        0.5 * (before + after), drift, reason,
    )  # fmt: skip
