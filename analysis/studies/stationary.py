"""Whether a system sustains a load: runs grow until they decide it, for every study in the same way.

The trend of the requests in the system, from batch means of a generation or more (`results.steady`), must be below
`GROWS` of the arrivals, upper end of the interval. Each latency of the SLO has an interval from the same batches. An
undecided run (too short, or an interval wider than `NARROW` that contains the limit) is repeated with twice the
requests or more. After `MOST_REQUESTS` the load is undecided. The load must also be below the rate of full engines, and
the run long enough for rare bursts (`backlog`). Counts are `FIRST` times powers of two, so that all studies end on the
same runs. A looser SLO never gives a worse result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...simulator.parts.autoscale.asked import parse_autoscale
from ...simulator.parts.autoscale.replicas import ENGINE_START_S
from ...simulator.results.record import Run
from ...simulator.results.steady import half_width, trend_share
from ...simulator.scenario import Scenario
from ...workloads.latencies import latency_of
from .backlog import FullRate, full_rate, unseen
from .loads import ATTAINMENT, BACKLOG, Tried, judged, refused_of

F8 = npt.NDArray[np.float64]
State = Literal["holds", "missed", "open"]

FIRST, MOST_REQUESTS, GLANCE = 2000, 128_000, 500
"""Requests of the first run at a load, of the last run, and of a short run that detects only loads far beyond a limit."""
BATCHES = 10
"""Least number of generations in the stationary part of a run."""
GROWS = 0.02
"""Largest share of the arrivals that may stay in the system, at the upper end of its interval."""
SURELY = 0.1
"""If the lower end of this share's interval is above this value, no longer run is needed."""
FAR, ODDS = 2.0, 10.0
"""With a growing queue, a latency of this many limits fails without an interval. A quantile fails if the odds that a
request exceeds the limit are this many times the allowed odds."""
NARROW = 0.04
"""Half-width of a latency's interval, as a fraction, below which the estimate decides."""
MUCH = 2
"""A run that would need this many times the maximum requests is not made."""
SCALED = ("autoscale", "prefill_autoscale", "decode_autoscale")
"""Options that change the number of replicas."""


@dataclass(frozen=True, slots=True)
class StableLoad:
    """Result of simulating one load: the verdict and the longest run.

    Attributes
    ----------
    run : Run
        The last run, which has the most requests.
    """

    tried: Tried
    run: Run


def counted(asked: int) -> int:
    """Return the number of requests of a run with at least `asked`: `FIRST`, doubled as often as needed.

    Examples
    --------
    >>> counted(600), counted(1001), counted(20_000)
    (2000, 2000, 32000)
    """
    count = FIRST
    while count < asked:
        count *= 2
    return count


def decide(
    make: Callable[[int], Run], load: float, level: Mapping[str, float], asked: int,
    *, grows: bool = True, most: int | None = None, enough: Callable[[Run], bool] = lambda run: False,
    full: Callable[[], Iterable[FullRate]] = tuple,
) -> StableLoad:  # fmt: skip
    """Simulate a load until it is decided whether it is sustained.

    Parameters
    ----------
    make : callable
        Function that simulates N requests, or all requests of a shorter trace.
    load : float
        Requests per second.
    asked : int
        Least number of requests.
    grows : bool
        Whether longer runs have the same load; false for a trace with its own arrivals.
    most : int, optional
        Largest number of requests of a run. With `GLANCE` requests, a run decides only that a load is far too high.
    enough : callable
        Whether an undecided run is sufficient.
    full : callable
        The rate of full engines, lower bounds of it first, where a run would hold the load.
    """
    most = most or MOST_REQUESTS
    count, before = min(counted(asked), most) if grows else asked, None
    while True:
        made = make(count)
        short = not grows or _count(made) < count
        tried, need = judge(made, load, level, before, sampled=not short)
        if not tried.missed and count > GLANCE:
            verdict = tried, need
            for rate in full():
                judged_by = recovering(tried, need, made, load, level, rate, sampled=not short)
                sustained = not judged_by[0].missed and judged_by[0].holds == tried.holds
                verdict = judged_by if sustained or not rate.bound else verdict
                if sustained:
                    break  # any higher rate sustains it too
            tried, need = verdict
        if not tried.open or short or count >= most or need > MUCH * most or enough(made):
            return StableLoad(tried, made)
        before, count = tried, min(max(2 * count, counted(need)), most)


