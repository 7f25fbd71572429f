"""ServeGen workloads: statistical clients, sampled window by window and merged in time order.

Source: alibaba/ServeGen, `data/<category>/<model>/` (Apache-2.0): per client a `*-trace.csv` and a `*-dataset.json`,
see `servegen_client`.

One ServeGen client: request counts and gap shapes per window, length tables per period.

`*-trace.csv`, no header: window start [s], rate [1/s], gap coefficient of variation, pattern (Gamma, Weibull or empty =
no activity), the pattern's shape and scale. `*-dataset.json`: period start [s] -> texts ``{tokens: probability}`` for
`input_tokens` and `output_tokens` (`reason_ratio` splits the output of reasoning models; the total is served). The rate
is a count of observed requests over the window: rate x 600 s is an integer in every row. So a window has exactly that
many, with gaps of the fitted shape, scaled to fill the window; for shape 1 that is a Poisson process given its count.
The scale column is not used: with a poor fit it contradicts the rate, up to a thousandfold in Weibull rows. A renewal
process restarted in each window would overshoot by (cv**2 - 1) / 2 requests.
"""

from __future__ import annotations

import heapq
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers, split_line
from ..errors import InputError
from ..textfile import at_line, read_lines, shown
from .agents import MAX_TIME
from .block import MAX_BLOCK
from .lengths import Draw, Purpose, from_table, generator
from .options import MAX_SIZE
from .rows import Rows

TRACE, DATASET = "-trace.csv", "-dataset.json"
WINDOW_S = 600.0
MAX_WINDOW = 1 << 24
"""Maximum number of requests of one client in one window: 28,000 per second."""

MAX_DATASET_BYTES = 256 << 20
MIN_SHAPE, MAX_SHAPE = 1e-3, 1e6
_FIELDS = ("window start", "rate", "cv", "pattern", "shape", "scale")
_PATTERNS = ("Gamma", "Weibull", "")


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """The two files of a client, and its name (the common part of the file names)."""

    trace: Path
    dataset: Path
    name: str


@dataclass(frozen=True, slots=True)
class ActiveWindow:
    """A window with activity: its line in the file, start [s], mean count, and gap pattern and shape."""

    line: int
    start_s: float
    count: float
    pattern: str
    shape: float


def client_rows(client: ClientFiles, seed: int, rate_scale: float) -> Iterator[Rows]:
    """Sample a client's requests, one batch per window with requests."""
    rng = generator(seed, Purpose.CLIENT, zlib.crc32(client.name.encode()))
    periods = _Periods(client.dataset)
    for window in windows(client.trace):
        mean = window.count * rate_scale
        if mean > MAX_WINDOW:
            where = at_line(client.trace, window.line)
            raise InputError(where, f"more than {MAX_WINDOW} requests in a window")
        count = int(mean + rng.random())
        if not count:
            continue
        arrival_s = window.start_s + WINDOW_S * _places(rng, window, count)
        inputs, outputs = periods.at(window.start_s)
        yield Rows(arrival_s, inputs(rng, count), outputs(rng, count))


def _places(rng: np.random.Generator, window: ActiveWindow, count: int) -> npt.NDArray[np.float64]:
    """Return `count` positions in (0, 1) with `count` + 1 gaps of the window's shape, scaled to fill the window."""
    if window.pattern == "Gamma":
        gaps = rng.standard_gamma(window.shape, count + 1)
    else:  # a power of an exponential; through logs, since small shapes overflow
        logs = np.log(np.maximum(rng.standard_exponential(count + 1), 1e-300)) / window.shape
        gaps = np.exp(logs - logs.max())
    edges = np.cumsum(gaps)
    total = float(edges[-1])
    return np.minimum(edges[:-1] / total, 1.0) if total > 0 else np.zeros(count)


def windows(path: Path) -> Iterator[ActiveWindow]:
    """Read the windows with activity, checking every row."""
    end = 0.0
    empty = True
    for chunk in read_lines(path):
        for line, text in enumerate(chunk.text, chunk.first):
            row = split_line(path, line, text)
            if not row:
                continue
            empty = False
            window = _window(path, line, row)
            if window.start_s < end:
                raise InputError(at_line(path, line), "this time window starts before the previous one ends")
            end = window.start_s + WINDOW_S
            if window.count:
                yield window
    if empty:
        raise InputError(path, "is empty")


