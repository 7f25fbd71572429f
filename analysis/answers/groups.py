"""Simulation of a fleet in groups of replicas, on processes of this machine or of a Dask cluster."""

from __future__ import annotations

import tempfile
from contextlib import closing
from typing import Any

from ...simulator.fleet.groups import OPTION, Cut
from ...simulator.fleet.run import Groups
from ...simulator.fleet.run_state import RunState
from ...simulator.results.progress import Progress
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import run_group_of
from ...workloads.errors import InputError
from ...workloads.requests.options import check_count
from ..parallel.local import MAX_WORKERS, Workers


def play_groups(
    scenario: Scenario, groups: int | None, workers: int | None, dask: str | None, keep: bool, progress: Progress | None
) -> Groups | None:
    """Simulate each group of a scenario's replicas; return the groups' states and a file of kept records.

    Returns None if `groups` is None, and no file unless `keep`.
    """
    where = Workers(workers, dask)
    if groups is None:
        if workers is not None or dask is not None:
            option = "--workers" if dask is None else "--dask"
            raise InputError(option, f"needs {OPTION}: groups of replicas that are simulated each on its own")
        return None
    check_count(groups, OPTION, 1, MAX_WORKERS)
    file: Any = tempfile.NamedTemporaryFile() if keep else None  # noqa: SIM115  # open as long as its results are
    spill, parts = None if file is None else str(file.name), dict[int, RunState]()
    tasks = [(scenario, Cut(number, groups, spill), keep) for number in range(groups)]
    with closing(where.each(run_group_of, tasks)) as finished:
        for number, found in finished:
            parts[number] = found
            if progress is not None:
                done = sum(part.completed for part in parts.values())
                progress(done, done, max(engine.now for engine in found.engines))
    return [parts[number] for number in range(groups)], file