def judge(
    run: Run, load: float, level: Mapping[str, float], before: Tried | None, *, sampled: bool
) -> tuple[Tried, int]:
    """Return the verdict of a run on a load, and the number of requests that a longer run needs.

    Parameters
    ----------
    before : Tried or None
        The same values of a run with fewer requests.
    sampled : bool
        Whether requests are sampled; a trace is complete, so its quantiles are exact.
    """
    trial = judged(run, load, level)
    queue, growth = _queue(run, before, sampled)
    states: dict[str, State] = {}
    for name, most in level.items():
        exact: State = "missed" if name in trial.missed else "holds"
        states[name] = _latency(run, trial, name, most, before) if sampled else exact
    refuses = refused_of(run) > 0
    states["load"] = "missed" if refuses and ATTAINMENT not in level else queue
    missed = tuple(n for n, state in states.items() if state == "missed")
    left = () if missed else tuple(n for n, state in states.items() if state == "open")
    return replace(trial, missed=missed, open=left, requests=_count(run), growth=growth), _needed(run)


def recovering(
    tried: Tried, need: int, run: Run, load: float, level: Mapping[str, float], full: FullRate, *, sampled: bool
) -> tuple[Tried, int]:
    """Return the same verdict with the backlog rule: a load above the rate of full engines fails.

    A run too short for the spells of a queue that may come leaves it open.
    """
    tried = replace(tried, full_per_s=full.sustains_per_s)
    if load > full.sustains_per_s:
        return replace(tried, missed=(*tried.missed, BACKLOG), open=()), need
    if not sampled or not tried.holds:
        return tried, need
    left, more = unseen(run, load, level, full)
    return replace(tried, open=left), max(need, int(more * tried.requests))


def _queue(run: Run, before: Tried | None, sampled: bool) -> tuple[State, float | None]:
    """Return whether the queue is stationary, and the share of the arrivals by which it grows; None if unknown.

    A system that fills up to a stationary number keeps some for a while, the longer the nearer it is to
    what it can do; so that a load is too much only where those that wait for a place grow as well, and
    their share does not shrink in a run of twice the requests.
    """
    w, r = run.window, run.requests
    if w.kind == "whole" or len(w.edges) < 4:
        return "open", None
    edges, came = np.array(w.edges), np.sort(r.arrival_s)
    low, high = trend_share(came, np.sort(r.last_token_s), edges)
    waits = trend_share(came, np.sort(r.scheduled_s), edges)
    old, share = None if before is None else before.growth, sum(waits) / 2
    again = old is not None and share > 0.8 * old
    if low > SURELY or (waits[0] > GROWS / 2 and again) or (not sampled and w.overloaded):
        return "missed", share
    steady = not sampled or (high < GROWS and w.batches >= BATCHES)
    return "holds" if steady else "open", share


def stationary(run: Run, asked: Scenario) -> bool | None:
    """Return whether one run of an open loop sustains its load, by the rule of `decide`; None: undecided."""
    sampled = asked.workload.trace is None
    if run.window.length_s < settling(asked)[1]:
        return None
    state, _ = _queue(run, None, sampled)
    if state != "holds":
        return None if state == "open" else False
    tried, full = Tried(0.0, None, {}, ()), full_rate(asked)
    if full is not None:
        r = run.requests
        load = (len(r) - 1) / max(float(np.ptp(r.arrival_s)), 1e-12)
        tried, _ = recovering(tried, 0, run, asked.workload.rate or load, {}, full, sampled=sampled)
    return None if tried.open else not tried.missed


def settling(asked: Scenario) -> tuple[dict[str, str], float]:
    """Return options that start autoscalers with all replicas, and the time until each could have removed one [s].

    Replicas that start at first are a transient: a sustained load recovers from its backlog. A fleet that its rule will
    make too small looks large enough until then. Reading the weights is not part of the time.
    """
    begin, settles_s = dict[str, str](), 0.0
    for name in SCALED:
        text = asked.option(name)
        if text is None or not (scaling := parse_autoscale(text)).decides:
            continue
        begin[name] = re.sub(r",begin=\d+", "", text) + f",begin={scaling.most}"
        start_s = ENGINE_START_S if scaling.start is None else scaling.start
        settles_s = max(settles_s, scaling.hold + scaling.every + start_s)
    return begin, settles_s


