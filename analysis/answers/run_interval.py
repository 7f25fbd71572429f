"""Intervals of a run: throughput, TPOT, TTFT, end-to-end time, energy.

In a closed loop whose steps take `r` times as long, throughput is `1 / r` times and every latency `r` times the simulated
one. With open-loop arrivals, slower steps contain more requests. If a step of `n` requests takes `a + b n` seconds,
Little's law gives a latency of `r (1 - e) / (1 - r e)` times the simulated one, where `e` is the share of the step time
that grows with its requests. Throughput is constant until `r e` is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log1p

import numpy as np

from ...devices.ratios import Ratios
from ...simulator.deploy.deployment import Deployment
from ...simulator.engine.host import OUTSIDE_S, starting
from ...simulator.parts.two_pools.run import pools_of
from ...simulator.results.record import Run, typical, usual_batches
from ...simulator.step.explicit import StageCost, explicit_stage
from ...simulator.step.launches import all_launches
from ...workloads.batch import PREFILL, Batch
from ...workloads.jit import plainly
from .error_factors import FIRST, STEP, TOKEN, Amounts, Conditions, Widths, amounts, fitted_widths
from .interval import (
    F8,
    KNOWN,
    LONGEST,
    Interval,
    beyond_steps,
    energy_interval,
    hosted,
    interval_of,
    parts_of,
    scores,
    slowdowns,
)

QUANTILES = 41
NOT_OFF = Ratios(0.0, 0.0, 0.0)
DELTA = 0.25
"""Share of requests added to a step to measure how its time grows."""
LENGTHS = np.linspace(0.03, 0.97, 16)
"""Quantiles of prompt lengths over which launch times are averaged: short prompts replay piecewise graphs, long ones
launch every kernel."""


@dataclass(frozen=True, slots=True)
class RunIntervals:
    """Factors on the results of a run.

    Attributes
    ----------
    step : Interval
        Factors on the step time; their inverses apply to the highest load the system could serve.
    slowdowns : tuple of float
        Quantiles of true over predicted step time, at equally spaced probabilities from 0 to 1.
    waiting : Ratios
        Errors of TTFT beyond the errors of its steps.
    reasons : tuple of str
        Names of the error factors that widen the intervals, the largest first; see `error_factors`.
    """

    step: Interval
    throughput: Interval
    tpot: Interval
    ttft: Interval
    e2e: Interval
    slowdowns: tuple[float, ...] = ()
    waiting: Ratios = NOT_OFF
    reasons: tuple[str, ...] = ()

    def slow(self, share: float) -> float:
        """Return the factor that the step time exceeds with probability `1 - share`."""
        places = np.linspace(0.0, 1.0, len(self.slowdowns))
        return float(np.interp(share, places, self.slowdowns))

    @property
    def cost(self) -> Interval:
        return self.throughput.inverse

    def joules(self, power: Interval | None) -> Interval | None:
        """Return factors on the energy of a token: power and time combined, squared logarithms added."""
        return energy_interval(power, self.cost)


@dataclass(frozen=True, slots=True)
class StepDraws:
    """Samples of measured over predicted time of a step's kernels, and the host's times.

    `seconds` is the predicted time of the kernels, `launch_s` of their launches, and `host_s` what the engine's version
    adds to a step [s]; `hidden` if that overlaps with the kernels.
    """

    kernels: F8
    seconds: float
    launch_s: float = 0.0
    host_s: float = 0.0
    hidden: bool = False

    def at(self, power: float) -> F8:
        beside = self.launch_s + self.host_s * self.hidden
        drawn = hosted(self.kernels**power, self.seconds, beside, hidden=True)
        return drawn if self.hidden else hosted(drawn, max(self.seconds, beside), self.host_s)


@dataclass(frozen=True, slots=True)
class RunDraws:
    """Inputs of a run's intervals.

    Attributes
    ----------
    prompts : float
        Share of the run's time in steps with prompts.
    growth, busy : float
        Share of a decode step's time, and of a prompt step's time, that grows with its requests; 0 in a closed loop.
    closed : bool
        Whether throughput is proportional to 1 / step time: in a closed loop, or in an overloaded system.
    first : float
        TTFT without queueing, over end-to-end time without queueing.
    waits : float
        TTFT over end-to-end time, both with queueing.
    prefill_bound : bool or None
        Whether the prefill pool is the slower one; None without separate pools.
    """

    decode: StepDraws
    prompt: StepDraws
    amounts: Amounts
    prompts: float
    growth: float
    busy: float
    closed: bool
    first: float
    waits: float
    prefill_bound: bool | None = None

    def intervals(self, widths: Widths | None = None) -> RunIntervals:
        """Return factors on the results of the run."""
        known, c = widths or fitted_widths(), self.amounts
        waiting, off = known.reach(c, FIRST), np.exp(known.reach(c, STEP).at(scores(1)))
        decode, prompt = self.decode.at(known.kernels) * off, self.prompt.at(known.kernels) * off
        first = self.prompt.at(known.first_kernels) * off
        if self.prefill_bound is None:
            step = slower = (1.0 - self.prompts) * decode + self.prompts * prompt
            load = step * self.growth
        else:
            step, slower = decode, np.maximum(decode, prompt)
            load = np.maximum(decode * self.growth, prompt * self.busy)
        if self.closed:
            bound = prompt if self.prefill_bound else step
            alone = first * np.exp(waiting.at(scores(3)))
            served = 1.0 / ((1.0 - self.first) * bound + self.first * alone)
        else:
            served = 1.0 / np.maximum(load, 1.0)
        tpot = beyond_steps(interval_of(_held(step, self.growth)), known.reach(c, TOKEN))
        ttft = beyond_steps(interval_of(_held(first, self.busy)), waiting)
        throughput = interval_of(served)
        e2e = end_to_end(ttft, tpot, self.waits)
        if self.closed and self.first > 0.0:  # Little's law: a constant number of requests is in flight
            most = throughput.inverse
            e2e = Interval(max(e2e.low, min(most.low, 1.0)), min(e2e.high, max(most.high, 1.0)), e2e.level)
        quantiles = tuple(np.quantile(slower, np.linspace(0.0, 1.0, QUANTILES)).tolist())
        return RunIntervals(
            interval_of(step), throughput, tpot, ttft, e2e, quantiles, waiting, known.reasons(c, STEP, TOKEN, FIRST)
        )


def end_to_end(ttft: Interval, tpot: Interval, waits: float) -> Interval:
    """Return factors on end-to-end time, from TTFT and TPOT, which share the same steps."""
    return Interval(
        waits * ttft.low + (1.0 - waits) * tpot.low, waits * ttft.high + (1.0 - waits) * tpot.high, tpot.level
    )


def usual_draws(
    deployment: Deployment,
    decodes: int,
    context: int,
    prompt: int,
    engine: Engine = ("", ()),
    split: bool = False,
    first_s: float = 0.0,
) -> RunDraws | None:
    """Return the inputs of the intervals of a rank's typical steps in a closed loop: decodes, and decodes with a prompt.

    The mean context is the prompt and half of the output. If lengths are not published, `first_s` is the simulated TTFT [s]:
    with equal lengths, a request could also wait for the prompts of half of the others.
    """
    batches = usual_batches(decodes, context, prompt)
    stages = [_stage(deployment, batch) for batch in batches]
    share = _share_of(min(decodes / max(2.0 * (context - prompt), 1.0), 1.0), *(stage.seconds for stage in stages))
    decode, mixed = (slowdowns(parts_of(deployment, stage)) for stage in stages)
    if decode is None or mixed is None:
        return None
    outside = OUTSIDE_S / (OUTSIDE_S + stages[1].seconds) if engine[0] else 0.0
    together = log1p(decodes / 2.0 * max(stages[1].seconds - stages[0].seconds, 0.0) / first_s) if first_s else 0.0
    factors = amounts(
        Conditions(deployment, stages[0], *engine, share, split=split, outside=outside, together=together)
    )
    steps = StepDraws(decode, stages[0].seconds), StepDraws(mixed, stages[1].seconds)
    return RunDraws(*steps, factors, 0.0 if split else share, 0.0, 0.0, closed=True, first=0.0, waits=0.0)


Engine = tuple[str, tuple[int, ...]]
"""Name and version of an engine, as `error_factors.engine_of_scenario` returns them."""


def run_intervals(run: Run, open_loop: bool, engine: Engine = ("", ()), burst: bool = False) -> RunIntervals | None:
    """Return the intervals of a run; None if too small a part is based on measurements; see `run_draws`."""
    draws = run_draws(run, open_loop, engine, burst)
    return None if draws is None else draws.intervals()


def run_draws(run: Run, open_loop: bool, engine: Engine = ("", ()), burst: bool = False) -> RunDraws | None:
    """Return the inputs of a run's intervals; None if too small a part is based on measurements.

    With two pools, TTFT depends on the prefill pool's steps, and TPOT on the decode pool's. TTFT waits for prompts as in a queue with the
    prefill pool's utilisation, and the slower pool determines throughput. If all requests arrive at once (`burst`),
    some first tokens wait while others decode, and throughput depends only on the steps.
    """
    closed, batches = not open_loop or run.window.overloaded, typical(run)
    pools = pools_of(run)
    prefill, d = (pools[0], pools[1].deployment) if pools else (None, run.deployment)
    side = d if prefill is None else prefill.deployment
    mixed = batches[1] if prefill is None else Batch.of(chunks=[(int(batches[1].q_len[-1]), 0)])
    stages = _stage(d, batches[0]), _stage(side, mixed)
    decode, prompt = _step_draws(run, d, batches[0], stages[0]), _step_draws(run, side, mixed, stages[1])
    if decode is None or prompt is None:
        return None
    share = _mixed_share(run, stages[0].seconds, stages[1].seconds) if prefill is None else 0.0
    e = 0.0 if closed else _growth(d, batches[0], stages[0].seconds)
    busy = e if prefill is None else 0.0 if closed else min(prefill.stepping, 0.99)
    rows, outside = run.requests, run.outside_s
    wait, first, all_of_it = (
        float((end - rows.arrival_s).mean()) for end in (rows.scheduled_s, rows.first_token_s, rows.last_token_s)
    )
    in_step = (closed or burst) and not any(np.ptp(x) for x in (rows.input_tokens, rows.output_tokens))
    c = Conditions(
        d, stages[0], *engine, share, burst, in_step, prefill is not None,
        outside=outside / max(first + outside, 1e-12),
    )  # fmt: skip
    alone = 0.0 if burst or not closed else (first - wait + outside) / max(all_of_it - wait + outside, 1e-12)
    return RunDraws(
        decode, prompt, amounts(c), share, e, busy, closed,
        min(max(alone, 0.0), 1.0), min((first + outside) / max(all_of_it + outside, 1e-12), 1.0),
        None if prefill is None else prefill.stepping >= KNOWN,
    )  # fmt: skip


def _step_draws(run: Run, deployment: Deployment, batch: Batch, stage: StageCost) -> StepDraws | None:
    """Return samples of a step's kernel time and the step's host time; None if too little is measured.

    The host time includes the time that the engine's version adds, if that is known from measured runs.
    """
    drawn = slowdowns(parts_of(deployment, stage))
    if drawn is None:
        return None
    if pools_of(run):
        return StepDraws(drawn, stage.seconds)
    stages, prompts = deployment.layout.pp, batch.q_len[batch.phase == PREFILL]
    host_delay = run.policy.host_delay(all_launches(deployment, run.policy.calls), stages)
    known_s = host_delay.step_s + host_delay.gap_s + host_delay.sequence_s * len(batch.context)
    host_s = known_s if run.policy.host.why else run.policy.sync_s(stages)
    lengths = np.minimum(np.quantile(run.requests.input_tokens, LENGTHS), run.policy.token_budget)
    tokens = batch.tokens - prompts.sum() + len(prompts) * lengths
    launch_s = float(np.mean([plainly(starting)(host_delay, x, len(prompts)) for x in tokens]))
    return StepDraws(drawn, stage.seconds / stages, launch_s, host_s, host_delay.hidden)


def _held(drawn: F8, e: float) -> F8:
    """Return the factors on a latency if slower steps also contain more requests; infinite if overloaded.

    The arguments are the factors on the step time, and the share of the step time that grows with its requests.
    """
    if not e:
        return drawn
    room = 1.0 - drawn * e
    longer = drawn * (1.0 - e) / np.where(room > 0.0, room, 1.0)
    return np.where((room > 0.0) & (longer < LONGEST), longer, np.inf)


def _stage(deployment: Deployment, batch: Batch) -> StageCost:
    """Return the cost of a step in which every rank has the same batch."""
    return explicit_stage(deployment, [batch] * deployment.ranks, expected=True)


def _mixed_share(run: Run, decoding_s: float, mixed_s: float) -> float:
    """Return the share of a run's time that steps with a prompt take."""
    prompts = run.prompt_tokens / max(float(run.requests.input_tokens.mean()), 1.0)
    return _share_of(min(prompts / max(run.iterations, 1), 1.0), decoding_s, mixed_s)


def _share_of(count: float, decoding_s: float, mixed_s: float) -> float:
    """Return the share of time of steps with prompts, from their share of all steps and both step times."""
    return count * mixed_s / max(count * mixed_s + (1.0 - count) * decoding_s, 1e-300)


def _growth(deployment: Deployment, batch: Batch, seconds: float) -> float:
    """Return the share of a step's time that grows with its number of requests."""
    count, context = len(batch.context), int(batch.context[0])
    more = max(round(count * DELTA), 1)
    wider = Batch.of([context] * (count + more), new=deployment.several)
    grown = _stage(deployment, wider).seconds
    return float(np.clip((grown / seconds - 1.0) * count / more, 0.0, 0.99))
