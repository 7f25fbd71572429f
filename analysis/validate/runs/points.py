"""Serving points (`validate.points`) as measured runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ....workloads.errors import InputError
from ...answers.error_factors import FIRST, NO_FACTORS, STEP, Widths, fitted_widths
from ...answers.interval import Interval
from ...answers.run_interval import LatencyErrors
from ..check import IntervalBasis, RunCheck
from ..points.predict import Prediction, predict
from ..points.table import ServingPoint
from .published import load_class


def replay_point(point: ServingPoint, folder: Path) -> RunCheck | str:
    """Simulate a point, or say why it cannot be."""
    try:
        return _check(point, predict(point, folder))
    except InputError as error:
        return f"{point.source}, line {point.line}: {error}"


def _check(point: ServingPoint, found: Prediction) -> RunCheck:
    simulated = {"tpot_mean": found.tpot_s} | ({} if point.suspect else {"ttft_mean": found.ttft_s})
    measured = {name: {"tpot_mean": point.tpot_s, "ttft_mean": point.ttft_s}[name] for name in simulated}
    basis = {
        name: _basis(found.errors, quantity, at)
        for at, (name, quantity) in enumerate((("tpot_mean", STEP), ("ttft_mean", FIRST)))
        if found.errors is not None and name in simulated
    }
    w, version = point.workers, ".".join(map(str, point.version))
    ways = "".join(f" {k}{v}" for k, v in (("tp", w.tp), ("pp", w.pp), ("dp", w.dp), ("ep", w.ep)) if v > 1)
    system = f"{point.model} {point.device}-x{point.gpus}{ways} {point.framework} {point.mode}"
    labels = {
        "source": point.source.split("-")[0], "device": point.device, "model": point.model,
        "engine": f"{point.framework} {version}".strip(), "concurrency": load_class(point.clients),
    }  # fmt: skip
    factors = {name: own.refit(fitted_widths()) for name, own in basis.items()}
    name = f"{system} {point.isl}+{point.osl} closed {point.clients}"
    return RunCheck(name, None, measured, simulated, system, labels["source"], factors, basis, labels)


def _basis(errors: LatencyErrors, quantity: str, at: int) -> IntervalBasis:
    refit = partial(_interval, errors, at)
    return IntervalBasis(quantity, refit(NO_FACTORS), errors.amounts, refit)


def _interval(errors: LatencyErrors, at: int, widths: Widths) -> Interval:
    return errors.intervals(widths)[at]
