"""Interval of a simulated time from the errors of its parts.

The error of every op is sampled from the measured/predicted ratios of similar rows (`devices.calibrated.behind`).
Errors of one family are fully correlated, errors of different families are independent. Host and framework time between
kernels (`BETWEEN`) and the errors of similar deployments (`error_factors`) are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.cost import Evidence
from ...devices.ratios import Ratios
from ...simulator.deploy.deployment import Deployment
from ...simulator.parts.experts_apart.holders import runs_on
from ...simulator.step.explicit import StageCost
from .error_factors import POWER, STEP, Amounts, Conditions, Widths, amounts, fitted_widths

F8 = npt.NDArray[np.float64]
LEVEL = 0.8
MEDIAN, SURE = 0.5, 0.8
"""Probabilities with which a load is sustained: the median of the evidence, and the one reported next to it."""
DRAWS = 2000
BETWEEN = 0.03 / 0.6745
"""Standard deviation of the logarithm of the host and framework share.

The median absolute error of step times is 3 % against a vLLM server at equal batch, on eleven H100 runs
(`serving_h100`); 0.6745 converts it to a standard deviation. These runs are not used to judge intervals.
"""
HOST = Ratios(-0.35, 0.0, 0.35)
"""Error (logarithms) of the host time that an engine's version adds to a step (`upkeep`).

Measured points distinguish TensorRT-LLM's 50 us per sequence from 0 and from 55 us, but not from 100 us. Values of 2024
differ by this much between two devices.
"""
KNOWN = 0.5
"""Minimum share of the time with measurements; an interval needs it."""
LONGEST = 10.0
"""Factor at which a latency counts as unbounded."""


def chance_text(value: str, chance: float, slow: float) -> str:
    """Return a value as text, with its probability and the step slowdown that it assumes.

    Examples
    --------
    >>> chance_text("25.4", MEDIAN, 1.09)
    '25.4 at the median prediction error (steps 1.09 times as long as predicted)'
    """
    what = "at the median prediction error" if chance == MEDIAN else f"at {chance:.0%} confidence"
    return f"{value} {what} (steps {slow:.2f} times as long as predicted)"


@dataclass(frozen=True, slots=True)
class TimeShare:
    """Seconds of a step whose errors are fully correlated, with their family and error ratios."""

    seconds: float
    family: str
    ratios: Ratios | None


@dataclass(frozen=True, slots=True)
class Interval:
    """Factors on a simulated value: the true value is between them with probability `level`.

    Attributes
    ----------
    low, high : float
        Factors with low <= 1 <= high: the interval always contains the simulated value. High is infinite if the system
        would be overloaded.
    """

    low: float
    high: float
    level: float = LEVEL

    def of(self, value: float) -> tuple[float, float | None]:
        """Return the interval of a value; None as its upper end if there is none."""
        return self.low * value, self.high * value if np.isfinite(self.high) else None

    def power(self, exponent: float) -> Interval:
        """Return the interval with its logarithms multiplied by `exponent`."""
        return Interval(self.low**exponent, self.high**exponent, self.level)

    @property
    def inverse(self) -> Interval:
        """Return the factors on a rate, from these factors on its time."""
        return Interval(1.0 / self.high, 1.0 / self.low if self.low else np.inf, self.level)


def parts_of(deployment: Deployment, stage: StageCost) -> list[TimeShare]:
    """Return a step's time op by op, with each op's family and measured/predicted ratios."""
    seen: dict[tuple[str, str, str], tuple[str, Ratios | None]] = {}
    out = []
    for placed in stage.ops:
        if not placed.critical or placed.cost.seconds <= 0.0:
            continue
        op = placed.op
        key = (op.layer, op.name, placed.processor)
        if key not in seen:
            inside = runs_on(deployment, op).device.processors.get(placed.processor)
            model = inside.model if inside is not None else deployment.link(op)
            entries = model.evidence([op])
            seen[key] = (_kin(entries[0]), entries[0].ratios) if entries else ("", None)
        counts = placed.count * (1.0 if deployment.apart is None else placed.exposed)
        out.append(TimeShare(placed.cost.seconds * counts, *seen[key]))
    if stage.fetch is not None and stage.fetch.waited_s > 0.0:
        out.append(TimeShare(stage.fetch.waited_s, "", None))  # the link of expert fetches has no measurements
    return out


def _kin(entry: Evidence) -> str:
    """Return the group of correlated errors: one family, or all measured tables."""
    return entry.cost_model if entry.basis == "measured" else entry.applies_to


def slowdowns(parts: Sequence[TimeShare]) -> F8 | None:
    """Return samples of true over predicted step time; None if too little is measured."""
    total = sum(part.seconds for part in parts)
    known = sum(part.seconds for part in parts if part.ratios is not None)
    if total <= 0.0 or known < KNOWN * total:
        return None
    from scipy.special import ndtri

    rng = np.random.default_rng(0)
    scores = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    of = {name: rng.permutation(scores) for name in sorted({part.family for part in parts})}
    drawn = np.zeros(DRAWS)
    for part in parts:
        ratio = 1.0 if part.ratios is None else np.exp(part.ratios.at(of[part.family]))
        drawn += part.seconds / total * ratio
    drawn *= np.exp(BETWEEN * rng.permutation(scores))
    return drawn


def scores(seed: int) -> F8:
    """Return standard normal scores in a random order; equal seeds give correlated errors."""
    from scipy.special import ndtri

    return np.asarray(np.random.default_rng(seed).permutation(ndtri((np.arange(DRAWS) + 0.5) / DRAWS)))


class StepErrors(NamedTuple):
    """Samples of true over predicted time of a step's kernels, and the factors of its deployment."""

    kernels: F8
    amounts: Amounts

    def drawn(self, widths: Widths | None = None) -> F8:
        """Return the samples of the step's seconds, with the errors of deployments of its kind."""
        known = widths or fitted_widths()
        return np.asarray(self.kernels**known.kernels * np.exp(known.reach(self.amounts, STEP).at(scores(1))))


