"""Points of studies, each simulated once: in this process, on its cores, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from ....workloads.digest import digest_of
from ....workloads.errors import InputError
from ....workloads.requests.options import check_count
from ...answers.identity import UNREADABLE, identity
from ...parallel import Told
from ...parallel.cluster import run_cluster
from ...parallel.local import MAX_WORKERS, Crew, cores
from ...show.provenance import code_version
from .dataset import Dataset
from .point import Outcome, evaluate


class Points:
    """Simulates points that neither a folder nor an earlier call of it holds.

    Parameters
    ----------
    workers : int, optional
        Processes of this machine; one a core by default.
    dask : str, optional
        Address of a Dask scheduler, instead of processes.
    here : bool
        Whether one worker is this process itself.

    Raises
    ------
    InputError
        Workers beside a cluster, or too many.
    """

    def __init__(self, workers: int | None, dask: str | None, here: bool = False) -> None:
        if dask is not None and workers is not None:
            raise InputError("--workers", "cannot go with --dask; the cluster has its own workers")
        if workers is not None:
            workers = check_count(workers, "--workers", 1, MAX_WORKERS)
        self.workers, self.dask, self.here = workers, dask, here and dask is None
        self.version, self.ran, self.data = code_version(), 0, None
        self._files: dict[str, str] = {}
        self._known: dict[str, Outcome] = {}

    data: Dataset | None
    """The folder's results, while it is open."""

    def key(self, point: Mapping[str, Any]) -> str:
        """See `key_of`."""
        return key_of(point, self.version, self._files)

    def outcomes(self, points: Sequence[Mapping[str, Any]], told: Told | None = None) -> list[Outcome]:
        """What became of points, in their order."""
        known = self._known if self.data is None else self.data.stored
        keys = [self.key(point) for point in points]
        missing = {k: p for k, p in zip(keys, points, strict=True) if not self._stands(k, p, known)}
        before, todo = len(points) - len(missing), list(missing.items())
        if told is not None:
            told(before, len(points))
        with closing(self._source(list(missing.values()))) as finished:  # type: ignore[type-var]
            for i, (number, outcome) in enumerate(finished, 1):
                key, point = todo[number]
                if self.data is None:
                    known[key] = outcome
                else:
                    self.data.append(key, point, self.version, outcome)
                if told is not None:
                    told(before + i, len(points))
        self.ran += len(todo)
        return [known[key] for key in keys]

    def _stands(self, key: str, point: Mapping[str, Any], known: Mapping[str, Outcome]) -> bool:
        """Whether a result is there, and stands for what the files hold now."""
        digests = identity(point, self._files).values()
        return key in known and not any(d.startswith(UNREADABLE) for d in digests)

    def _source(self, points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        """Where outcomes come from; closing it ends the workers."""
        call, lost = partial(evaluate, version=self.version), partial(Outcome, None)
        if self.here:
            yield from enumerate(map(call, points))
        elif points and self.dask is not None:
            yield from run_cluster(call, points, lost, self.dask)
        elif points:
            with Crew(self.workers or cores(), apart=True) as crew:
                yield from crew.run(call, points, lost)


def key_of(point: Mapping[str, Any], version: str, known: dict[str, str]) -> str:
    """Digest of everything a point's outcome depends on; of files, what they hold."""
    return digest_of({"point": {**point, **identity(point, known)}, "code": version})
