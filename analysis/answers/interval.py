"""How sure a simulated time is: an interval from the errors of its parts.

Every op's price has a distribution of measured over predicted seconds, that of the rows around it
(`devices.calibrated.behind`). The errors of one family's ops rise and fall together, as if all were
one kernel's; those of different families do not know of each other. A step's time is the sum of its
parts, so its distribution is that of the sum of drawn ones. Beside them stands what is in no kernel
table, the host and the framework between the kernels (`BETWEEN`), and what has no price (`unpriced`).

Where all times are `r` times as long, a closed loop serves `1 / r` as much and every latency is `r`
times as long: nothing else in it has a time of its own. Where requests arrive on their own, slower
steps hold more requests, which makes them slower still. With a step of `a + b n` seconds for `n`
requests and as many as Little's law says, a latency is `r (1 - e) / (1 - r e)` times as long, `e`
being the share of the step that grows with its requests; throughput stays until `r e` is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.cost import Evidence
from ...devices.ratios import Ratios
from ...simulator.deploy.deployment import Deployment
from ...simulator.parts.experts_apart.holders import runs_on
from ...simulator.parts.two_pools.run import pools_of
from ...simulator.serving.record import Run
from ...simulator.serving.usual import typical, usual_batches
from ...simulator.step.explicit import StageCost, explicit_stage
from ...workloads.batch import Batch
from .unpriced import unpriced_slowdowns

F8 = npt.NDArray[np.float64]
LEVEL = 0.8
DRAWS, QUANTILES = 2000, 41
WAITING = Ratios(-0.15, 0.12, 0.79)
"""How far off the time to a first token is beyond the steps it takes: what lets prompts wait, network,
tokenisation. From the 917 measured TTFTs of serving_points, between what 567 with known launch scripts say today (0.56 above) and all (1.17);
`validate points` takes it from the other models' points when it judges a model's."""
BETWEEN = 0.03 / 0.6745
"""Standard deviation of the host and framework's share: modelled steps are within 3 % (median) of a
vLLM server's at equal batch, on eleven runs on H100s (serving_h100 of the data folder), none of them
among those that `validate points` and `validate serving` judge intervals by."""
HOST = Ratios(-0.35, 0.0, 0.35)
"""How far off what a version's host adds to a step is (`upkeep`): points tell TensorRT-LLM's 50 us a sequence from
0 and from 55, not from 100; those of 2024 move by as much between the device that they were fitted to and another."""
KNOWN = 0.5
"""Share of the time that must rest on measurements; with less there is no interval."""
LONGEST = 10.0
"""Factor at which a latency counts as unbounded."""
DELTA = 0.25
"""Share of requests added to see how a step grows."""


@dataclass(frozen=True, slots=True)
class TimeShare:
    """Seconds of a step, or a share of it, whose errors go together under one name."""

    seconds: float
    family: str
    ratios: Ratios | None


@dataclass(frozen=True, slots=True)
class Interval:
    """Factors on a simulated figure: at `level`, the true one lies between.

    Attributes
    ----------
    low, high : float
        The simulated figure lies between, whatever its parts' bias is. High is infinite where the
        system would be overloaded.
    """

    low: float
    high: float
    level: float = LEVEL

    def of(self, value: float) -> tuple[float, float | None]:
        """The interval of a figure; None for no upper end."""
        return self.low * value, self.high * value if np.isfinite(self.high) else None

    @property
    def inverse(self) -> Interval:
        """Factors on a rate whose time these are of."""
        return Interval(1.0 / self.high, 1.0 / self.low if self.low else np.inf, self.level)


def parts_of(d: Deployment, stage: StageCost) -> list[TimeShare]:
    """What a step's time consists of, with what is known of each part's error."""
    seen: dict[tuple[str, str, str], tuple[str, Ratios | None]] = {}
    out = []
    for placed in stage.ops:
        if not placed.critical or placed.cost.seconds <= 0.0:
            continue
        op = placed.op
        key = (op.layer, op.name, placed.processor)
        if key not in seen:
            inside = runs_on(d, op).device.processors.get(placed.processor)
            model = inside.model if inside is not None else d.link(op)
            found = model.evidence([op])
            seen[key] = (_kin(found[0]), found[0].ratios) if found else ("", None)
        counts = placed.count * (1.0 if d.apart is None else placed.exposed)
        out.append(TimeShare(placed.cost.seconds * counts, *seen[key]))
    if stage.fetch is not None and stage.fetch.waited_s > 0.0:
        out.append(TimeShare(stage.fetch.waited_s, "", None))  # no measurement tells of the link
    return out


def _kin(found: Evidence) -> str:
    """Whose errors go together: one family's, or those of all measured tables."""
    return found.cost_model if found.basis == "measured" else found.applies_to


