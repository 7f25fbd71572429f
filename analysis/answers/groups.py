"""A fleet simulated in groups of replicas, on processes of this machine or of a Dask cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

from ...simulator.scenario import Scenario
from ...simulator.scenario.play import run_group_of
from ...simulator.serving.groups import OPTION, Cut
from ...simulator.serving.progress import Progress
from ...simulator.serving.run import Groups
from ...simulator.serving.served import Served
from ...workloads.errors import InputError
from ...workloads.requests.options import check_count
from ..parallel.cluster import run_cluster
from ..parallel.local import MAX_WORKERS, Crew, cores


def play_groups(
    scenario: Scenario, groups: int | None, workers: int | None, dask: str | None, keep: bool, progress: Progress | None
) -> Groups | None:
    """Simulate each group of a scenario's replicas; None where it is not cut.

    Raises
    ------
    InputError
        Options that do not go together, or replicas that cannot be cut apart.
    """
    if workers is not None and dask is not None:
        raise InputError("--workers", "cannot go with --dask; the cluster has its own workers")
    if groups is None:
        if workers is not None or dask is not None:
            option = "--workers" if dask is None else "--dask"
            raise InputError(option, f"needs {OPTION}: groups of replicas that are simulated each on its own")
        return None
    check_count(groups, OPTION, 1, MAX_WORKERS)
    file: Any = tempfile.NamedTemporaryFile() if keep else None  # noqa: SIM115
    spill, parts = None if file is None else str(file.name), dict[int, Served]()
    tasks = [(scenario, Cut(number, groups, spill), keep) for number in range(groups)]
    with closing(_played(tasks, workers, dask)) as finished:
        for number, found in finished:
            parts[number] = found
            if progress is not None:
                done = sum(part.completed for part in parts.values())
                progress(done, done, max(engine.now for engine in found.engines))
    return [parts[number] for number in range(groups)], file


def _played(
    tasks: list[tuple[Scenario, Cut, bool]], workers: int | None, dask: str | None
) -> Generator[tuple[int, Served], None, None]:
    if dask is None:
        with Crew(check_count(workers or min(cores(), len(tasks)), "--workers", 1, MAX_WORKERS)) as crew:
            yield from crew.run(run_group_of, tasks)
        return
    lost: Callable[[str], Any] = str
    for number, found in run_cluster(run_group_of, tasks, lost, dask):
        if isinstance(found, str):
            raise InputError("--dask", found)
        yield number, found
