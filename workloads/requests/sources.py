"""Sources of request rows: a trace file, ServeGen clients, or length distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError, visible
from .block import MAX_BLOCK
from .formats import detect
from .lengths import Lengths
from .rows import Rows, checked, compressed, from_zero
from .servegen import DATASET, TRACE, find_clients, read_servegen, window_rates


@dataclass(frozen=True, slots=True)
class RowSource:
    """A source of rows that can be read repeatedly.

    Attributes
    ----------
    name : str
        For reports.
    has_arrivals : bool
        Whether the rows carry arrival times; if so the first is 0.
    rows : callable
        Starts a pass over the rows.
    """

    name: str
    has_arrivals: bool
    rows: Callable[[], Iterator[Rows]]


def own_rate(path: Path, seed: int) -> float:
    """Return the mean rate of all arrivals of a trace [1/s].

    ServeGen's clients say theirs; any other file is read once for it, in bounded memory.

    Raises
    ------
    InputError
        No arrivals, or all at once.
    """
    clients = find_clients(path) if not path.is_file() or _has_dataset(path) else []
    if clients:
        starts, rates, period = window_rates(clients)
        return float((rates * np.diff(starts, append=period)).sum()) / period
    origin, count, last = trace(path, seed), 0, 0.0
    for rows in origin.rows() if origin.has_arrivals else ():
        count, last = count + len(rows), float(rows.arrival_s[-1])
    if not last:
        raise InputError("--mean-rate", f"{origin.name} has no arrival times")
    return count / last


def trace(path: Path, seed: int, rate_scale: float = 1.0) -> RowSource:
    """Open a trace file, or ServeGen clients if `path` is a folder or a prefix of theirs.

    A file's arrivals are divided by `rate_scale`; ServeGen's windows stay in place and hold
    `rate_scale` times the requests. `seed` is ServeGen's.
    """
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):
        is_file = is_folder = False
    name = visible(path.name)
    clients = find_clients(path) if not is_file or _has_dataset(path) else []
    if clients:
        return RowSource(name, True, lambda: from_zero(read_servegen(clients, seed, rate_scale)))
    if is_folder:
        reason = "is a folder without ServeGen clients (*-trace.csv with *-dataset.json)"
        raise InputError(path, reason)
    form = detect(path)
    if not form.has_arrivals:
        return RowSource(name, False, lambda: checked(form.read(path), path))

    def rows() -> Iterator[Rows]:
        return compressed(from_zero(checked(form.read(path), path)), rate_scale)

    return RowSource(name, True, rows)


def trace_files(path: Path) -> list[Path]:
    """Return every file that `trace` reads for a path: the file, or ServeGen clients."""
    clients = find_clients(path) if not path.is_file() or _has_dataset(path) else []
    return [file for c in clients for file in (c.trace, c.dataset)] or [path]


def _has_dataset(path: Path) -> bool:
    stem = path.name.removesuffix(TRACE)
    return stem != path.name and path.with_name(stem + DATASET).is_file()


def generated(name: str, lengths: Lengths, seed: int, limit: int | None, block_size: int = MAX_BLOCK) -> RowSource:
    """Sample `limit` pairs of lengths without arrival times; endless if `limit` is None."""
    draws = lengths.draws

    def rows() -> Iterator[Rows]:
        rng_in, rng_out = lengths.rngs(seed, limit)
        left = np.inf if limit is None else limit
        while left > 0:
            n = int(min(block_size, left))
            left -= n
            yield Rows(np.zeros(n), draws[0](rng_in, n), draws[1](rng_out, n))

    return RowSource(name, False, rows)
