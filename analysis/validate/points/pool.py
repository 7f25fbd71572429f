"""All points of a table, over the machine's processors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from pathlib import Path

from ....workloads.errors import InputError
from ...show.workers import worker_pool
from .predict import Prediction, predict
from .table import Point

Outcome = Prediction | str
"""A prediction, or why there is none."""
MOST_WORKERS = 8


def predict_all(
    points: Sequence[Point],
    folder: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Simulate points; those of one deployment run one after another in one process.

    Returns
    -------
    list of Prediction or str
        In the order of `points`; a text says why a point could not be simulated.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, p in enumerate(points):
        groups.setdefault((p.device, p.model, p.weight_dtype, p.workers, p.prefill), []).append(i)
    jobs = sorted(groups.values(), key=lambda rows: -sum(_work(points[i]) for i in rows))
    workers = min(os.cpu_count() or 1, MOST_WORKERS, len(jobs))
    out: list[Outcome] = [""] * len(points)
    done = 0
    if workers <= 1:
        for rows in jobs:
            for i in rows:
                out[i] = _one(points[i], folder, seed)
                done += 1
                if progress:
                    progress(done, len(points))
        return out
    with worker_pool(workers) as pool:
        waiting = {
            pool.submit(_several, [points[i] for i in rows], folder, seed): rows for rows in jobs
        }
        for future in as_completed(waiting):
            for i, outcome in zip(waiting[future], future.result(), strict=True):
                out[i] = outcome
            done += len(waiting[future])
            if progress:
                progress(done, len(points))
    return out


def _work(point: Point) -> float:
    """Roughly how long a point takes, for a fair share of the work."""
    return point.osl * (100.0 if point.prefill else 1.0)


def _several(points: Sequence[Point], folder: Path, seed: int) -> list[Outcome]:
    return [_one(point, folder, seed) for point in points]


def _one(point: Point, folder: Path, seed: int) -> Outcome:
    try:
        return predict(point, folder, seed)
    except InputError as error:
        return str(error)
