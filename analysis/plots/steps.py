"""Measured step times of a model, next to the simulated ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from .style import BLACK, BLUE, SMALL, VERMILLION, finish, house_figure


class MeasuredStep(Protocol):
    """Measured and simulated seconds of a step at one batch and context."""

    @property
    def model(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def measured_s(self) -> float: ...
    @property
    def p10_s(self) -> float: ...
    @property
    def p90_s(self) -> float: ...
    @property
    def simulated_s(self) -> float: ...


def step_times(steps: Sequence[MeasuredStep], device: str) -> Figure:
    """Plot measured step times with their spread, and simulated ones, by batch and context."""
    with house_figure(f"Small MoE models on {device}: steps run here and simulated") as figure:
        axes = figure.add_subplot()
        at = np.arange(len(steps))
        measured = np.array([s.measured_s for s in steps]) * 1e3
        low = measured - np.array([s.p10_s for s in steps]) * 1e3
        high = np.array([s.p90_s for s in steps]) * 1e3 - measured
        axes.bar(at - 0.2, measured, 0.38, color=BLUE, label="measured: median, 10th to 90th")
        spread = [low.clip(0), high.clip(0)]
        axes.errorbar(at - 0.2, measured, spread, fmt="none", ecolor=BLACK, elinewidth=0.8)
        simulated = np.array([s.simulated_s for s in steps]) * 1e3
        axes.bar(at + 0.2, simulated, 0.38, color=VERMILLION, hatch="///", label="simulated")
        top = float(max(measured.max(initial=0.0), simulated.max(initial=0.0)))
        for x, m, s in zip(at.tolist(), measured, simulated, strict=True):
            text = f"{s / m - 1.0:+.0%}"
            axes.text(x, max(m, s) + 0.06 * top, text, ha="center", fontsize=SMALL)
        axes.set_ylim(0.0, max(1.2 * top, 1.05 * float((measured + spread[1]).max(initial=0.0))))
        axes.set_xticks(at, [f"{s.model}\n{s.batch} x {s.context:,}" for s in steps])
        axes.set_xlabel("sequences x context [tokens]")
        axes.set_ylabel("time of a decode step [ms]")
        axes.legend(loc="upper left")
        finish(figure, "Above the bars: simulated over measured, less one.")
        return figure