def _count(run: Run) -> int:
    """Return the requests of a run, including rejected ones."""
    return len(run.requests.request_id) + refused_of(run)


def _needed(run: Run) -> int:
    """Return the number of requests in `BATCHES` generations."""
    r = run.requests
    served, span = r.last_token_s - r.scheduled_s, float(np.ptp(r.arrival_s))
    if span <= 0.0 or not len(served):
        return 0
    most = float(np.quantile(served, 0.9)) + 1.25 * BATCHES * float(served.mean())
    return int(np.ceil(len(served) * most / span))


def _latency(run: Run, trial: Tried, name: str, most: float, before: Tried | None) -> State:
    """Return whether a value of a run meets its limit, exceeds it, or is still open, by its 95 % interval."""
    figure = trial.figures[name]
    if figure is None:
        return "holds"
    if run.window.overloaded and name != ATTAINMENT and figure > FAR * most:
        return "missed"
    if _far(run, name, most):
        return "missed"
    if name == ATTAINMENT:
        wide = _since(figure, before, name)
        figure, most = most, figure  # larger values are better
    elif name.startswith("tbt"):
        wide = _since(figure, before, name)
    else:
        wide = _spread(run, name, figure)
    if figure * (1.0 + wide) <= most:
        return "holds"
    if figure * (1.0 - wide) > most:
        return "missed"
    if wide > NARROW:
        return "open"
    return "holds" if figure <= most else "missed"


def _far(run: Run, name: str, most: float) -> bool:
    """Return whether the odds that a request exceeds the limit are more than `ODDS` times the allowed odds."""
    latency = latency_of(name)
    if latency is None or latency.share is None or latency.measure == "tbt":
        return False
    share, (values, _) = latency.share, values_of(run, latency.measure)
    over = float((values > most).mean()) if len(values) else 0.0
    return over * share > ODDS * (1.0 - over) * (1.0 - share)


def _since(figure: float, before: Tried | None, name: str) -> float:
    """Return the relative change of a value from a run of half the requests; tokens have no row."""
    old = None if before is None else before.figures[name]
    return abs(figure - old) / figure if old and figure else 1.0


def _spread(run: Run, name: str, figure: float) -> float:
    """Return half of a latency's 95 % interval over its value, from the batches of the steady part."""
    latency = latency_of(name)
    assert latency is not None
    values, arrival = values_of(run, latency.measure)
    edges = np.array(run.window.edges)
    if len(edges) < 3 or figure <= 0.0:
        return 1.0
    batch = np.digitize(arrival, edges) - 1
    inside = (batch >= 0) & (batch < len(edges) - 1)
    count = np.bincount(batch[inside], minlength=len(edges) - 1).astype(float)
    if not (count > 0).all():
        return 1.0

    def per_batch(x: F8) -> F8:
        return np.bincount(batch[inside], x[inside], minlength=len(edges) - 1).astype(float)

    share = latency.share
    if share is None:
        return half_width(per_batch(values), count)
    over = per_batch((values > figure).astype(float))
    if over.sum() < BATCHES:
        return 1.0
    part = (1.0 - share) * half_width(over, count)
    ends = np.clip([share - part, share + part], 0.0, 1.0)
    low, high = np.quantile(values[inside], ends)
    return float(max(high / figure - 1.0, 1.0 - low / figure))


def values_of(run: Run, measure: str) -> tuple[F8, F8]:
    """Return the latency and the arrival time of each request that has this latency, both shape (n,) [s]."""
    r, seen = run.requests, run.outside_s if measure.startswith("client") else 0.0
    if measure.endswith("ttft"):
        return r.first_token_s - r.arrival_s + seen, r.arrival_s
    if measure.endswith("e2e"):
        return r.last_token_s - r.arrival_s + seen, r.arrival_s
    several = r.output_tokens > 1
    gaps = (r.last_token_s - r.first_token_s)[several] / (r.output_tokens[several] - 1)
    return gaps, r.arrival_s[several]
