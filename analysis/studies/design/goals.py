"""What designs are judged by: goals, limits, and how several models count together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ....workloads.errors import InputError
from ....workloads.latencies import Names
from ..sweep.expression import Expression, parse
from ..sweep.file import read_objectives
from ..sweep.point import FIGURES

SILICON = ("area_mm2", "watts", "usd")
"""Metrics of a design that no simulation is needed for."""
EDAP = "edap"
"""Energy a token x time a token x area [J s mm2]."""
MADE = (*SILICON, EDAP)
ROBUST = "robust_"
"""Prefix of a goal over several scenarios: its worst ratio to the best value of each scenario."""
METRICS = Names((*FIGURES, *MADE))
MORE = ("per_s", "goodput", "attainment", "steady", "stationary", "per_user", "per_device")
"""Parts of names of metrics of which more is better; of all others less is."""


@dataclass(frozen=True, slots=True)
class Goals:
    """Goals (metric -> max or min), limits, and how models are weighed.

    `across` is "mean" (geometric, `weights` by model) or "worst".
    """

    wanted: Mapping[str, str]
    limits: tuple[Expression, ...]
    across: str
    weights: tuple[float, ...]

    @property
    def signs(self) -> npt.NDArray[np.float64]:
        """Return the sign of each goal, -1 to maximise and 1 to minimise: metrics times signs are costs."""
        return np.array([-1.0 if goal == "max" else 1.0 for goal in self.wanted.values()])

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all metrics in goals and limits, goals first."""
        asked = [name for limit in self.limits for name in sorted(limit.names)]
        return tuple(dict.fromkeys([*self.wanted, *asked]))

    def together(self, name: str, values: Sequence[float | None], per_weight: int = 1) -> float | None:
        """Combine a metric over models: weighted mean (geometric if all are above 0) or worst; None if one lacks it.

        A model has `per_weight` values, one a workload, one after another.
        """
        known = [float(v) for v in values if v is not None]
        if len(known) < len(values):
            return None
        if self.across == "worst":
            return min(known) if direction(name, self.wanted) == "max" else max(known)
        weights = [w / per_weight for w in self.weights for _ in range(per_weight)]
        if min(known) <= 0:
            return sum(w * v for w, v in zip(weights, known, strict=True))
        return math.exp(sum(w * math.log(v) for w, v in zip(weights, known, strict=True)))


def direction(name: str, wanted: Mapping[str, str]) -> str:
    """Return "max" if more of a metric is better, else "min"; `wanted` has priority."""
    if name in wanted:
        return wanted[name]
    return "max" if any(part in name for part in MORE) else "min"


def read_goals(given: Any, where: str) -> dict[str, str]:
    """Read the goals from a text (``output_tokens_per_s,area_mm2:min``) or a mapping.

    Raises
    ------
    InputError
        None, an unknown metric, or a direction that is neither max nor min.
    """
    if isinstance(given, str):
        label, pairs = "--goal", [part.strip().partition(":") for part in given.split(",")]
        given = {name: goal or direction(name, {}) for name, _, goal in pairs if name}
    else:
        label = f"{where}.goals"
    if not isinstance(given, dict) or not given:
        raise InputError(label, "needs metrics, for example output_tokens_per_s:max,area_mm2:min")
    return read_objectives(given, label, METRICS)


def read_limits(given: Any, where: str, known: Collection[str] = METRICS) -> tuple[Expression, ...]:
    """Return limits of a comma-separated text (``area_mm2<=814,watts<=700``) or a list.

    Raises
    ------
    InputError
        No condition, or an unknown metric.
    """
    if given is None:
        return ()
    texts = [part for part in given.split(",") if part.strip()] if isinstance(given, str) else given
    label = "--budget" if isinstance(given, str) else f"{where}.limits"
    if not isinstance(texts, list):
        raise InputError(label, "must be comma-separated conditions, for example area_mm2<=814")
    return tuple(parse(text, label, known) for text in texts)


def read_across(given: Any, models: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """Read how a metric is combined over models: ``mean``, ``worst``, or weights (``A=2,B=1``).

    Raises
    ------
    InputError
        Neither, or a weight that is missing or not above 0.
    """
    equal = tuple(1.0 / len(models) for _ in models)
    if given in ("mean", "worst"):
        return str(given), equal
    pairs = [part.partition("=") for part in str(given).split(",")]
    weights_found = {name.strip(): value for name, sign, value in pairs if sign}
    try:
        weights = [float(weights_found[name]) for name in models]
    except (KeyError, ValueError):
        weights = []
    if len(weights_found) != len(models) or not weights or min(weights) <= 0 or not all(map(math.isfinite, weights)):
        reason = f"must be mean, worst, or a weight above 0 for each model: {'=1,'.join(models)}=1"
        raise InputError("--across", reason)
    total = sum(weights)
    return "mean", tuple(w / total for w in weights)
