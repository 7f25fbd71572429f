"""Measure this machine's kernels (``opbyte measure``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...kernels.host import device_yaml
from ...kernels.lab import NAMES, kernels
from ...kernels.measure import MeasuredShape, Measurement, measure
from ...workloads.errors import InputError
from ...workloads.kernel_tables import table_text
from ...workloads.requests.options import check_seed
from ..parallel import OnProgress
from ..show.result import Result
from ..show.text import Blocks, Rows, seconds, si
from .measure_configs import check_only

if TYPE_CHECKING:
    from ..show.output import OutputFolder
    from .host_loop import Loop

BACKENDS = ("numba", "cupy")


@dataclass(frozen=True, slots=True)
class Measured(Result):
    """Measured kernels of this machine and, on request, the closed loop of `host_loop`."""

    run: Measurement
    loop: Loop | None = None

    def to_dict(self) -> dict[str, Any]:
        run, c = self.run, self.run.ceilings
        return {
            "host": {"cpu": run.host.cpu, "cores": run.host.cores, "threads": run.host.threads,
                     "libraries": run.host.libraries},
            "device": run.host.device,
            "ceilings": {"read_Bps": c.read_Bps, "copy_Bps": c.copy_Bps,
                         "fma_flops_per_s": c.fma_flops_per_s,
                         "gemm_flops_per_s": c.gemm_flops_per_s},
            "rows": [_record(row) for row in run.rows],
            "rejected": [_record(row) for row in run.rejected],
            **({} if self.loop is None else {"loop": self.loop.to_dict()}),
        }  # fmt: skip

    def records(self) -> Rows:
        return [_record(row) for row in self.run.rows]

    def rows(self) -> Rows:
        return [
            {
                "kernel": row.name, "shape": _shape(row), "time": seconds(row.sample.median_s),
                "p10 to p90": f"{seconds(row.sample.p10_s)} to {seconds(row.sample.p90_s)}",
                "counted": f"{row.sample.accepted} of {row.sample.taken}",
                "of read rate": f"{row.share:.2f}",
                "rate": si(row.flops / row.sample.median_s, "FLOP/s") if row.flops else "-",
                "note": row.reason or "-",
            }
            for row in self.run.rows
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        lines = self.run.host.header(self.run.ceilings)
        out: Blocks = [*lines, self.rows()]
        if self.run.rejected:
            out.append(
                f"{len(self.run.rejected)} shapes rejected: the machine did not hold still; run "
                "again when it is quiet, or with --lenient to keep them"
            )
        return out if self.loop is None else [*out, *self.loop.blocks()]

    def headline(self) -> str:
        """Return a sentence with the number of measured shapes, the machine's rates, and the number of rejected shapes."""
        run, c = self.run, self.run.ceilings
        shares = sorted(row.share for row in run.rows)
        middle = f" at a median {shares[len(shares) // 2]:.0%} of the read rate" if shares else ""
        left = f"; {len(run.rejected):,} rejected" if run.rejected else ""
        return (
            f"{len(run.rows):,} shapes{middle}: the machine reads {si(c.read_Bps, 'B/s')} and "
            f"multiplies {si(c.gemm_flops_per_s, 'FLOP/s')}{left}."
        )

    def yaml(self) -> str:
        """Return a YAML description of this machine as a device."""
        run = self.run
        return device_yaml(run.host, run.ceilings, run.memory_share(), run.launch_s())

    def summary(self) -> str:
        """Return a page in Markdown: each kernel's share of the measured roofline, and its time against a library's."""
        run, c = self.run, self.run.ceilings
        lines = [
            f"# {run.host.cpu}", "", *(f"- {line}" for line in run.host.header(c)), "",
            "Share: floor of bytes over the copy rate and FLOP over the cuBLAS rate, over the time.",
            "Ours in a graph; the library (torch, for GEMM cuBLAS) in eager calls, launches included.",
            "", "| kernel | shape | time | share | library's time over ours |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for row in run.rows:
            floor = max(row.bytes / row.read_Bps, row.flops / c.gemm_flops_per_s)
            other = "-" if row.other is None else f"{row.other.median_s / row.sample.median_s:.2f}"
            lines.append(
                f"| {row.name} | {_shape(row)} | {seconds(row.sample.median_s)} | "
                f"{floor / row.sample.median_s:.2f} | {other} |"
            )
        return "\n".join(lines) + "\n"

    def write(self, files: OutputFolder) -> None:
        """Write the tables, every row, and the device's description."""
        run = self.run
        for family, columns in run.tables().items():
            files.text(f"tables/{family}.csv", table_text(columns, run.host.header(run.ceilings)))
        if run.host.name is None:
            files.text(f"{run.host.device}.yaml", self.yaml())
        else:
            files.text("summary.md", self.summary())
        if self.loop is not None:
            self.loop.write(files)
        files.answer("measure.json", self)


def _record(row: MeasuredShape) -> dict[str, Any]:
    s, other = row.sample, row.other
    return {
        "name": row.name, **row.columns, "measured_s": s.median_s, "p10_s": s.p10_s,
        "p90_s": s.p90_s, "accepted": s.accepted, "taken": s.taken, "flops": row.flops,
        "bytes": row.bytes, "read_Bps": row.read_Bps, "drift": row.drift, "share": row.share,
        "library_s": None if other is None else other.median_s, "note": row.reason,
    }  # fmt: skip


def _shape(row: MeasuredShape) -> str:
    hidden = ("kernel", "kv_dtype", "tp", "ep", "gated", "distribution", "batch", "causal")
    shown = {k: v for k, v in row.columns.items() if k not in hidden or (k == "batch" and v != 1)}
    return " ".join(f"{k}={v}" for k, v in shown.items() if v != 0)


def measure_machine(
    *, backend: str = "numba", quick: bool = False, threads: int | None = None,
    only: Sequence[str] = (), lenient: bool = False, seed: int = 0,
    loop: bool = False, progress: OnProgress | None = None,
) -> Measured:  # fmt: skip
    """Measure the kernels of a backend here, and close the loop over them if asked.

    Parameters
    ----------
    backend : str
        "numba": this machine's processor. "cupy": its GPU.
    quick, threads, only, lenient, seed
        See `kernels.measure.measure`.
    loop : bool
        Calibrate on half of the shapes, validate on the others, and compare a simulation of a small model with a run of
        it on this machine (`analysis.validate.host_loop`).
    progress : callable, optional
        Called with how many visits are done, of how many.

    Raises
    ------
    InputError
        An unknown backend or kernel, more threads than there are, or no GPU for "cupy".
    """
    from ...kernels.jit import max_threads

    check_seed(seed)
    if backend not in BACKENDS:
        raise InputError("--backend", f"must be {' or '.join(BACKENDS)}, not {backend!r}")
    known = NAMES if backend == "cupy" else tuple(kernel.name for kernel in kernels("numba"))
    check_only(only, known)
    if threads is not None and not 1 <= threads <= max_threads():
        raise InputError("--threads", f"must be between 1 and {max_threads()}, not {threads}")
    if backend == "cupy":
        if loop:
            raise InputError("--loop", "closes the loop on the processor: use --backend numba")
        from ...kernels.gpu_measure import measure_gpu

        return Measured(measure_gpu(quick=quick, only=only, lenient=lenient, progress=progress))
    from .host_loop import close_loop, small_model

    small = small_model(quick, threads or max_threads(), seed) if loop else None
    run = measure(
        quick=quick, threads=threads, only=only, lenient=lenient, seed=seed,
        progress=progress, besides=[] if small is None else small.work,
    )  # fmt: skip
    if small is None:
        return Measured(run)
    return Measured(run, close_loop(run, Measured(run).yaml(), small, seed=seed))
