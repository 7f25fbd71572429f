"""The steady window of a run, without the filling of an empty system and the final draining.

It ends with the last arrival. It begins where the mean of the rest has the least error: MSER (White 1997) over the
output rate of bins, not before a generation of requests has completed, nor before the warm-up. It is at least `FEWEST`
generations long (the time a request is in service). Batch means of a generation or more, with the correlation of
neighbours, give the interval (Law, Simulation Modeling and Analysis, section 9.5). A closed loop has rounds of one
completion per client; its window consists of whole rounds. A run without such a window is measured as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..engine.state import F8

FEWEST, MOST = 4, 30
"""Fewest and most batches of a window; more batches do not improve the interval."""
BINS_OF_GENERATION, MOST_BINS = 4, 400
"""Bins per generation of requests, and most bins, in which the end of the start-up phase is searched."""
LEVEL = 0.975
"""Quantile of Student's t for 95 % intervals."""
DRIFTS, SURE = 0.1, 0.9995
"""A rate that changes by more than this over the window is not steady, where 99.9 % of the trends that
chance makes are smaller."""
WIDE = 0.25
"""Relative width of the rate's interval above which the rate counts as unknown: the run is too short."""
GROWS, FEWEST_WAITING = 0.05, 10
"""A system is overloaded if its queue grows by more than this share of the arrivals, and by this many requests."""
SURELY_GROWS = 0.01
"""It is also overloaded if its queue surely grows by more than this share in a steady window."""

