"""Where tasks run: in this process, on processes of this machine, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...workloads.errors import InputError
from ...workloads.requests.options import check_count
from .cluster import run_cluster
from .local import MAX_WORKERS, Crew, cores

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Workers:
    """Options of a command's workers.

    Attributes
    ----------
    count : int, optional
        Processes of this machine at most; one a core by default.
    dask : str, optional
        Address of a Dask scheduler, instead of processes.
    isolated : bool
        See `Crew`.

    Raises
    ------
    InputError
        Workers together with a cluster, or too many.
    """

    count: int | None = None
    dask: str | None = None
    isolated: bool = False

    def __post_init__(self) -> None:
        if self.dask is not None and self.count is not None:
            raise InputError("--workers", "cannot be combined with --dask; the cluster has its own workers")
        if self.count is not None:
            check_count(self.count, "--workers", 1, MAX_WORKERS)

    def each(
        self, call: Callable[[T], R], tasks: Sequence[T], lost: Callable[[str], R] | None = None
    ) -> Generator[tuple[int, R], None, None]:
        """As `Crew.run`; the workers end when it is closed."""
        if not tasks:
            return
        if self.dask is not None:
            yield from run_cluster(call, tasks, lost, self.dask)
            return
        with Crew(min(self.count or cores(), len(tasks)), self.isolated) as crew:
            yield from crew.run(call, tasks, lost)


HERE = Workers(1)
"""One task after another in this process."""
