"""The service rate of full engines, and the time to recover from a backlog.

A load is sustained only if it is below this rate; preemption by a full KV cache lowers it. One closed loop that keeps
every engine full measures it. Near the rate the queue behaves like a single server in heavy traffic (Whitt,
Stochastic-Process Limits, 2002, sections 5.7 and 9.6): at utilisation `r`, with variance `v` of arrivals and
completions per request, waits are exponential with mean `v / (2 rate (1 - r))`, and independent busy periods are `v /
(rate (1 - r)^2)` apart. The tokens in service, in standard deviations below full engines, give the probability that
engines fill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.expert_parts import ExpertPart
from ...simulator.engine.kv import kv_rules, sequences_that_fit
from ...simulator.engine.policies import Policy
from ...simulator.frameworks.settings import EngineSettings
from ...simulator.parts.two_pools.asked import pair_of
from ...simulator.results.record import Run
from ...simulator.results.steady import half_width
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import Made, deployment_of, fleet_of, run_scenario
from ...workloads.latencies import latency_of
from ...workloads.requests import RequestBlock
from ...workloads.requests.classes import without_bounds

F8 = npt.NDArray[np.float64]
ROUNDS, FEWEST, MOST = 14, 2000, 120_000
"""Requests per client in the first run of a closed loop, and limits of the number of its requests."""
BOUND_ROUNDS = 2
"""Requests per client of the loop that gives a lower bound of the rate."""
NARROW = 0.02
"""Half-width of the rate's 95 % interval, as a fraction, at which the run is long enough."""
OVER, SPARE = 1.1, 2.0
"""Clients of an engine, as multiples of the sequences allowed, or of those whose KV caches fit: some always wait."""
LONGER = 2.5
"""Upper end of the mean wait behind a full cache, relative to a single-server queue. In 13 of 22 runs of eight pairs of
model and system (200,000 requests at 0.9 or 0.95 of the full rate) requests waited behind a full cache. The quotient is
0.2 to 1.7, and 2.6 in one (llama-2-7b, seed 0; 0.4 to 1.0 with three other seeds). Without llama-2-7b it is at most 1.5."""
SAMPLES, BATCHES = 1800, 30
"""Times of a run at which the requests in service are counted, and batches that estimate for how long counts are correlated."""
SKEW = 3.0
"""Probability of large values with the skew of lognormal lengths (0.2 to 0.4), relative to a normal distribution."""
STAYS = 5.0
"""Least correlation time of the number of tokens in service, in service times: the integral of its autocorrelation in the
same runs is 4.5 to 23."""
NOT_ALL = 0.9
"""Share of the sequences allowed below which the KV cache limits an engine."""
RARELY = 1e-3
"""Share of time below which waits have no effect on any latency."""
LENGTHS = 65_536
"""Requests that are read to find the workload's mean lengths."""
TIMING = (
    "rate", "rate_scale", "mean_rate", "rate_profile", "since", "warmup", "stop", "cv", "spread", "duration",
    "router", "replicas", "autoscale", "fail", "mtbf", "repair",
)  # fmt: skip
"""Options of an open loop or of several replicas, which the closed loop does not have."""


@dataclass(frozen=True, slots=True)
class FullRate:
    """The service rate of a system whose engines are all full.

    Attributes
    ----------
    per_s : float
        Requests per second; with sessions, sessions that begin per second.
    half_width : float
        Half of its 95 % interval, as a fraction.
    variance : float
        Variance of the number of completions in a long time over its mean.
    engines : int
        Engines, each with one queue.
    holds : (float, float) or None
        Tokens and requests in service in a full replica, one standard deviation below their means; None for two
        pools, where requests also wait between the pools.
    asked : Scenario
        The closed loop that measured it, of one replica.
    bound : bool
        Whether the rate may be higher.
    """

    per_s: float
    half_width: float
    variance: float
    engines: int
    holds: tuple[float, float] | None
    asked: Scenario
    bound: bool = False

    def of(self, copies: int) -> FullRate:
        """Return the rate of `copies` replicas."""
        return replace(self, per_s=self.per_s * copies, engines=self.engines * copies)

    @property
    def sustains_per_s(self) -> float:
        """Return the lower end of the service rate's interval [1/s]: above it, recovery from a backlog is uncertain."""
        return self.per_s * (1.0 - self.half_width)

    def mean_wait_s(self, load: float) -> float:
        """Return the estimated upper end of the mean wait of requests that find an engine full [s]."""
        rate = self.sustains_per_s
        return LONGER * (1.0 + self.variance) / (2.0 * rate / self.engines * (1.0 - load / rate))

    def spells(self, load: float, span_s: float) -> float:
        """Return the number of independent spells of a queue in a time span."""
        rate = self.sustains_per_s
        return span_s * rate * (1.0 - load / rate) ** 2 / (1.0 + self.variance)


