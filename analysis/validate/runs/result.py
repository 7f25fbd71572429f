"""All runs and static batches of a call, against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ....workloads.errors import InputError
from ....workloads.requests.options import check_count
from ...answers.error_factors import Widths, fitted_widths
from ...answers.interval import LEVEL
from ...answers.ranges import coverage_blocks
from ...parallel import OnProgress
from ...show.kept import NOTHING, Kept
from ...show.output import SIGNIFICANT, OutputFolder
from ...show.result import Drawing
from ...show.text import Blocks, Records, Rows
from ..check import Compared, RunCheck, by_chance, for_people, summary
from ..points.predict import Prediction, predict_all
from ..points.table import read_points
from ..serving import ServingRun, replay_requests
from .basis import check_of
from .client_runs import read_client_runs, sampled
from .published import PublishedRun, read_published
from .published_run import replay_published
from .replay import replay
from .spec import RunFiles, find_runs, read_run
from .static import read_static, replay_static
from .widths import EACH, fit_widths, left_out_in_turn

MOST_SEEDS = 100
AXES = ("source", "device", "model", "engine", "concurrency")
TAILS = ("p90", "p95", "p99")
"""Statistics that the tables by label leave out: `--out` has them."""
KERNELS, STATIC_KERNELS = "vllm", "sglang"
"""Kernels of runs and of static batches: of the engines that served them."""


@dataclass(frozen=True, slots=True)
class RunsValidation(Compared):
    """Every stage and static batch with its metrics.

    Attributes
    ----------
    seeds : int
        Samples of each run's requests.
    entries : tuple of RunCheck
        In the order of the paths, stages in order.
    skipped : tuple of str
        Lines of tables that were left out, and why.
    without : str
        Source whose intervals use widths fitted to the other sources; `EACH`: each source.
    widths : Widths, optional
        Fitted to all of the runs, where that was asked for.
    served : tuple of ServingRun
        Runs whose every request is known; they are among the entries too.
    """

    FILE = "runs.json"
    PICTURES = ("runs.png",)
    TABLES = (("runs.csv", "staged", SIGNIFICANT),)

    seeds: int
    entries: tuple[RunCheck, ...]
    skipped: tuple[str, ...]
    without: str = ""
    widths: Widths | None = None
    served: tuple[ServingRun, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "runs": [{"run": e.run, "stage": e.stage, "costs": e.costs, "metrics": e.metrics()} for e in self.entries],
            "medians": self.medians(),
            "by": {axis: self.by(axis) for axis in AXES},
            "requests": [
                {"run": r.name, "requests": len(r.table), "preemptions": r.preemptions, "kernel_tables": r.coverage}
                for r in self.served
            ],
            "without": self.without,
            "skipped": list(self.skipped),
        }

    def medians(self) -> dict[str, float]:
        """Return metric -> median absolute relative error over the entries with this metric."""
        off = [(name, abs(values["error"])) for e in self.entries for name, values in e.metrics().items()]
        return {name: float(np.median([x for n, x in off if n == name])) for name, _ in off}

    def by(self, axis: str) -> Records:
        """Errors of means, medians and rates by a label of the runs: source, device, model, engine with its version, concurrency."""
        groups: dict[tuple[str, str], list[RunCheck]] = {}
        for e in self.entries:
            for name in e.measured if e.labels.get(axis) else ():
                groups.setdefault((e.labels[axis], name), []).append(e)
        out = []
        for (value, name), entries in sorted(groups.items()):
            known = [(e.factors[name], e.costs) for e in entries if name in e.factors]
            if not name.endswith(TAILS):
                out.append({
                    axis: value, "metric": name,
                    **summary([e.metrics()[name]["error"] for e in entries], [e.within(name) for e in entries]),
                    "width": float(np.median([x.high / x.low for x, _ in known])) if known else None,
                    **(by_chance([costs for _, costs in known]) if axis == "source" else {}),
                })  # fmt: skip
        return out

    def records(self) -> Rows:
        return [
            {"run": e.run, "stage": e.stage, "set": e.group, "metric": name, **values, "within": e.within(name)}
            for e in self.entries
            for name, values in e.metrics().items()
        ]

    def rows(self) -> Rows:
        return [row for e in self.entries for row in e.table()]

    def blocks(self) -> Blocks:
        out: Blocks = []
        for e in self.entries:
            if e.group:
                continue
            stage = "static batch" if e.stage is None else f"stage {e.stage}"
            out += [f"{e.run}: {stage}, {e.costs}", e.table()]
        for one in self.served:
            out += coverage_blocks(one.coverage)
        count = sum(not e.group for e in self.entries)
        if count:
            out.append(f"medians of |error| over {count} stages and batches, {self.seeds} seeds:")
            out.append([{"metric": n.replace("_", " "), "median": f"{v:.1%}"} for n, v in self.medians().items()])
        how = {"": "", EACH: ", each source's from the other sources"}.get(
            self.without, f", fitted without {self.without}"
        )
        for axis in AXES:
            if rows := self.by(axis):
                out.append(f"by {axis}, {LEVEL:.0%} intervals{how} (width: high over low, median; every point: --out):")
                out.append(for_people([row | {"metric": row["metric"].replace("_", " ")} for row in rows]))
        return out

    def report_title(self) -> str:
        return f"{len(self.entries)} measured stages and static batches replayed"

    def staged(self) -> Records:
        """The records, with stages as text."""
        return [{**row, "stage": "" if row["stage"] is None else str(row["stage"])} for row in self.records()]

    def drawings(self) -> Sequence[Drawing]:
        from ...plots import replays, serving

        caption = "Simulated against measured, a panel a metric, a point a stage or static batch."
        each_request = "Every request's simulated latency against the measured one, and both as shares."
        return [
            Drawing(replays(self.frame(), self.report_title()), caption),
            *(Drawing(serving(r.requests(), f"{r.name}: {r.costs}"), each_request) for r in self.served),
        ]

    def pictures(self) -> tuple[str, ...]:
        """Files of the drawings: of all runs, and of the requests of each run that has them."""
        return *self.PICTURES, *(f"{run.name}/latencies.png" for run in self.served)

    def write(self, folder: OutputFolder) -> None:
        """Also write the requests of each run that has them."""
        for run in self.served:
            folder.table(f"{run.name}/requests.csv", run.requests())
        Compared.write(self, folder)


def validate_runs(
    paths: Iterable[str | Path], *, seeds: int = 3, host: str | Path | None = None, sample: int | None = None,
    without: str | None = None, fit: bool = False, kernels: bool = True, progress: OnProgress | None = None,
    kept: Kept = NOTHING,
) -> RunsValidation:  # fmt: skip
    """Replay measured runs and static batches.

    Parameters
    ----------
    paths : iterable of path-like
        A run's folder (with ``run.json``, or with every request as `serving.read_replayed` takes it), a table of static
        batches, of published points, of clients' runs or of serving points, or a folder that holds such at any depth; see `spec.find_runs`.
    seeds : int
        Samples of each run's requests; every value is their mean.
    host : str or Path, optional
        How the GPUs of all of them were connected, see `devices.hosts`; without it in the class that each
        device's description names.
    sample : int, optional
        Maximum rows of a table for each model and device, spread over the load.
    without : str, optional
        Fit the widths of intervals to the other sources and score this one; "each": every source in turn.
    fit : bool
        Fit the widths of intervals to all of the runs.
    kernels : bool
        Cost ops by a run's own kernel tables, where it has some.
    progress : callable, optional
        Called with (runs and tables done, all of them), and while a table of serving points runs with its rows.
    kept : Kept
        Serving points that an earlier call finished; this call adds its own.

    Raises
    ------
    InputError
        A path, key or cell that cannot be used, or nothing that can be replayed.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError("--seeds", f"must be in [1, {MOST_SEEDS}], not {seeds}")
    if sample is not None:
        check_count(sample, "--sample", 1)
    skipped, work = list[str](), list[Job]()
    for path in paths:
        files = find_runs(Path(path))
        work += _jobs(files, seeds, host, sample, skipped)
        work += [partial(replay_requests, folder, kernels, host) for folder in files.requests]
        work += [partial(_replay_points, table, sample, progress, kept) for table in files.points]
    entries, served = list[RunCheck](), list[ServingRun]()
    for done, job in enumerate(work, 1):
        results = job()
        if isinstance(results, ServingRun):
            served.append(results)
            results = [results.entry]
        for result in results:
            if isinstance(result, RunCheck):
                entries.append(result)
            else:
                skipped.append(result)
        if progress:
            progress(done, len(work))
    if not entries:
        why = f": {skipped[0]}" if skipped else ""
        raise InputError(", ".join(map(str, paths)), f"found nothing to replay{why}")
    scored = entries if without is None else left_out_in_turn(entries, without)
    return RunsValidation(
        seeds, tuple(scored), tuple(skipped), without or "", fit_widths(entries, fitted_widths()) if fit else None,
        tuple(served),
    )  # fmt: skip