def step_errors(conditions: Conditions) -> StepErrors | None:
    """Return the inputs of a step's interval; None if too small a part is based on measurements."""
    drawn = None if conditions.stage is None else slowdowns(parts_of(conditions.deployment, conditions.stage))
    return None if drawn is None else StepErrors(drawn, amounts(conditions))


def interval_of(drawn: F8) -> Interval:
    """Return the central part of the samples, widened to contain the predicted value."""
    ends = [(1.0 - LEVEL) / 2, (1.0 + LEVEL) / 2]
    low, high = np.quantile(drawn, ends, method="nearest")  # interpolating between two infinities would give NaN
    return Interval(min(float(low), 1.0), max(float(high), 1.0), LEVEL)


def step_interval(conditions: Conditions) -> Interval | None:
    """Return the interval of one step's time, as factors."""
    errors = step_errors(conditions)
    return None if errors is None else interval_of(errors.drawn())


def hosted(drawn: F8, seconds: float, host_s: float, hidden: bool = False) -> F8:
    """Return samples of a step to which the host adds `host_s` seconds, overlapped with the devices' work if `hidden`."""
    host = host_s * np.exp(HOST.at(scores(2)))
    both = np.maximum if hidden else np.add
    return np.asarray(both(drawn * seconds, host) / both(seconds, host_s))


class KindErrors(NamedTuple):
    """Interval and error factors of one quantity that is not a server's step time, such as watts."""

    quantity: str
    alone: Interval
    amounts: Amounts

    def interval(self, widths: Widths | None = None) -> Interval:
        """Return the quantity's interval as factors, widened by the deployment's error factors."""
        return beyond_steps(self.alone, (widths or fitted_widths()).reach(self.amounts, self.quantity))


def power_errors(deployment: Deployment) -> KindErrors | None:
    """Return the inputs of the interval of a device's mean power; None if its power is not modelled."""
    from ...devices.power.transfer import power_model

    if deployment.device.board.model is None:
        return None
    return KindErrors(POWER, Interval(*power_model(deployment.system.device).sure), amounts(Conditions(deployment)))


def power_interval(deployment: Deployment) -> Interval | None:
    """Return the interval of a device's mean power, as factors."""
    errors = power_errors(deployment)
    return None if errors is None else errors.interval()


def energy_interval(power: Interval | None, time: Interval) -> Interval | None:
    """Return the factors on energy: the squared logarithms of power and time add up."""
    if power is None:
        return None
    low = np.hypot(np.log(power.low), np.log(max(time.low, 1.0 / LONGEST)))
    return Interval(float(np.exp(-low)), float(np.exp(np.hypot(np.log(power.high), np.log(time.high)))), time.level)


def beyond_steps(steps: Interval, waiting: Ratios) -> Interval:
    """Return factors on TTFT or TPOT from the errors of its steps and of the time beyond them.

    The interval is never narrower than the interval of its steps, for any middle of `waiting`.
    """
    w = waiting
    below = np.hypot(np.log(steps.low), w.middle - w.low)
    above = np.hypot(np.log(steps.high), w.high - w.middle)
    low, high = float(np.exp(w.middle - below)), float(np.exp(w.middle + above))
    return Interval(min(low, steps.low), max(high, steps.high), steps.level)


def interval_dict(value: float | None, interval: Interval | None) -> dict[str, Any] | None:
    """Return the interval of a value for JSON."""
    if value is None or interval is None:
        return None
    low, high = interval.of(value)
    return {"level": interval.level, "low": low, "high": high}


def spoken(interval: Interval) -> str:
    """Return an interval as text: percentages below and above the predicted value.

    Examples
    --------
    >>> spoken(Interval(0.9, 1.25)), spoken(Interval(0.9, np.inf)), spoken(Interval(1.0, 1.0))
    ('-10% to +25%', '-10% to overload', 'unchanged')
    """
    if interval.low == interval.high == 1.0:
        return "unchanged"
    high = f"+{interval.high - 1:.0%}" if np.isfinite(interval.high) else "overload"
    return f"{interval.low - 1:.0%} to {high}"


def spoken_range(interval: Interval, reasons: Sequence[str] = ()) -> str:
    """Return the interval of a time as text, with its widening factors."""
    wide = f"; wide because: {', '.join(reasons)}" if reasons else ""
    return f"{interval.level:.0%} interval of its time {spoken(interval)}{wide}"