@dataclass(frozen=True, slots=True)
class _Loop:
    """A closed loop that keeps all engines of one replica full.

    Attributes
    ----------
    asked : Scenario
        Scenario of the loop, without the number of requests.
    made : Made or None
        Deployment and settings of its engines; None for two pools.
    block : RequestBlock
        Requests of the workload's mean lengths.
    clients, places, engines, replicas : int
        Clients of the loop; sequences that its engines may run, and queues; replicas of the scenario.
    turns : float64 array
        Requests of each session; 1 without sessions.
    """

    asked: Scenario
    made: Made | None
    block: RequestBlock
    clients: int
    places: int
    engines: int
    replicas: int
    turns: F8

    def arrivals(self, per_s: float, variance: float) -> tuple[float, float]:
        """Return the arrival rate of requests, or of sessions if there are any, and the variance of their work.

        The work of a session is the sum over its turns.
        """
        mean = float(self.turns.mean())
        return per_s / mean, variance / mean + float(self.turns.var()) / mean**2

    def run(self, count: int) -> Run:
        """Serve `count` requests."""
        return run_scenario(self.asked.changed(requests=count), made=self.made)

    def thinking(self) -> _Loop:
        """Return the loop with additional clients: the mean number of users who think at the same time."""
        busy = replace(self, asked=self.asked.changed(think=0.0)).run(max(BOUND_ROUNDS * self.clients, FEWEST))
        users = len(busy.requests) / busy.makespan_s * (self.asked.workload.think or 0.0)
        clients = self.clients + int(users)
        return replace(self, clients=clients, asked=self.asked.changed(closed_loop=clients))


def _loop_of(asked: Scenario, made: Made | None) -> _Loop | None:
    """Return the loop of a scenario; None if requests of a trace depend on each other."""
    changes: dict[str, Any] = dict.fromkeys(TIMING)
    changes["fail"] = ()
    if asked.workload.classes is not None:  # a closed loop rejects nobody
        changes["classes"] = without_bounds(asked.workload.classes)
    block = asked.changed(requests=LENGTHS, duration=None).workload.open(asked.seed).read()
    if block.turns is not None and asked.workload.trace is not None:
        return None
    sides, pools = list(_sides(asked, made)), asked.parts.asks("two-pools")
    places = sum(count * settings.policy.max_sequences * d.layout.dp for d, settings, count in sides)
    clients = sum(count * _clients(d, settings, block) for d, settings, count in sides)
    if asked.serving.policy is not None and asked.serving.engine is None and not pools:
        changes["max_seqs"], made = sides[0][1].policy.max_sequences, None  # else room for all clients
    loop = asked.changed(**changes, closed_loop=clients)
    engines = max(d.replicas * count for d, _, count in sides)
    replicas = 1 if pools else _replicas(asked, sides[0][0])
    made = None if pools else sampled(made or deployment_of(loop))
    turns = np.ones(1) if block.turns is None else np.unique(block.turns.session, return_counts=True)[1].astype(float)
    return _Loop(loop, made, block, clients, places, engines, replicas, turns)


def full_rate(asked: Scenario, made: Made | None = None) -> FullRate | None:
    """Measure the rate at which a scenario's engines serve while a backlog waits.

    Returns
    -------
    FullRate or None
        None if requests of a trace depend on each other, or if the trace is too short to fill an engine.

    Examples
    --------
    >>> work = dict(input_len=512, output_len=512, lengths="lognormal", framework="vllm")
    >>> full = full_rate(Scenario(model="llama-3-8b", system="h100-x1").changed(rate=1.0, **work))
    >>> 18 < full.per_s < 21 and full.half_width < 0.02
    True
    """
    loop = _loop_of(asked, made)
    if loop is None:
        return None
    if asked.workload.think:  # users who think have no request in an engine
        loop = loop.thinking()
    count = max(ROUNDS * loop.clients, FEWEST)
    while True:
        run = loop.run(count)
        wide, few = run.window.half_width, len(run.requests) < count
        known = run.window.kind == "steady" and wide is not None
        if few or 2 * count > MOST or (known and (wide or 0.0) <= NARROW):
            break
        count *= 2
    if not known or wide is None:
        return None
    rate = (run.output_tokens_per_s or 0.0) / float(loop.block.output_tokens.mean())
    tokens, running = in_service(run)
    pools = loop.made is None
    levels = None if pools else (float(tokens.mean() - tokens.std()), float(running.mean() - running.std()))
    cache = float(running.mean()) < NOT_ALL * loop.places
    variance = max(_variance(run), 0.0 if pools else _work_variance(loop.block, cache))
    played = loop.asked.changed(requests=count)
    rate, variance = loop.arrivals(rate, variance)
    return FullRate(rate, wide, variance, loop.engines, levels, played).of(loop.replicas)


