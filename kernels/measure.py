"""Measurement of the kernels on this machine: check each shape, then time all of them in rounds.

A row is the time of its shape in the machine's most frequent state (`rounds`). It is rejected, with the reason, if too
few undisturbed repetitions are in that state, or if the read rate drifted. On a machine that is never quiet `lenient`
keeps such rows and marks them in their columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..workloads.kernel_schemas import SCHEMAS
from .ceilings import Ceilings, MachineRates, measure_ceilings
from .host import HostInfo, this_host
from .jit import blas_threads, max_threads, use_threads
from .lab import Bench, Case, Kernel, kernels
from .rounds import CLOSE, MeasuringPlan, OnProgress, RoundTimes, TimedCase, together, visit_all
from .timing import CallSeconds, pinned, settle

MAX_DRIFT = 0.05
"""Largest relative change of the read rate during a row (kernels.md, C5)."""
LEAST = 5
"""Minimum number of valid repetitions."""
QUICK = MeasuringPlan(rounds=5, most_rounds=15, enough=15, visit_s=0.012, budget_s=40.0)
THOROUGH = MeasuringPlan(rounds=6, most_rounds=20, enough=30, visit_s=0.03, budget_s=300.0)
TRIES = 5
"""Maximum number of measurements of the peak rates, until the machine is in its usual state."""


@dataclass(frozen=True, slots=True)
class MeasuredShape:
    """Measurement of one shape.

    Attributes
    ----------
    name, family : str, str or None
        Kernel module, and the table it goes to.
    columns : mapping
        ``kernel``, ``dtype`` and the shape.
    sample, other : Sample, CallSeconds or None
        Times of the kernel, and on a GPU of the same by torch or cuBLAS.
    flops, bytes : float
        FLOP, and bytes moved, of one call.
    read_Bps, drift : float
        Its read rate, and the relative change of the rate from before to after.
    reason : str
        Why it should not be relied on; empty for a good row.
    """

    name: str
    family: str | None
    columns: Mapping[str, Any]
    sample: CallSeconds
    other: CallSeconds | None
    flops: float
    bytes: float
    read_Bps: float
    drift: float
    reason: str

    @property
    def share(self) -> float:
        """Bandwidth of the row as a share of the read rate measured next to it."""
        return self.bytes / self.sample.median_s / self.read_Bps


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result of a measurement: rows kept and rejected, peak rates, and the machine.

    Attributes
    ----------
    besides : sequence of (Sample, Rates)
        What else was timed in the same rounds, and the mean rates around it.
    """

    host: HostInfo
    ceilings: Ceilings
    rows: Sequence[MeasuredShape]
    rejected: Sequence[MeasuredShape]
    besides: Sequence[tuple[CallSeconds, MachineRates]] = ()

    @property
    def source(self) -> str:
        """Name of the kernels' source in tables."""
        return "opbyte/numba" if self.host.name is None else "opbyte/cuda"

    def launch_s(self) -> float:
        """Shortest time of any kernel [s]."""
        return min((row.sample.median_s for row in self.rows), default=1e-6)

    def memory_share(self) -> float:
        """Median share of the read rate of rows with much traffic and little arithmetic."""
        ridge = self.ceilings.fma_flops_per_s / self.ceilings.read_Bps
        shares = [
            row.share for row in self.rows if row.bytes > 4e6 and row.flops / row.bytes < 0.5 * ridge and row.flops > 0
        ]
        return float(np.median(shares)) if shares else 1.0

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """Return the columns of each family's table (`workloads.kernel_tables`), with further measured columns."""
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
    lenient: bool = False, seed: int = 0,
    progress: OnProgress | None = None, besides: Sequence[TimedCase] = (),
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
    progress : callable, optional
        Told how many visits are done, of how many.
    besides : sequence of TimedCase
        More to time in the same rounds.

    Raises
    ------
    WrongResult
        A kernel disagrees with its reference: it is not timed.
    """
    threads = threads or max_threads()
    use_threads(threads)
    with blas_threads(threads):
        return _measure(quick, threads, only, lenient, seed, progress, besides)


def _measure(
    quick: bool, threads: int, only: Sequence[str], lenient: bool, seed: int,
    progress: OnProgress | None, besides: Sequence[TimedCase],
) -> Measurement:  # fmt: skip
    """Check every case, time all of them, and measure the peak rates in the same state."""
    bench = Bench((512 if quick else 640) << 20, threads, seed)
    chosen = [k for k in kernels("numba") if not only or k.name in only]
    cases = [(kernel, kernel.case(shape, bench)) for kernel in chosen for shape in kernel.shapes(quick)]
    for _, case in cases:
        case.check()
    for one in besides:
        one.run(0)  # compiles
    settle()
    work = [_work(case) for _, case in cases]
    plan = QUICK if quick else THOROUGH
    rows: list[MeasuredShape] = []
    with pinned():
        visits, state = visit_all([*work, *besides], bench, plan, progress)
        for (kernel, case), done, seen in zip(cases, work, visits[: len(work)], strict=True):
            rows.append(_row(kernel, case, done, seen, state))
        ceilings = _ceilings(bench, state, budget_s=0.1 if quick else 0.5)
    usable = [row for row in rows if lenient or not row.reason]
    rejected = [] if lenient else [row for row in rows if row.reason]
    also = [_besides(one, seen, state) for one, seen in zip(besides, visits[len(work) :], strict=True)]
    return Measurement(this_host(threads), ceilings, usable, rejected, also)


def _besides(work: TimedCase, visits: Sequence[RoundTimes], state: MachineRates) -> tuple[CallSeconds, MachineRates]:
    taken, counted = together(visits, work, state)
    return taken, MachineRates.average([v.rates for v in counted])


def _work(case: Case) -> TimedCase:
    def floor(rates: MachineRates) -> float:
        return max(case.bytes / rates.read_Bps, case.flops / rates.fma_flops_per_s)

    return TimedCase(case.run, floor)


def _row(
    kernel: Kernel, case: Case, work: TimedCase, visits: Sequence[RoundTimes], state: MachineRates
) -> MeasuredShape:
    """Return a row of a kernel table from the visits of a case."""
    taken, counted = together(visits, work, state)
    before, after = (
        float(np.mean([r.read_Bps for r in readings]))
        for readings in ([v.before for v in counted], [v.after for v in counted])
    )
    drift = after / before - 1.0
    reason = ""
    if not all(v.within(state) for v in counted):
        reason = "never undisturbed in the usual state of the machine"
    elif taken.accepted < LEAST:
        reason = f"{taken.accepted} of {taken.taken} repetitions undisturbed"
    elif abs(drift) > MAX_DRIFT:
        reason = f"read rate changed by {drift:+.0%}"
    return MeasuredShape(
        kernel.name, kernel.family, case.columns, taken, None, case.flops, case.bytes, state.read_Bps, drift, reason
    )


def _ceilings(bench: Bench, state: MachineRates, budget_s: float) -> Ceilings:
    """Measure the peak rates in the usual state; reading and arithmetic have the rates of the rounds.

    If the machine is not in that state for `TRIES` attempts, copying keeps its ratio to reading.
    """
    for _ in range(TRIES):
        ceilings = measure_ceilings(bench, budget_s=budget_s)
        if MachineRates(ceilings.read_Bps, ceilings.fma_flops_per_s).close_to(state, CLOSE):
            break
    return replace(
        ceilings,
        read_Bps=state.read_Bps,
        copy_Bps=ceilings.copy_Bps * state.read_Bps / ceilings.read_Bps,
        fma_flops_per_s=state.fma_flops_per_s,
    )
