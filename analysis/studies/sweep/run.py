"""`opbyte sweep`: run what is missing of a study, and the table of all its points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....workloads.csvfile import read_whole
from ....workloads.errors import InputError
from ....workloads.latencies import read_quantiles
from ...answers.bases import Bases, not_like_for_like
from ...answers.summary import LATENCIES
from ...parallel import OnProgress
from ...parallel.local import Workers
from ...show.declared import record
from ...show.output import SIGNIFICANT, OutputFolder
from ...show.result import Drawing, Result
from ...show.text import Blocks, Records, Rows, show
from ..front import among, front, trade_off_of
from .axes import read_value
from .expression import OF_RUN
from .file import OF_RUNS, SweepFile, SweepPoint, path_of, read_sweep, refuse_absent
from .outcomes import OutcomeFile
from .point import BASES, OF_PARTS, PERCENTILES, Outcome, systems_of

MOST_ERRORS = 10
MOST_BEST = 20
LATENCIES_OF_LOADS = ("ttft_s_mean", "tpot_s_mean")
BANDED, ENDS = (*LATENCIES_OF_LOADS, "output_tokens_per_s"), ("low", "high")
OF_LOADS = (*BANDED, "tokens_per_s_per_device", "tokens_per_s_per_user")
"""What is shown of systems at several loads; of some of it the ends of the 80 % interval are known."""
TABLE, SUMMARY = "points.csv", "sweep.json"


@dataclass(frozen=True, slots=True)
class Sweep(Result):
    """A finished sweep; see `sweep`.

    Attributes
    ----------
    table : list of dict
        One row a point, in the order of the study: ``point`` (its key), the axes' columns, the
        metrics, ``feasible`` and ``error``.
    points : dict of str to SweepPoint
        By key.
    code : str
        Version of the code that computed it.
    ran : int
        Points computed now; the others were there.
    kernels : list of dict
        With ``kernel: best`` one row a kernel of each point's step.
    measured : list of dict
        Measured points: values of the axes, and of metrics.
    """

    study: SweepFile
    table: Records
    points: dict[str, SweepPoint]
    code: str
    ran: int
    folder: Path
    kernels: Records = field(default_factory=list)
    measured: Records = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(row["error"] is not None for row in self.table)

    @property
    def best(self) -> Records:
        """Return the Pareto front: feasible rows that no other feasible row beats in all objectives."""
        good, goals = [row for row in self.table if row["feasible"]], self.study.objectives
        return front(good, goals, self.study.workloads) if goals else []

    @property
    def errors(self) -> dict[str, int]:
        """Error lines with the number of points that have them, the most frequent first."""
        frequencies = Counter(row["error"] for row in self.table if row["error"] is not None)
        return dict(frequencies.most_common())

    @property
    def done(self) -> int:
        return len(self.table) - self.failed

    @property
    def feasible(self) -> int:
        return sum(row["feasible"] for row in self.table)

    @property
    def excluded(self) -> int:
        """Return the number of points that are excluded by constraints or as duplicates."""
        return self.study.size - len(self.table)

    def to_dict(self) -> dict[str, Any]:
        return record(self) | ({"kernels": self.kernels} if self.kernels else {})

    def timing(self) -> dict[str, Any]:
        return {"ran": self.ran, "stored": len(self.table) - self.ran}

    def records(self) -> Rows:
        return self.table

    def rows(self) -> Rows:
        shown = self.best or [row for row in self.table if row["error"] is None]
        wanted = [*self.study.columns, *(self.study.objectives or self.study.kind.shown)]
        wanted = [*self.study.columns, *OF_LOADS] if self.study.load else wanted
        return [{name: row[name] for name in wanted} for row in shown[: None if self.study.load else MOST_BEST]]

    def blocks(self) -> Blocks:
        text = f"{self.study.title}: {len(self.table):,} points, {self.done:,} done, {self.failed:,} failed"
        text += f", {self.excluded:,} left out by constraints or equal to another" if self.excluded else ""
        out: Blocks = [text]
        if self.done:
            if self.study.objectives:
                goals = ", ".join(f"{goal} {name}" for name, goal in self.study.objectives.items())
                points = f"{len(self.best):,} point{'s' * (len(self.best) != 1)}"
                out.append(f"best for {goals}: {points} that no other{among(self.study.workloads)} beats in all")
            out.append(self.rows())
            out += not_like_for_like(self._bases())
        if self.measured:
            out += ["measured points, and the error of the simulation:", self.errors_of_measured()]
        for text, count in list(self.errors.items())[:MOST_ERRORS]:
            out.append(f"{count:,} failed: {text}")
        first = [row for row in self.kernels if row["point"] == self.kernels[0]["point"]]
        out += [first, "kernels: of the first point"] if first else []
        return [*out, f"all points: {self.folder / TABLE}"]

    def headline(self) -> str:
        """Return the best point for each objective with its value, and the size of the front."""
        best, lines = self.best, []
        for name, goal in self.study.objectives.items() if best else ():
            row = (max if goal == "max" else min)(best, key=lambda row: row[name])
            axes = ", ".join(f"{c} {show(row[c])}" for c in self.study.columns)
            lines.append(f"{goal} {name} {show(row[name])} at {axes}")
        done = f"{self.done:,} of {len(self.table):,} points done"
        return "; ".join([*lines, f"{len(best):,} on the front" if best else "no front", done]) + "."

    def drawings(self) -> Sequence[Drawing]:
        """The trade-off of the study's first two objectives."""
        study, good = self.study, [row for row in self.table if row["feasible"]]
        if study.load:
            return self._curves(good) if good else ()
        return trade_off_of(study.title, good, study.objectives, study.columns, study.workloads)

    def _curves(self, rows: Rows) -> list[Drawing]:
        """Throughput per device over the rate of a user, and latencies over the load, with measured points."""
        import pandas as pd

        from ...plots import throughput_latency, throughput_pace

        load, title, note = self.study.load, self.study.title, " Hollow: measured." if self.measured else ""
        measured = pd.DataFrame([{"run": row["system"], **row} for row in self.measured]) if self.measured else None
        table = pd.DataFrame(list(rows)).assign(run=lambda table: table["system"], within=True)
        table.columns = [name.removeprefix(f"{OF_RUN}intervals.").replace(".", "_") for name in table.columns]
        pace = throughput_pace(table, (load,), title, measured)
        latencies = throughput_latency(table, LATENCIES_OF_LOADS, title, load=load, measured=measured)
        return [
            Drawing(pace, f"Output per device over the tokens/s of a user.{note}"),
            Drawing(latencies, f"Latencies over the load; bands: 80 % intervals, where errors are known.{note}"),
        ]

    def errors_of_measured(self) -> Records:
        """Each measured value, the simulated one and its error, and the ends of the 80 % interval, if known."""
        axes, rows = self.study.columns, {tuple(row[c] for c in self.study.columns): row for row in self.table}
        out: Records = []
        for point in self.measured:
            row = rows.get(tuple(point[c] for c in axes), {})
            for metric in (n for n in point if n not in axes):
                value, simulated = point[metric], row.get(metric)
                out.append({c: point[c] for c in axes} | {"metric": metric, "measured": value, "simulated": simulated})
                out[-1]["error"] = None if simulated is None or not value else simulated / value - 1
                out[-1] |= {f"{end} 80%": row.get(f"{OF_RUN}intervals.{metric}.{end}") for end in ENDS}
        return out

    def _bases(self) -> Iterator[tuple[str, Bases]]:
        """Return the basis of each row, by its system."""
        for row in self.table:
            yield (systems_of(self.points[row["point"]].settings), Bases(row["basis"] or "", row["energy_basis"] or ""))