def least_rate(asked: Scenario, made: Made | None = None) -> FullRate | None:
    """Return a lower bound of `full_rate` from a loop so short that it mostly fills and drains.

    A load that engines of this rate would sustain needs no exact rate: it costs a seventh of the requests.
    """
    loop = _loop_of(asked, made)
    if loop is None or asked.workload.trace is not None:
        return None
    run = loop.run(BOUND_ROUNDS * loop.clients)
    variance = max(_work_variance(loop.block, cache) for cache in (False, True))
    rate, variance = loop.arrivals(len(run.requests) / run.makespan_s, max(variance, 0.5))
    return FullRate(rate, 0.0, variance, loop.engines, None, loop.asked, True).of(loop.replicas)


def in_service(run: Run) -> tuple[F8, F8]:
    """Return the tokens and the number of the requests in service at evenly spaced times of a run's window."""
    r = run.requests
    times = np.linspace(run.window.start_s, run.window.end_s, SAMPLES)
    begin, end = r.scheduled_s, r.last_token_s
    rate = r.output_tokens / np.maximum(end - begin, 1e-9)

    def at(values: F8) -> F8:
        out: F8 = _sums(begin, values, times) - _sums(end, values, times)
        return out

    tokens: F8 = at(r.input_tokens - rate * begin) + at(rate) * times
    return tokens, at(np.ones(len(begin)))


def _sums(at: F8, values: F8, times: F8) -> F8:
    """Return for each time the sum of the values of all events up to then."""
    order = np.argsort(at, kind="stable")
    sums: F8 = np.append(0.0, np.cumsum(values[order]))[np.searchsorted(at[order], times, side="right")]
    return sums


def _sides(asked: Scenario, made: Made | None) -> Iterator[tuple[Deployment, EngineSettings, int]]:
    """Yield each deployment of a scenario with its settings and count: prefill and decode system, or the only one."""
    if asked.parts.asks("two-pools"):
        pair = pair_of(asked)
        for side in (pair.prefill, pair.decode):
            yield side.deployment, side.settings, side.count
    else:
        yield *(made or deployment_of(asked)), 1


def _replicas(asked: Scenario, deployment: Deployment) -> int:
    """Return the largest number of replicas that a scenario can have, by its autoscaler if there is one."""
    fleet = fleet_of(asked, deployment.system)
    if fleet is None:
        return 1
    return fleet.replicas if fleet.autoscale is None else fleet.autoscale.most


def _clients(deployment: Deployment, settings: EngineSettings, block: RequestBlock) -> int:
    """Return the number of clients that keep all ranks of a deployment full, by sequence limit and KV memory."""
    policy: Policy = settings.policy
    prompt, out = block.input_tokens - float(block.shared_tokens or 0), block.output_tokens.astype(float)
    context = float((out * (prompt + out / 2)).sum() / out.sum())  # of a sequence that runs, not of a request
    fits = sequences_that_fit(kv_rules(deployment, settings.cache_for(deployment)), max(int(context), 1))
    return min(int(OVER * policy.max_sequences) + 1, int(SPARE * fits) + 8) * deployment.layout.dp


def _variance(run: Run) -> float:
    """Return the variance of the number of completions over its mean, from the batches of a closed loop's window."""
    from scipy.special import stdtrit

    edges = np.array(run.window.edges)
    made = np.diff(np.searchsorted(np.sort(run.requests.last_token_s), edges)).astype(float)
    error = half_width(made, np.diff(edges)) / float(stdtrit(len(made) - 1, 0.975))
    return max(error**2 * float(made.sum()), 0.5)


FEWEST_SPELLS = 10.0
"""Least number of spells in a run from which the queue can be estimated."""
NONE_SEEN = 3.0
"""An event that did not occur in `n` spells has at most this probability over `n`, with 95 % confidence (rule of three)."""


def _work_variance(block: RequestBlock, cache: bool) -> float:
    """Return variance / mean^2 of the work of a request: output tokens, or KV tokens x steps if the cache limits.

    Completions of a closed loop contain all of it over times that are long compared with the longest request.
    """
    prompt, out = block.input_tokens.astype(float), block.output_tokens.astype(float)
    work = out * (prompt + out / 2) if cache else out
    return float(work.var() / work.mean() ** 2)