def _window(path: Path, line: int, row: list[str]) -> ActiveWindow:
    if len(row) != len(_FIELDS):
        reason = f"row has {len(row)} cells, not {len(_FIELDS)}: {', '.join(_FIELDS)}"
        raise InputError(at_line(path, line), reason)
    start, rate, _, pattern, shape, _ = row
    if pattern not in _PATTERNS:
        raise InputError(at_line(path, line), f"pattern {shown(pattern)} is not Gamma or Weibull")
    start_s = _number(path, line, "window start", start, 0, MAX_TIME)
    count = _number(path, line, "rate", rate, 0, MAX_SIZE) * WINDOW_S
    if not pattern or not count:
        return ActiveWindow(line, start_s, 0.0, pattern, 1.0)
    in_range = _number(path, line, "shape", shape, MIN_SHAPE, MAX_SHAPE)
    return ActiveWindow(line, start_s, count, pattern, in_range)


def _number(path: Path, line: int, name: str, cell: str, low: float, high: float) -> float:
    return float(numbers(Column(path, [line], name, [cell]), low, high)[0])


class _Periods:
    """Length tables of a client by period; only the current period is parsed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._current: tuple[float, float] = (np.inf, -np.inf)
        self._draws: tuple[Draw, Draw] | None = None

    def at(self, time_s: float) -> tuple[Draw, Draw]:
        """Return the current distributions of input and output lengths at `time_s` [s].

        A period with empty tables falls back on the one before it, or the first with any.
        """
        start, end = self._current
        if self._draws is None or not start <= time_s < end:
            self._load(time_s)
        assert self._draws is not None
        return self._draws

    def _load(self, time_s: float) -> None:
        """Read the length distributions of the period that a time falls in."""
        data = _load_json(self._path)
        used = sorted(
            (_number(self._path, 1, "period start", key, 0, MAX_TIME), key)
            for key, period in data.items()
            if all(_texts(self._path, key, period))
        )
        if not used:
            raise InputError(self._path, "has no length distribution")
        k = max(0, sum(start <= time_s for start, _ in used) - 1)
        start, key = used[k]
        end = used[k + 1][0] if k + 1 < len(used) else np.inf
        self._current = (start if k else 0.0, end)
        inputs, outputs = _texts(self._path, key, data[key])
        self._draws = (
            _table(self._path, f"{key}.input_tokens", inputs),
            _table(self._path, f"{key}.output_tokens", outputs),
        )


def _load_json(path: Path) -> dict[str, Any]:
    lines: list[str] = []
    for chunk in read_lines(path, line_bytes=MAX_DATASET_BYTES, most=MAX_DATASET_BYTES):
        lines += chunk.text
    try:
        data = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise InputError(at_line(path, error.lineno), f"is not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise InputError(path, "is not valid JSON (nested too deep or a number too long)") from None
    if not isinstance(data, dict):
        raise InputError(path, "must be a JSON object: period start -> length tables")
    return data


def _texts(path: Path, key: str, period: object) -> tuple[str, str]:
    """Return the texts of a period's two tables, without braces."""
    inner = []
    for name in ("input_tokens", "output_tokens"):
        text = period.get(name) if isinstance(period, dict) else None
        if not isinstance(text, str) or not (text.startswith("{") and text.endswith("}")):
            raise InputError(path, f"{key}.{name} must be a text like '{{tokens: probability}}'")
        inner.append(text[1:-1].strip())
    return inner[0], inner[1]


def _table(path: Path, name: str, text: str) -> Draw:
    """Parse ``tokens: probability, ...``; a count of 0 tokens is served as 1."""
    pairs = [item.partition(":")[::2] for item in text.split(",")]
    try:
        table = np.array([(float(value), float(weight)) for value, weight in pairs])
    except ValueError:
        raise InputError(path, f"{name} is not a table of tokens: probability") from None
    values, weights = table.T
    integral = (values >= 0) & (values <= MAX_SIZE) & (values == np.floor(values))
    if not (integral.all() and (weights >= 0).all() and 0 < weights.sum() < np.inf):
        raise InputError(path, f"{name} has a token count or probability out of range")
    return from_table(np.maximum(values, 1).astype(np.int64), weights)


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
            raise InputError(folder / (stem + TRACE), f"needs the file {stem}{DATASET} in the same folder")
    return [ClientFiles(folder / (s + TRACE), folder / (s + DATASET), s) for s in stems]


def read_servegen(clients: list[ClientFiles], seed: int, rate_scale: float = 1.0) -> Iterator[Rows]:
    """Sample the clients' requests and merge them; arrivals are counted from the start of the first window.

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
        raise InputError(clients[0].trace, f"has no requests, and no other of the clients has any ({names})")


def window_rates(clients: list[ClientFiles]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Return the requests per second of all clients together, by window.

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
        raise InputError(clients[0].trace, "has no requests, and no other client has any")
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
    """Split every batch of the pool at time `horizon`."""
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
