"""Workers of a Dask cluster, for what outgrows a machine (extra ``[cluster]``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar

from ...workloads.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
PER_THREAD = 4
"""Tasks that wait at the scheduler for each thread of a worker."""


def run_cluster(
    call: Callable[[T], R], tasks: Sequence[T], lost: Callable[[str], R] | None, address: str, timeout_s: float = 30.0
) -> Iterator[tuple[int, R]]:
    """As `local.Crew.run`, on the cluster whose scheduler has that address.

    Files that tasks name must be at the same path on every worker. A worker that dies is the
    scheduler's matter: it tries a task elsewhere, and gives up after a few.

    Raises
    ------
    InputError
        If Dask is not installed, no scheduler responds, or a task was lost without `lost`.
    """
    try:
        distributed: Any = import_module("distributed")  # its types are partial
    except ImportError:
        raise InputError("--dask", "needs Dask: pip install '.[cluster]' in a checkout") from None
    try:
        client = distributed.Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = f"no scheduler responds there ({str(error) or type(error).__name__})"
        raise InputError(f"--dask {address!r}", reason) from None
    left = iter(enumerate(tasks))
    running: dict[str, int] = {}

    def submit(number: int, task: T) -> Any:
        future = client.submit(call, task, pure=False)
        running[future.key] = number
        return future

    try:
        threads = max(sum(client.nthreads().values()), 1)
        first = [submit(*task) for task in islice(left, PER_THREAD * threads)]
        with client.as_current():
            finished = distributed.as_completed(first)
        for future in finished:
            number = running.pop(future.key)
            failure = future.exception()
            outcome = future.result() if failure is None else _given_up(failure, lost)
            following = next(left, None)
            if following is not None:
                finished.add(submit(*following))
            yield number, outcome
    finally:
        client.close()


def _given_up(error: BaseException, lost: Callable[[str], R] | None) -> R:
    """The result of a task that the cluster gave up."""
    line = " ".join(f"the cluster gave up: {type(error).__name__}: {error}".split())
    if lost is None:
        raise InputError("--dask", line)
    return lost(line)