def fills(run: Run, load: float, full: FullRate) -> float:
    """Return an upper bound of the share of time in which an engine is full, from the spread of its load.

    The number of tokens in service is a sum of many that are independent, and so about normal. Its spread is known by
    the times that have nothing to do with each other; a queue, once there, lasts longer than the excursion itself.
    """
    from scipy.special import ndtr

    if full.holds is None:
        return 1.0
    length, chances = run.window.length_s, [0.0]
    for level, series in zip(full.holds, in_service(run), strict=True):
        spread = float(series.std())
        if spread <= 0.0:
            continue
        means = series[: SAMPLES // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
        apart = float(means.var(ddof=1)) / spread**2 * length / BATCHES
        apart = max(apart, STAYS * float((run.requests.last_token_s - run.requests.scheduled_s).mean()))
        free = max(length / max(apart, 1e-12), 1.0)
        sigmas = (level * full.engines - float(series.mean())) / (spread * full.engines**0.5)
        sure = sigmas - 2.0 * (1.0 / free**0.5 + abs(sigmas) / (2.0 * free) ** 0.5)  # of mean and spread
        lasts = length / max(full.spells(load, length), 1e-12)
        chances.append(float(SKEW * ndtr(-sure)) * max(lasts / max(apart, 1e-12), 1.0))
    return min(max(chances), 1.0)


def unseen(run: Run, load: float, level: Mapping[str, float], full: FullRate) -> tuple[tuple[str, ...], float]:
    """Return the latencies that a run is too short to judge, and the factor by which a run must be longer."""
    spells = full.spells(load, run.window.length_s)
    chance = fills(run, load, full)
    if spells < FEWEST_SPELLS and chance > RARELY:
        return ("load",), FEWEST_SPELLS / max(spells, 1e-9)
    wait, r = full.mean_wait_s(load), run.requests
    waits = float(np.e * (r.scheduled_s - r.arrival_s >= wait).mean())
    left, more = list[str](), 1.0
    for name, most in level.items():
        latency = latency_of(name)
        if latency is None or latency.share is None or latency.measure in ("tbt", "tpot"):
            continue
        rare = 1.0 - latency.share
        if min(chance, NONE_SEEN / spells) <= rare:
            continue
        usual = r.first_token_s if latency.measure.endswith("ttft") else r.last_token_s
        slack = most - float(np.median(usual - r.arrival_s)) - run.outside_s * latency.measure.startswith("client")
        allowed = rare * float(np.exp(min(max(slack, 0.0) / wait, 100.0)))
        if min(chance, 1.0) <= allowed:
            continue
        allowed -= waits
        needed = NONE_SEEN / max(allowed, rare / 10)
        if allowed < 1.0 and needed > spells:
            left.append(name)
            more = max(more, needed / spells)
    return tuple(left), more


DRAWS, ROUTED = 4, 6
"""Samples per step for equal layers under uniform routing, and how many times as many if each layer has its own popular experts.

Most of a simulation's CPU time samples the expert loads of each MoE layer in each step. Layers of one kind differ by chance only, so a
sample of them has the same mean time. With 4 for the 94 layers of Qwen3-235B, mean and p99 of TPOT and the
energy change by 0.3 %, the p99 of TTFT by 2 %, and 2,000 requests take 0.4 instead of 6.6 CPU s."""


def sampled(made: Made) -> Made:
    """Return a deployment in which equal MoE layers share samples, or the same object if there are none."""
    d, settings = made
    if d.apart is not None or d.parts or d.pools:
        return made
    alike: dict[tuple[object, ...], list[ExpertPart]] = {}
    for part in d.experts:
        alike.setdefault((part.spec, part.ep, part.stage, id(part.router), id(part.placed)), []).append(part)
    experts = tuple(part for parts in alike.values() for part in _shared(parts))
    return made if len(experts) == len(d.experts) else (replace(d, experts=experts), settings)


def _shared(parts: Sequence[ExpertPart]) -> list[ExpertPart]:
    """Return evenly spaced layers, each with the number of layers that it represents."""
    count = min(len(parts), DRAWS if parts[0].router.uniform else DRAWS * ROUTED)
    edges = [i * len(parts) // count for i in range(count + 1)]
    groups = [parts[a:b] for a, b in pairwise(edges)]
    return [replace(group[0], layers=sum(part.layers for part in group)) for group in groups]