Job = Callable[[], "Sequence[RunCheck | str] | ServingRun"]
"""Replays something; a text says why a row could not be."""


def _replay_row(row: PublishedRun, host: str | None) -> Sequence[RunCheck | str]:
    """Simulate a row of a table, or say why it cannot be."""
    try:
        return [replay_published(row, host)]
    except InputError as error:
        return [f"{row.source}, line {row.line}: {error}"]


def _replay_points(path: Path, sample: int | None, progress: OnProgress | None, kept: Kept) -> Sequence[RunCheck | str]:
    """Simulate the rows of a table of serving points, on all cores."""
    points, gone = read_points(path)
    some = sampled(
        points, sample, lambda p: (p.model, p.device, p.framework, p.mode), lambda p: (p.clients, p.isl, p.osl)
    )
    outcomes = predict_all(some, path.parent, progress=progress, kept=kept)
    return [f"{path}:{s.line}: {s.reason}" for s in gone] + [
        check_of(point, known) if isinstance(known, Prediction) else f"{point.source}, line {point.line}: {known}"
        for point, known in zip(some, outcomes, strict=True)
    ]


def _jobs(files: RunFiles, seeds: int, host: str | Path | None, sample: int | None, skipped: list[str]) -> list[Job]:
    """Runs to replay from some files; rows that cannot be replayed are added to `skipped`."""
    named = None if host is None else str(host)
    runs = [read_run(folder) for folder in files.runs]
    out: list[Job] = [partial(replay, run, seeds, KERNELS, host) for run in runs]
    for path in files.tables:
        batches, left = read_static(path)
        skipped += left
        out.append(partial(replay_static, path, batches, STATIC_KERNELS, host))
    for path in (*files.published, *files.clients):
        rows, left = (read_published if path in files.published else read_client_runs)(path)
        skipped += left
        out += [
            partial(_replay_row, one, named)
            for one in sampled(
                rows, sample, lambda r: (r.model, r.device), lambda r: (r.load.level, r.input_len, r.line)
            )
        ]
    return out
