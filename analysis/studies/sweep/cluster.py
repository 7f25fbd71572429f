"""Workers of a Dask cluster, for sweeps that outgrow a machine (extra ``[cluster]``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import Any

from ....workloads.errors import InputError
from .point import Outcome, evaluate
from .pool import Task

PER_THREAD = 4
"""Points that wait at the scheduler for each thread of a worker."""


def run_cluster(
    tasks: Sequence[Task], version: str, address: str, timeout_s: float = 30.0
) -> Iterator[tuple[Task, Outcome]]:
    """Evaluate tasks on a cluster, in the order they finish.

    Files that points name must lie at the same path on every worker. A worker that dies is the
    scheduler's matter: it tries a point elsewhere, and gives up after a few.

    Raises
    ------
    InputError
        Dask is not installed, or no scheduler answers.
    """
    try:
        distributed: Any = import_module("distributed")  # its types are partial
    except ImportError:
        raise InputError("--dask", "needs Dask: pip install '.[cluster]' in a checkout") from None
    try:
        client = distributed.Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = f"no scheduler answers there ({str(error) or type(error).__name__})"
        raise InputError(f"--dask {address!r}", reason) from None
    left = iter(tasks)
    running: dict[str, Task] = {}

    def submit(task: Task) -> Any:
        future = client.submit(evaluate, task[1], version, key=f"opbyte-{task[0]}", pure=False)
        running[future.key] = task
        return future

    try:
        threads = max(sum(client.nthreads().values()), 1)
        first = [submit(task) for task in islice(left, PER_THREAD * threads)]
        with client.as_current():
            finished = distributed.as_completed(first)
        for future in finished:
            task = running.pop(future.key)
            failure = future.exception()
            outcome = future.result() if failure is None else Outcome(None, _line(failure))
            following = next(left, None)
            if following is not None:
                finished.add(submit(following))
            yield task, outcome
    finally:
        client.close()


def _line(error: BaseException) -> str:
    return " ".join(f"the cluster gave up: {type(error).__name__}: {error}".split())
