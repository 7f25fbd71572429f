"""Cross-validation of constants that were fitted to deployments (``opbyte validate constants``).

Every row is simulated with multiples (`TIMES`) of each constant that applies to it. Between these multiples its time is
interpolated linearly. Then each model, device or source is left out in turn: the multiple with the least mean error on
the other rows predicts the rows left out. A constant carries over if this error is smaller than the error without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...simulator.frameworks.engines import upkeep_of
from ...simulator.frameworks.keys import number_of
from ...workloads.errors import CapacityError, InputError
from ..parallel import OnProgress
from ..show.text import Rows
from .check import Compared, for_people
from .points.engines import NAMES
from .points.predict import REQUESTS, Prediction, predict_all
from .points.table import ServingPoint, read_points
from .runs.published import PublishedRun, is_published, read_published
from .runs.published_run import static_seconds

TIMES = (0.0, 0.5, 1.0, 1.5)
"""Multiples of a constant that are simulated."""
TRIED = np.arange(0.0, 1.51, 0.05)
"""Multiples that a fit may choose."""
AXES = ("model", "device", "source")
SEEN = 0.02
"""Minimum share of a row's time that a constant must have for the row to count."""
FIRST_USE = "first use of experts"


class ConstantRow(NamedTuple):
    """A measured time [s], and the simulated times [s] with each multiple in `TIMES` of one constant."""

    constant: str
    model: str
    device: str
    source: str
    measured: float
    simulated: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ConstantsValidation(Compared):
    """Scores of all constants that apply to some measured row, one row per constant (`score`)."""

    scores: tuple[dict[str, Any], ...]
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"rows": list(self.scores), "skipped": list(self.skipped)}

    def records(self) -> Rows:
        return self.scores

    def rows(self) -> Rows:
        return for_people(self.scores)

    def remarks(self) -> Sequence[str]:
        return self.skipped[:3]


def validate_constants(paths: Sequence[str | Path], *, progress: OnProgress | None = None) -> ConstantsValidation:
    """Score the constants that apply to rows of tables of serving points and of static batches.

    Parameters
    ----------
    paths : sequence of path-like
        Tables in the form of ``$OPBYTE_DATA/serving_points/points.csv`` or ``$OPBYTE_DATA/real_runs/anl_static.csv``.
    progress : callable, optional
        Called with (points simulated, points in total).

    Raises
    ------
    InputError
        A table that cannot be used, or no row that such a constant applies to.
    """
    rows, skipped = list[ConstantRow](), list[str]()
    for path in map(Path, paths):
        if is_published(path):
            runs, left = read_published(path)
            skipped += left
            rows += _of_runs(runs, skipped)
        else:
            rows += _of_points(path, progress)
    rows = [row for row in rows if abs(row.simulated[TIMES.index(1.0)] / row.simulated[0] - 1.0) >= SEEN]
    if not rows:
        raise InputError(str(paths[0]), "has no row that uses a constant fitted to deployments")
    names = dict.fromkeys(row.constant for row in rows)
    return ConstantsValidation(tuple(score(n, [r for r in rows if r.constant == n]) for n in names), tuple(skipped))


def _host(framework: str, version: tuple[int, ...]) -> str:
    """Return the name of the host constant of a framework's version; empty if it has none."""
    first, second = (*version, 0, 0)[:2] if version else (99, 0)
    upkeep = upkeep_of(framework, (first, second))
    return f"host of {framework} from {'.'.join(map(str, upkeep.since))}" if upkeep.why else ""


def _of_points(path: Path, progress: OnProgress | None) -> Iterator[ConstantRow]:
    """Yield TPOT rows of points whose version has a host constant, and TTFT rows of points with experts."""
    points, _ = read_points(path)
    hosts = {p: _host(NAMES.get(p.framework, ""), p.version) for p in points if p.framework in NAMES}
    with_host = [p for p in points if p.version and hosts.get(p)]
    points = [*with_host, *(p for p in points if p not in with_host)]
    at = {
        times: predict_all(rows, path.parent, progress=progress, host_times=times) if rows else []
        for times, rows in ((times, points if times == 1.0 else with_host) for times in TIMES)
    }
    for p, *predicted in zip(with_host, *(at[times][: len(with_host)] for times in TIMES), strict=True):
        if all(isinstance(x, Prediction) for x in predicted):
            yield _row(hosts[p], p, p.tpot_s, [x.tpot_s for x in predicted if isinstance(x, Prediction)])
    for p, x in zip(points, at[1.0], strict=True):
        if isinstance(x, Prediction) and x.first_use_s and p.prefill is None and not p.suspect:
            bare = x.engine_ttft_s + x.request_s
            times_s = [bare + times * x.first_use_s / REQUESTS for times in TIMES]
            yield _row(f"{FIRST_USE}, {p.framework}", p, p.ttft_s, times_s)


def _row(constant: str, p: ServingPoint, measured: float, simulated: Sequence[float]) -> ConstantRow:
    return ConstantRow(constant, p.model, p.device, p.source.partition("-")[0], measured, tuple(simulated))


def _of_runs(runs: Sequence[PublishedRun], skipped: list[str]) -> Iterator[ConstantRow]:
    """Yield the latency rows of static batches whose version has a host constant; add failed runs to `skipped`."""
    for run in runs:
        name = _host(run.framework, number_of(run.version) or ())
        if run.load.kind != "batch" or not name:
            continue
        try:
            seconds, host, _ = static_seconds(run, None)
        except (InputError, CapacityError) as error:
            skipped.append(f"{run.source}, line {run.line}: {error}")
            continue
        seconds_of = tuple(seconds + times * host for times in TIMES)
        yield ConstantRow(
            name, run.model, run.device, run.source.partition(":")[0], run.measured["batch_latency"], seconds_of
        )


def score(name: str, rows: Sequence[ConstantRow]) -> dict[str, Any]:
    """Return the mean relative errors with a constant, without it, and of rows left out of a fit of its multiple.

    `best` is the multiple of its value with the least error over all rows. For each of `AXES` (model, device, source), one
    label after another is left out of the fit: `AXIS_error` is the mean error of the rows left out, `AXIS_low` and
    `AXIS_high` are the extreme multiples. `carries_over`: whether every `AXIS_error` is below the error without the
    constant; None if no axis has two labels.
    """
    off = np.array([np.abs(np.interp(TRIED, TIMES, r.simulated) / r.measured - 1.0) for r in rows])
    errors_by_name, mean_errors, better = np.mean(off, axis=0), dict[str, float | None](), list[bool]()
    for axis in AXES:
        labels = np.array([getattr(r, axis) for r in rows])
        parts = [labels == one for one in sorted(set(labels))]
        mean_errors |= dict.fromkeys((f"{axis}_error", f"{axis}_low", f"{axis}_high"))
        if len(parts) > 1:
            chosen = [int(np.argmin(np.mean(off[~part], axis=0))) for part in parts]
            error = float(np.mean(np.concatenate([off[p, c] for p, c in zip(parts, chosen, strict=True)])))
            least, most = float(TRIED[min(chosen)]), float(TRIED[max(chosen)])
            mean_errors |= {f"{axis}_error": error, f"{axis}_low": least, f"{axis}_high": most}
            better.append(error < errors_by_name[0])
    at = int(np.argmin(np.abs(TRIED - 1.0)))
    return {
        "constant": name, "n": len(rows), "error": float(errors_by_name[at]), "without": float(errors_by_name[0]),
        "best": float(TRIED[np.argmin(errors_by_name)]), **mean_errors, "carries_over": all(better) if better else None,
    }  # fmt: skip