def slowdowns(parts: Sequence[TimeShare]) -> F8 | None:
    """Draws of how many times as long a step takes as it is said to; None where little is known."""
    from scipy.special import ndtri

    total = sum(part.seconds for part in parts)
    known = sum(part.seconds for part in parts if part.ratios is not None)
    if total <= 0.0 or known < KNOWN * total:
        return None
    rng = np.random.default_rng(0)
    scores = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    of = {name: rng.permutation(scores) for name in sorted({part.family for part in parts})}
    drawn = np.zeros(DRAWS)
    for part in parts:
        ratio = 1.0 if part.ratios is None else np.exp(part.ratios.at(of[part.family]))
        drawn += part.seconds / total * ratio
    drawn *= np.exp(BETWEEN * rng.permutation(scores))
    return drawn


def wholly(d: Deployment, stage: StageCost) -> F8 | None:
    """`slowdowns` of a step with those of what has no price there."""
    from scipy.special import ndtri

    drawn = slowdowns(parts_of(d, stage))
    if drawn is None:
        return None
    return drawn * unpriced_slowdowns(d, stage, ndtri((np.arange(DRAWS) + 0.5) / DRAWS))


def interval_of(drawn: F8, level: float = LEVEL) -> Interval:
    """The middle share of draws, widened to hold what is answered."""
    ends = [(1.0 - level) / 2, (1.0 + level) / 2]
    low, high = np.quantile(drawn, ends, method="nearest")  # between two infinities lies no number
    return Interval(min(float(low), 1.0), max(float(high), 1.0), level)


def _quantiles(drawn: F8) -> tuple[float, ...]:
    return tuple(np.quantile(drawn, np.linspace(0.0, 1.0, QUANTILES)).tolist())


def step_interval(d: Deployment, stage: StageCost) -> Interval | None:
    """Factors on the seconds of one step."""
    drawn = wholly(d, stage)
    return None if drawn is None else interval_of(drawn)


@dataclass(frozen=True, slots=True)
class RunIntervals:
    """Factors on a run's figures.

    Attributes
    ----------
    step : Interval
        On the seconds of a step, and so on what the system could serve at most, inverted.
    slowdowns : tuple of float
        Quantiles of how many times as long a step is as it is said to be, from 0 to 1 in even parts.
    """

    step: Interval
    throughput: Interval
    tpot: Interval
    ttft: Interval
    slowdowns: tuple[float, ...] = ()

    def slow(self, share: float) -> float:
        """Steps are at most so many times as long as they are said to be, with a chance of `share`."""
        places = np.linspace(0.0, 1.0, len(self.slowdowns))
        return float(np.interp(share, places, self.slowdowns))

    @property
    def cost(self) -> Interval:
        return self.throughput.inverse


def step_intervals(d: Deployment, decodes: int, context: int, prompt: int) -> tuple[Interval, Interval] | None:
    """Factors on a rank's step of decodes, and on one with a prompt beside them."""
    decode, mixed = (step_interval(d, _stage(d, b)) for b in usual_batches(decodes, context, prompt))
    return None if decode is None or mixed is None else (decode, mixed)


def run_intervals(run: Run, open_loop: bool) -> RunIntervals | None:
    """Factors on the figures of a run; None where too little of it rests on measurements.

    Of two pools each one's steps make its own latency: first tokens wait for prompts as in a queue as busy as the pool
    that prefills. Throughput is that of the pool that is slower.
    """
    found = (_pool_draws if pools_of(run) else _engine_draws)(run, not open_loop or run.window.overloaded)
    if found is None:
        return None
    step, prompt, whole, served, e, busy = found
    first = first_token(interval_of(_held(prompt, busy)))
    return RunIntervals(interval_of(step), interval_of(served), interval_of(_held(step, e)), first, _quantiles(whole))


Draws = tuple[F8, F8, F8, F8, float, float]
"""How many times as long steps of decodes and of prompts take, and the slower of both; rates, as a share; parts of a step of
decodes, and of prompts, that grow with the requests in it, 0 in a closed loop."""


def _engine_draws(run: Run, closed: bool) -> Draws | None:
    d = run.deployment
    batches = typical(run)
    decoding, mixed = (_stage(d, b) for b in batches)
    decode, prompt = (_with_host(run, b, stage) for b, stage in zip(batches, (decoding, mixed), strict=True))
    if decode is None or prompt is None:
        return None
    share = _mixed_share(run, decoding.seconds, mixed.seconds)
    drawn = (1.0 - share) * decode + share * prompt
    if closed:
        return drawn, prompt, drawn, 1.0 / drawn, 0.0, 0.0
    e = _growth(d, batches[0], decoding.seconds)
    return drawn, prompt, drawn, 1.0 / np.maximum(drawn * e, 1.0), e, e