Rate = Callable[[F8], F8]
Kind = Literal["steady", "asked", "whole"]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a run in which its rates are measured.

    Attributes
    ----------
    start_s, end_s : float
        From the first arrival.
    kind : str
        "steady"; "asked", between a warm-up and a stop that were asked for; "whole", everything after the warm-up.
    why : str
        Reason why there is no steady window, else empty.
    edges : tuple of float
        Ends of the batches that intervals come from; empty without them.
    half_width : float or None
        Half of the 95 % interval of the output rate, as a fraction of it; what chance does to a run of
        this length, not how well the models fit.
    drift : float or None
        Change of the output rate over the window, as a fraction of it.
    queue_growth_per_s : float
        Requests by which the queue grows each second.
    overloaded : bool
        Whether requests come faster than they are served.
    """

    start_s: float
    end_s: float
    kind: Kind
    why: str = ""
    edges: tuple[float, ...] = ()
    half_width: float | None = None
    drift: float | None = None
    queue_growth_per_s: float = 0.0
    overloaded: bool = False

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def batches(self) -> int:
        return max(len(self.edges) - 1, 0)


@dataclass(frozen=True, slots=True)
class Stamps:
    """Times of requests [s], including unfinished ones; NaN until they happen.

    Attributes
    ----------
    arrival, scheduled, last : float64 array
        ``last`` is the latest token's.
    done : bool array
    each : int
        Requests that each row represents.
    """

    arrival: F8
    scheduled: F8
    last: F8
    done: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    each: int = 1


def find_window(tokens: Rate, stamps: Stamps, *, begin: float, end: float, clients: int | None, asked: bool) -> Window:
    """Find the steady window of a run.

    Parameters
    ----------
    tokens : callable
        Output tokens that had come by each of some times.
    begin, end : float
        End of the warm-up, 0 without one; end of the run [s].
    clients : int or None
        Of a closed loop.
    asked : bool
        Whether the user has set both ends: the window is then theirs.
    """
    came = stamps.arrival[np.isfinite(stamps.arrival)]
    drain = min(float(came.max(initial=0.0)), end)
    full_window = Window(begin, end, "asked" if asked else "whole")
    in_service = (stamps.last - stamps.scheduled)[stamps.done]
    if end <= begin or not len(in_service):
        return replace(full_window, why="" if asked else "nothing happens after the warm-up")
    open_loop = clients is None
    if asked:
        edges = np.linspace(begin, end, MOST + 1)
        return _queue(_measured(full_window, tokens, edges), stamps, min(drain, end), open_loop)
    if clients is None:
        edges_found = _of_arrivals(tokens, in_service, begin, drain, len(came) * stamps.each)
    else:
        edges_found = _of_rounds(tokens, np.sort(stamps.last[stamps.done]), begin, drain, clients)
    if isinstance(edges_found, str):
        return _queue(replace(full_window, why=edges_found), stamps, drain, open_loop)
    window = _measured(Window(float(edges_found[0]), float(edges_found[-1]), "steady"), tokens, edges_found)
    if window.half_width is None:
        window = replace(full_window, why="no output rate can be measured in its steadiest part")
    elif window.half_width > WIDE:
        text = f"the 95% interval of its output rate is +- {window.half_width:.0%}"
        window = replace(full_window, why=text)
    elif _surely_drifts(tokens, edges_found, window):
        text = f"the output rate changes by {window.drift:+.0%} over its steadiest part"
        window = replace(full_window, why=text)
    return _queue(window, stamps, drain, open_loop)


def _of_arrivals(tokens: Rate, in_service: F8, begin: float, drain: float, count: int) -> F8 | str:
    """Return the edges of the batches between filling and draining, or the reason why there are none.

    Examples
    --------
    Filling and four generations of 2 s take 10 s, in which 50 requests come at 5 a second:

    >>> _of_arrivals(lambda times: times, np.full(15, 2.0), 0.0, 3.0, 15)
    'it has 15 requests, and some 50 would be needed'
    """
    generation = max(float(in_service.mean()), 1e-9)
    gone = float(np.quantile(in_service, 0.9))
    span = drain - begin
    first = max(begin, gone)
    need = gone + FEWEST * generation
    if drain - first < FEWEST * generation:
        if span <= generation:
            return "all requests come within the time that one is in service"
        more = _round_up(count * need / max(drain, 1e-9))
        return f"it has {count:,} requests, and some {more:,} would be needed"
    bins = int(np.clip(BINS_OF_GENERATION * span / generation, FEWEST, MOST_BINS))
    edges = np.linspace(begin, drain, bins + 1)
    start = max(float(edges[mser(np.diff(tokens(edges)))]), first)
    batches = min(int((drain - start) / generation), MOST)
    if batches < FEWEST:
        return "its output rate settles too late"
    return np.linspace(start, drain, batches + 1)


def _of_rounds(tokens: Rate, ends: F8, begin: float, drain: float, clients: int) -> F8 | str:
    """Return the edges of whole rounds of a closed loop, or the reason why there are none.

    `ends` are its completions in order.
    """
    edges = ends[clients - 1 :: clients]
    edges = edges[(edges >= begin) & (edges <= drain)]
    rounds = len(edges) - 1
    if rounds >= FEWEST:
        edges = edges[mser(np.diff(tokens(edges)) / np.maximum(np.diff(edges), 1e-12)) :]
        rounds = len(edges) - 1
    if rounds < FEWEST:
        more = len(ends) + (FEWEST - max(rounds, 0) + 1) * clients
        return f"{clients:,} clients need some {_round_up(more):,} requests"
    per_batch = -(-rounds // MOST)
    kept: F8 = edges[::-1][::per_batch][::-1]
    return kept


def _round_up(count: float) -> int:
    """Return a count rounded up to two leading digits."""
    unit = 10 ** max(len(str(int(count))) - 2, 0)
    return int(-(-count // unit) * unit)


def mser(values: F8) -> int:
    """Return the number of values to leave out at the beginning, so that the mean of the rest has the least variance.

    At most half are left out, as a minimum further on is one of few values.

    Examples
    --------
    >>> mser(np.array([0.0, 2.0, 5.0, 5.1, 4.9, 5.0, 5.1, 4.9, 5.0]))
    2
    """
    n = len(values)
    left = n - np.arange(n // 2 + 1)
    tails = np.cumsum(values[::-1])[::-1][: n // 2 + 1]
    squares = np.cumsum(values[::-1] ** 2)[::-1][: n // 2 + 1]
    spread = np.maximum(squares - tails**2 / left, 0.0)
    return int(np.argmin(spread / left**2))


def _measured(window: Window, tokens: Rate, edges: F8) -> Window:
    """Return the window with the interval and drift of the output rate, from the batches between `edges`."""
    made, length = np.diff(tokens(edges)), np.diff(edges)
    total = float(made.sum())
    if total <= 0.0 or not (length > 0).all():
        return window
    mean = total / float(length.sum())
    slope, _ = _trend(edges, made / length)
    drift = slope * window.length_s / mean
    return replace(window, edges=tuple(edges.tolist()), half_width=half_width(made, length), drift=drift)


def half_width(made: F8, of: F8) -> float:
    """Return half of the relative 95 % confidence interval of a quotient of sums over batches.

    Parameters
    ----------
    made, of : float64 array, shape (batches,)
        Such as tokens and seconds, or joules and tokens, of batches of about equal size.
    """
    from scipy.special import stdtrit

    n, mean = len(made), made.sum() / of.sum()
    deviation = (made - mean * of) / of.mean()
    square = float((deviation**2).sum())
    error = (square / (n - 1) * _bound(deviation) / n) ** 0.5
    return float(stdtrit(n - 1, LEVEL) * error / mean)


def _bound(deviation: F8) -> float:
    """Return the variance of a mean over the variance with independent values."""
    neighbours = float((deviation[1:] * deviation[:-1]).sum())
    return 1.0 + 2.0 * max(neighbours / max(float((deviation**2).sum()), 1e-300), 0.0)


def _trend(edges: F8, values: F8) -> tuple[float, float]:
    """Return the least-squares slope of values between edges, per second, and its standard error.

    The error is larger if neighbouring values are correlated.
    """
    middle, scale = (edges[1:] + edges[:-1]) / 2, 2.0 ** int(np.frexp(edges[-1] - edges[0])[1])
    x, y = (middle - middle.mean()) / scale, values - values.mean()  # the square of a span may be none
    square = float((x**2).sum())
    slope = float((x * y).sum()) / square
    left = y - slope * x
    variance = float((left**2).sum()) * _bound(left) / max(len(y) - 2, 1)
    return slope / scale, (variance / square / scale / scale) ** 0.5


def trend_share(arrival: F8, last: F8, edges: F8) -> tuple[float, float]:
    """Return the 95 % confidence interval of the share of arrivals that stay in a system (queue growth).

    Parameters
    ----------
    arrival, last : float64 array, shape (requests,)
        When requests come and when they are done, each in order [s].
    edges : float64 array, shape (batches + 1,)
        Ends of batches of a generation or more [s].

    Examples
    --------
    >>> came = np.arange(1000.0)
    >>> [round(x, 3) for x in trend_share(came, came * 1.25 + 1, np.linspace(100, 900, 11))]
    [0.2, 0.2]
    """
    from scipy.special import stdtrit

    waits = _waits(arrival, edges) - _waits(last, edges)
    slope, error = _trend(edges, np.diff(waits) / np.diff(edges))
    rate = float(np.diff(np.searchsorted(arrival, edges[[0, -1]]))[0]) / float(edges[-1] - edges[0])
    half = float(stdtrit(max(len(edges) - 3, 1), LEVEL)) * error
    return (slope - half) / max(rate, 1e-300), (slope + half) / max(rate, 1e-300)


def _waits(times: F8, until: F8) -> F8:
    """Return the integral over time, up to each moment, of the number of `times` (sorted) that have passed."""
    total = np.append(0.0, np.cumsum(times))
    count = np.searchsorted(times, until, side="right")
    integral: F8 = count * until - total[count]
    return integral


def _surely_drifts(tokens: Rate, edges: F8, window: Window) -> bool:
    """Return whether the rate changes by more than `DRIFTS`, and by more than chance explains."""
    from scipy.special import stdtrit

    if window.drift is None or abs(window.drift) <= DRIFTS:
        return False
    slope, error = _trend(edges, np.diff(tokens(edges)) / np.diff(edges))
    return abs(slope) > float(stdtrit(len(edges) - 3, SURE)) * error


def _queue(window: Window, stamps: Stamps, drain: float, open_loop: bool) -> Window:
    """Return the window with the growth of the queue while requests arrive."""
    start, end = window.start_s, min(window.end_s, drain)
    if not open_loop or end <= start:
        return window
    edges = np.linspace(start, end, MOST + 1)
    arrival = np.sort(stamps.arrival[np.isfinite(stamps.arrival)])
    scheduled = np.sort(stamps.scheduled[np.isfinite(stamps.scheduled)])
    came = np.searchsorted(arrival, edges, side="right") * stamps.each
    waiting = came - np.searchsorted(scheduled, edges, side="right") * stamps.each
    slope, _ = _trend(np.append(edges, 2 * edges[-1] - edges[-2]), waiting.astype(float))
    growth = slope * (end - start)
    many = growth >= GROWS * float(came[-1] - came[0])
    if window.kind == "steady" and window.edges and not many:  # no edges: no token comes within it
        many = trend_share(arrival, scheduled, np.minimum(window.edges, end))[0] > SURELY_GROWS
    return replace(window, queue_growth_per_s=slope, overloaded=bool(many and growth >= FEWEST_WAITING))
