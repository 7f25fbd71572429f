"""ServeGen workloads: statistical clients, sampled window by window and merged in time order.

Source: alibaba/ServeGen, `data/<category>/<model>/` (Apache-2.0): per client a `*-trace.csv` and a `*-dataset.json`,
see `servegen_client`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .block import MAX_BLOCK
from .rows import Rows
from .servegen_client import DATASET, TRACE, WINDOW_S, ClientFiles, client_rows, windows


def find_clients(source: Path) -> list[ClientFiles]:
    """List the clients of a folder, or of a path that their file names start with.

    Returns an empty list where there is none, for example for an ordinary file; a client
    without its second file is an error.
    """
    try:
        folder, prefix = (source, "") if source.is_dir() else (source.parent, source.name)
        names = {path.name for path in folder.iterdir() if path.name.startswith(prefix)}
    except (OSError, ValueError):
        return []
    stems = sorted(name.removesuffix(TRACE) for name in names if name.endswith(TRACE))
    for stem in stems:
        if not (folder / (stem + DATASET)).is_file():
            raise InputError(folder / (stem + TRACE), f"has no {stem}{DATASET} beside it")
    return [ClientFiles(folder / (s + TRACE), folder / (s + DATASET), s) for s in stems]


def read_servegen(clients: list[ClientFiles], seed: int, rate_scale: float = 1.0) -> Iterator[Rows]:
    """Sample the clients and merge them; arrivals count from the start of the first window.

    A client's samples depend only on `seed` and its name, so a subset of clients gives the same requests as in the
    whole.

    Parameters
    ----------
    clients : list of ClientFiles
        From `find_clients`.
    seed : int
        Seed of all samples.
    rate_scale : float
        Factor on every window's request count; windows keep their length.
    """
    streams = [client_rows(client, seed, rate_scale) for client in clients]
    empty = True
    for rows in merged(streams):
        empty = False
        yield rows
    if empty:
        names = ", ".join(client.name for client in clients[:3])
        raise InputError(clients[0].trace, f"no window of {names} has a request")


def window_rates(clients: list[ClientFiles]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Requests per second of all clients together, window by window.

    Returns
    -------
    starts_s : float64 array, shape (n,)
        From the first window with a request [s]; windows without any are there, too.
    rates : float64 array, shape (n,)
        [1/s].
    period_s : float
        End of the last window with a request [s].

    Raises
    ------
    InputError
        A bad line, or no window with a request.
    """
    counts: dict[float, float] = {}
    for client in clients:
        for window in windows(client.trace):
            counts[window.start_s] = counts.get(window.start_s, 0.0) + window.count
    if not counts:
        raise InputError(clients[0].trace, "no window has a request")
    starts = np.array(sorted(counts))
    edges = np.unique(np.concatenate([starts, starts + WINDOW_S]))
    rates = np.zeros(len(edges))
    for start, count in counts.items():  # windows of two clients need not begin together
        inside = (edges >= start) & (edges < start + WINDOW_S)
        rates[inside] += count / WINDOW_S
    return edges[:-1] - edges[0], rates[:-1], float(edges[-1] - edges[0])


def merged(streams: list[Iterator[Rows]]) -> Iterator[Rows]:
    """Merge streams of rows by arrival; ties go to the earlier stream.

    A heap holds the next batch of each stream by its first arrival. Batches collect in a pool;
    what lies before the next batch of every stream can go out.
    """
    heap: list[tuple[float, int, Rows]] = []

    def advance(index: int) -> None:
        rows = next(streams[index], None)
        if rows is not None:
            heapq.heappush(heap, (float(rows.arrival_s[0]), index, rows))

    for index in range(len(streams)):
        advance(index)
    pool: list[tuple[int, Rows]] = []
    size = 0
    while heap:
        _, index, rows = heapq.heappop(heap)
        pool.append((index, rows))
        size += len(rows)
        advance(index)
        if size < MAX_BLOCK and heap:
            continue
        ready, pool = _split(pool, heap[0][0] if heap else np.inf)
        size = sum(len(rest) for _, rest in pool)
        if ready:
            yield _sorted(ready)


def _split(pool: list[tuple[int, Rows]], horizon: float) -> tuple[list[tuple[int, Rows]], list[tuple[int, Rows]]]:
    """Cut every batch of the pool at `horizon`: (before, from there on)."""
    before, after = [], []
    for index, rows in pool:
        cut = int(np.searchsorted(rows.arrival_s, horizon, side="left"))
        if cut:
            before.append((index, rows.part(0, cut)))
        if cut < len(rows):
            after.append((index, rows.part(cut, len(rows))))
    return before, after


def _sorted(pool: list[tuple[int, Rows]]) -> Rows:
    pool = sorted(pool, key=lambda item: item[0])
    times = np.concatenate([rows.arrival_s for _, rows in pool])
    order = np.argsort(times, kind="stable")
    inputs = np.concatenate([rows.input_tokens for _, rows in pool])
    outputs = np.concatenate([rows.output_tokens for _, rows in pool])
    return Rows(times[order], inputs[order], outputs[order])
