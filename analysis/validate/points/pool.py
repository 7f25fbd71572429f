"""All points of a table, over the machine's processors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ....workloads.errors import InputError
from ...parallel import OnProgress
from ...parallel.local import Crew, cores
from ...show.kept import NOTHING, Kept
from .predict import Prediction, model_file, predict
from .table import ServingPoint

Outcome = Prediction | str
"""A prediction, or why there is none."""
MOST_WORKERS = 8


def predict_all(
    points: Sequence[ServingPoint], folder: Path, seed: int = 0, progress: OnProgress | None = None, kept: Kept = NOTHING,
    host_times: float = 1.0,
) -> list[Outcome]:  # fmt: skip
    """Simulate points, see `predict`; points of one deployment run one after another in one process.

    Returns
    -------
    list of Prediction or str
        In the order of `points`; a text says why a point could not be simulated.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, p in enumerate(points):
        groups.setdefault((p.device, p.model, p.weight_dtype, p.workers, p.prefill), []).append(i)
    work = [p.osl * (100.0 if p.prefill else 1.0) for p in points]  # roughly
    jobs = sorted(groups.values(), key=lambda rows: -sum(work[i] for i in rows))
    out: dict[int, Outcome] = {}

    def lost(line: str) -> list[Outcome]:
        return [line] * len(points)

    with Crew(min(cores(), MOST_WORKERS, len(jobs))) as crew:
        tasks = [[points[i] for i in rows] for rows in jobs]
        call = partial(_several, folder=folder, seed=seed, kept=kept, host_times=host_times)
        for job, outcomes in crew.run(call, tasks, lost):
            out |= dict(zip(jobs[job], outcomes, strict=False))
            if progress:
                progress(len(out), len(points))
    return [out[i] for i in range(len(points))]


def _several(points: Sequence[ServingPoint], folder: Path, seed: int, kept: Kept, host_times: float) -> list[Outcome]:
    out = []
    for point in points:
        known = [point, seed, model_file(folder, point.model)] if kept else None
        out.append(kept.once(known, partial(_one, point, folder, seed, host_times)))
    return out


def _one(point: ServingPoint, folder: Path, seed: int, host_times: float) -> Outcome:
    try:
        return predict(point, folder, seed, host_times)
    except InputError as error:
        return str(error)
