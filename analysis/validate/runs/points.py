"""Serving points (`validate.points`) as measured runs."""

from __future__ import annotations

from pathlib import Path

from ...answers.error_factors import fitted_widths
from ..check import RunCheck
from ..points.predict import Prediction, predict
from ..points.table import ServingPoint
from .basis import run_bases
from .published import load_class


def replay_point(point: ServingPoint, folder: Path) -> RunCheck:
    """Simulate a point."""
    return check_of(point, predict(point, folder))


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