def _with_host(run: Run, batch: Batch, stage: StageCost) -> F8 | None:
    """`wholly` of a step with what its version's host adds, where that is known from runs."""
    stages = run.deployment.layout.pp
    drawn, pace = wholly(run.deployment, stage), run.policy.pace(0, stages)
    own = pace.step_s + pace.gap_s + pace.sequence_s * len(batch.context)
    if drawn is None or not run.policy.host.why or own <= 0.0:
        return drawn
    return hosted(drawn, stage.seconds / stages, own, pace.hidden)


def hosted(drawn: F8, seconds: float, own: float, hidden: bool = False) -> F8:
    """Draws of a step of so many seconds to which a version's host adds `own`, behind the devices' work if `hidden`."""
    from scipy.special import ndtri

    scores = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    host = own * np.exp(HOST.at(np.random.default_rng(2).permutation(scores)))
    both = np.maximum if hidden else np.add
    return np.asarray(both(drawn * seconds, host) / both(seconds, own))


def _pool_draws(run: Run, closed: bool) -> Draws | None:
    prefill, d = pools_of(run)[0], pools_of(run)[1].deployment
    decodes, mixed = typical(run)
    prompts = Batch.of(chunks=[(int(mixed.q_len[-1]), 0)])
    stage, side = _stage(d, decodes), prefill.deployment
    decode, prompt = wholly(d, stage), wholly(side, _stage(side, prompts))
    if decode is None or prompt is None:
        return None
    whole = np.maximum(decode, prompt)
    if closed:
        return decode, prompt, whole, 1.0 / (prompt if prefill.stepping >= KNOWN else decode), 0.0, 0.0
    e, busy = _growth(d, decodes, stage.seconds), min(prefill.stepping, 0.99)
    return decode, prompt, whole, 1.0 / np.maximum(np.maximum(decode * e, prompt * busy), 1.0), e, busy


def power_interval(d: Deployment) -> Interval | None:
    """Factors on the mean power of a device; None where its power is not modelled."""
    from ...devices.power.transfer import power_model

    if d.device.board.model is None:
        return None
    return Interval(*power_model(d.system.device).sure)


def first_token(steps: Interval, waiting: Ratios = WAITING) -> Interval:
    """Factors on the time to a first token: those of its steps, and of what else lets it wait.

    No surer than its steps, whatever the middle of `waiting` is.
    """
    w = waiting
    below = np.hypot(np.log(steps.low), w.middle - w.low)
    above = np.hypot(np.log(steps.high), w.high - w.middle)
    low, high = float(np.exp(w.middle - below)), float(np.exp(w.middle + above))
    return Interval(min(low, steps.low), max(high, steps.high), steps.level)


def _held(drawn: F8, e: float) -> F8:
    """Factors on a latency where slower steps hold more requests."""
    if not e:
        return drawn
    room = 1.0 - drawn * e
    longer = drawn * (1.0 - e) / np.where(room > 0.0, room, 1.0)
    return np.where((room > 0.0) & (longer < LONGEST), longer, np.inf)


def _stage(d: Deployment, batch: Batch) -> StageCost:
    """A step in which every rank has the same batch."""
    return explicit_stage(d, [batch] * d.ranks, expected=True)


def _mixed_share(run: Run, decoding_s: float, mixed_s: float) -> float:
    """Part of the time that steps with a prompt take."""
    prompts = run.prompt_tokens / max(float(run.requests.input_tokens.mean()), 1.0)
    count = min(prompts / max(run.iterations, 1), 1.0)
    return count * mixed_s / max(count * mixed_s + (1.0 - count) * decoding_s, 1e-300)


def _growth(d: Deployment, batch: Batch, seconds: float) -> float:
    """Share of a step that grows with the requests in it."""
    count, context = len(batch.context), int(batch.context[0])
    more = max(round(count * DELTA), 1)
    wider = Batch.of([context] * (count + more), new=d.several)
    grown = _stage(d, wider).seconds
    return float(np.clip((grown / seconds - 1.0) * count / more, 0.0, 0.99))


def interval_dict(value: float | None, interval: Interval | None) -> dict[str, Any] | None:
    """An interval of a figure for JSON."""
    if value is None or interval is None:
        return None
    low, high = interval.of(value)
    return {"level": interval.level, "low": low, "high": high}


def spoken(interval: Interval) -> str:
    """An interval as a fraction below and above.

    Examples
    --------
    >>> spoken(Interval(0.9, 1.25)), spoken(Interval(0.9, np.inf)), spoken(Interval(1.0, 1.0))
    ('-10% to +25%', '-10% to overload', 'as it is')
    """
    if interval.low == interval.high == 1.0:
        return "as it is"
    high = f"+{interval.high - 1:.0%}" if np.isfinite(interval.high) else "overload"
    return f"{interval.low - 1:.0%} to {high}"