def read_measured(path: Path, columns: Sequence[str], metrics: Collection[str]) -> Records:
    """Read measured points: a CSV with a column for each axis (`concurrency` is `closed_loop`) and for metrics.

    An empty cell of a metric was not measured.

    Raises
    ------
    InputError
        No CSV, or one without these columns, or a cell of a metric that is not a number.
    """
    table = {"closed_loop" if name == "concurrency" else name: column for name, column in read_whole(path, ()).items()}
    known = [name for name in table if name in metrics]
    if not known or not {*columns} <= {*table}:
        raise InputError(
            path, f"needs columns {', '.join(columns)}, and numbers of a metric, such as {', '.join(OF_LOADS)}"
        )
    out: Records = [{} for _ in table[known[0]].lines]
    for name in (*columns, *known):
        for i, cell in enumerate(table[name].cells):
            value = read_value(str(cell))
            if name in known and value != "" and not (isinstance(value, (int, float)) and 0 <= value < np.inf):
                raise table[name].error(i, "is not a number of at least 0")
            if name in columns or value != "":
                out[i][name] = value
    return out


def sweep(
    study: str | Path | Mapping[str, object],
    out: str | Path | None = None,
    *,
    objectives: Mapping[str, str] | None = None,
    workers: int | None = None,
    dask: str | None = None,
    progress: OnProgress | None = None,
    measured: str | Path | None = None,
    also: Callable[[Sweep, OutputFolder], object] | None = None,
) -> Sweep:
    """Simulate every point of a study that its folder does not hold yet.

    Parameters
    ----------
    study : str, Path or mapping
        YAML file, or what would be in it; see docs/guide-sweeps.md.
    out : str or Path, optional
        Folder of the results; default: the name of the file. A later call with the same folder computes only points
        that are missing or whose code or files changed.
    objectives : mapping of str to str, optional
        Metric or column -> "max" or "min", instead of the study's.
    workers : int, optional
        Processes of this machine; one a core by default.
    dask : str, optional
        Address of a Dask scheduler, instead of processes.
    progress : callable, optional
        Called with (points done, points in all) as they finish.
    measured : str or Path, optional
        CSV of measured points: columns of the axes and of metrics.
    also : callable, optional
        Given the result and the folder before it is closed, to write more into it: the command line's report.

    Raises
    ------
    InputError
        A wrong study, folder or cluster. A point that fails does not raise: its row says why.
    """
    import pandas as pd

    path = path_of(study)
    where, plan = Workers(workers, dask, isolated=True), read_sweep(study, objectives)
    points_measured = [] if measured is None else read_measured(Path(measured), plan.columns, plan.kind.metrics)
    folder = Path(out) if out is not None else Path(path.stem)
    every = list(plan.points())
    if not every:
        raise InputError(f"{path}: constraints", "exclude all points; change or remove one")
    with OutputFolder(folder) as files:
        with OutcomeFile(folder) as stored:
            points, runs = {stored.key(point.settings): point for point in every}, stored.study(where)
            outcomes = runs.results([p.settings for p in points.values()], progress)
        point_outcomes = zip(points.items(), outcomes, strict=True)
        rows = [_row(plan, key, point, outcome) for (key, point), outcome in point_outcomes]
        refuse_absent(plan.asked, rows, points.values(), str(path))
        kernels = [
            {"point": key, **point.columns, **kernel}
            for (key, point), outcome in zip(points.items(), outcomes, strict=True)
            for kernel in (outcome.metrics or {}).get("kernels", ())
        ]
        result = Sweep(plan, rows, points, stored.version, runs.ran, folder, kernels, points_measured)
        columns = {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}
        files.csv(TABLE, columns, floats="%.17g")
        if kernels:
            files.table("kernels.csv", pd.DataFrame(kernels), SIGNIFICANT)
        if also is not None:
            also(result, files)
        files.answer(SUMMARY, result)
    return result


def _row(study: SweepFile, key: str, point: SweepPoint, outcome: Outcome) -> dict[str, Any]:
    metrics = outcome.metrics or {}
    row: dict[str, Any] = {"point": key, **point.columns}
    parts = (n for setting, names in OF_PARTS.items() for n in names if setting in point.settings)
    shown = read_quantiles(point.settings.get(PERCENTILES))
    latencies = (f"{name}_{q}" for name in LATENCIES for q in shown) if study.kind is OF_RUNS else ()
    bands = (f"{OF_RUN}intervals.{name}.{end}" for name in BANDED for end in ENDS) if study.load else ()
    known = (*study.kind.metrics, *latencies, *BASES, *parts, *bands)
    row |= {name: metrics.get(name) for name in dict.fromkeys((*known, *study.asked))}
    feasible = outcome.error is None and study.feasible({**point.settings, **row})
    return row | {"feasible": feasible, "error": outcome.error}
