"""Inputs of the intervals of a measured run, so that they can be recomputed with other widths."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ....simulator.deploy.deployment import Deployment
from ...answers.error_factors import FIRST, NO_FACTORS, POWER, STEP, Conditions, Widths, fitted_widths
from ...answers.interval import (
    LEVEL,
    Interval,
    StepErrors,
    beyond_steps,
    hosted,
    interval_of,
    power_errors,
    step_errors,
)
from ...answers.run_interval import RunDraws
from ..check import IntervalBasis, RunCheck
from ..points.predict import Prediction
from ..points.table import ServingPoint
from .published import load_class


def check_of(point: ServingPoint, prediction: Prediction) -> RunCheck:
    """Return a point with its prediction; without a TTFT where the table warns of the measured one."""
    simulated = {"tpot_mean": prediction.tpot_s} | ({} if point.suspect else {"ttft_mean": prediction.ttft_s})
    measured = {name: {"tpot_mean": point.tpot_s, "ttft_mean": point.ttft_s}[name] for name in simulated}
    basis = run_bases(prediction.errors, simulated)
    w, version = point.workers, ".".join(map(str, point.version))
    ways = "".join(f" {k}{v}" for k, v in (("tp", w.tp), ("pp", w.pp), ("dp", w.dp), ("ep", w.ep)) if v > 1)
    system = f"{point.model} {point.device}-x{point.gpus}{ways} {point.framework} {point.mode}"
    labels = {
        "source": point.source.split("-")[0], "device": point.device, "model": point.model,
        "engine": f"{point.framework} {version}".strip(), "concurrency": load_class(point.clients),
    }  # fmt: skip
    factors = {name: inputs.refit(fitted_widths()) for name, inputs in basis.items()}
    name = f"{system} {point.isl}+{point.osl} closed {point.clients}"
    return RunCheck(name, None, measured, simulated, system, labels["source"], factors, basis, labels)


RATES = ("output_tokens_per_s", "tokens_per_s")


def run_bases(
    draws: RunDraws | None, metrics: Iterable[str], chance: float = 1.0, burst: bool = False
) -> dict[str, IntervalBasis]:
    """Return the basis of every metric of a run that has an interval.

    A fit uses TPOT, or gaps between tokens if a run has no TPOT; of requests at once the rate, whose time is that of the steps; and
    TTFT; only means and medians.

    Parameters
    ----------
    chance : float
        Factor on the rate of a whole run by the chance of its arrivals.
    """
    if draws is None:
        return {}
    metrics, out = list(metrics), dict[str, IntervalBasis]()
    no_tpot = not {"tpot_mean", "tpot_p50"} & set(metrics)
    for metric in metrics:
        time, _, statistic = metric.partition("_")
        if metric not in RATES and time not in ("ttft", "tpot", "itl", "e2e"):
            continue
        refit = partial(_interval, draws, metric, chance)
        of_steps = metric in RATES if burst else time == "tpot" or (no_tpot and time == "itl")
        quantity = STEP if of_steps else FIRST if time == "ttft" else ""
        told = statistic in ("mean", "p50") or metric in RATES
        out[metric] = IntervalBasis(quantity if told else "", refit(NO_FACTORS), draws.amounts, refit)
    return out


def _interval(draws: RunDraws, metric: str, chance: float, widths: Widths) -> Interval:
    known = draws.intervals(widths)
    if metric in RATES:
        return Interval(known.throughput.low / chance, known.throughput.high * chance, LEVEL)
    if metric == "itl_p99":  # a gap in which prompts run, or wait
        return beyond_steps(known.tpot, known.waiting)
    time = metric.partition("_")[0]
    return {"ttft": known.ttft, "e2e": known.e2e}.get(time, known.tpot)


def power_basis(deployment: Deployment) -> IntervalBasis | None:
    """Return the basis of a device's power; None where it is not modelled."""
    errors = power_errors(deployment)
    return errors and IntervalBasis(POWER, errors.alone, errors.amounts, errors.interval)


def step_basis(conditions: Conditions, host: HostTimes = (1.0, 0.0)) -> IntervalBasis | None:
    """Return the basis of a step's time: seconds of the devices, and what its version's host adds."""
    errors = step_errors(conditions)
    if errors is None:
        return None
    refit = partial(_step, errors, host)
    return IntervalBasis(STEP, refit(NO_FACTORS), errors.amounts, refit)


HostTimes = tuple[float, float]


def _step(errors: StepErrors, host: HostTimes, widths: Widths) -> Interval:
    return interval_of(hosted(errors.drawn(widths), *host))
