"""Functions that all studies of loads use: systems by name, the option that sets the load, and the verdict on a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ...workloads.errors import InputError, errors_in, nearest, typed_number
from ...workloads.latencies import MEASURES, QUANTILES, latency_of
from ...workloads.requests.classes import check_slos
from ...workloads.requests.options import check_real
from ..answers.price import Worth
from ..show.text import seconds

ATTAINMENT = "attainment"
"""Name of the SLO on the share of requests that meet the SLO of their class."""
USUAL = (*(f"{measure}_{q}" for measure in MEASURES for q in QUANTILES), ATTAINMENT)
"""Names in an SLO that are suggested for an unknown name."""


def read_level(given: str | Mapping[str, float]) -> dict[str, float]:
    """Read an SLO: latency and quantile -> limit [s]; attainment -> minimum share.

    Raises
    ------
    InputError
        A limit does not have the form NAME=SECONDS, its name is unknown, or its value is not a positive number.

    Examples
    --------
    >>> read_level("ttft_p99=1, tbt_mean<=5e-2")
    {'ttft_p99': 1.0, 'tbt_mean': 0.05}
    """
    pairs: dict[str, Any] = {}
    if isinstance(given, str):
        for entry in given.split(","):
            name, equals, text = (part.strip() for part in entry.replace("<=", "=").partition("="))
            if not equals or name in pairs:
                raise InputError("--slo", f"must be NAME=SECONDS, each once, such as ttft_p99=0.5, not {entry!r}")
            pairs[name] = typed_number(text)
            if math.isnan(pairs[name]):
                raise InputError(f"--slo {name}", f"must be a number of seconds such as 0.5, not {text!r}")
    else:
        pairs = dict(given)
    for name, value in pairs.items():
        with errors_in("--slo"):
            latency = latency_of(str(name))
        if name != ATTAINMENT and latency is None:
            raise InputError(f"--slo {name!r}", f"unknown latency{nearest(name, USUAL)}")
        check_real(value, f"--slo {name}", 1e-9, 1.0 if name == ATTAINMENT else 1e9)
    if not pairs:
        raise InputError("--slo", "needs at least one limit, for example ttft_p99=1")
    return {name: float(value) for name, value in pairs.items()}


def figure_text(name: str, value: float | None) -> str:
    """Return a value of an SLO with its unit."""
    if name == ATTAINMENT:
        return "-" if value is None else f"{value:.1%}"
    return seconds(value)


def limit_text(name: str, value: float) -> str:
    """Return a limit of an SLO as text."""
    sign = ">=" if name == ATTAINMENT else "<="
    return f"{name.replace('_', ' ')} {sign} {figure_text(name, value)}"


BACKLOG = "backlog"
"""Name of the exceeded limit if a load exceeds the rate of full engines."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One simulated load.

    Attributes
    ----------
    load_per_s : float
        Requests per second.
    figures : dict of str to float
        Latencies of the SLO, by name [s].
    worth : Worth or None
        Additional values for comparisons of loads.
    missed : tuple of str
        Names whose limit is exceeded; "load" if requests arrive faster than they are served, `BACKLOG` if they arrive
        faster than full engines serve them.
    open : tuple of str
        Names that are undecided: the run is too short, or its confidence intervals are too wide.
    requests : int
        Number of requests of the run.
    growth : float or None
        Share of the arrivals by which those that wait for a place become more.
    full_per_s : float or None
        Lower end of the service rate of full engines; None if it was not measured.
    """

    load_per_s: float
    output_tokens_per_s: float | None
    figures: dict[str, float | None]
    missed: tuple[str, ...]
    worth: Worth | None = None
    open: tuple[str, ...] = ()
    requests: int = 0
    growth: float | None = None
    full_per_s: float | None = None

    def holds_within(self, level: Mapping[str, float]) -> bool:
        """Return whether the queue is stationary and the latencies meet the SLO."""
        return not {"load", BACKLOG} & {*self.missed, *self.open} and all(
            not _misses(name, self.figures[name] or 0.0, most) for name, most in level.items()
        )

    @property
    def holds(self) -> bool:
        """Return whether the load is sustained, with nothing undecided."""
        return not self.missed and not self.open


def names_of(systems: Sequence[str | Path] | str) -> list[str | Path]:
    """Return the systems of a list, or of a comma-separated text.

    Raises
    ------
    InputError
        There is no system, or a name is empty.
    """
    listed: Sequence[str | Path] = systems.split(",") if isinstance(systems, str) else systems
    names = [name.strip() if isinstance(name, str) else name for name in listed]
    if not names or not all(map(str, names)):
        raise InputError("--systems", "needs comma-separated names, for example h100-x4,duplex-x4")
    return names


def knob_of(scenario: Scenario) -> tuple[str, float]:
    """Return the option that sets the load, and the load at value 1 of this option [1/s].

    Examples
    --------
    >>> knob_of(Scenario())
    ('rate', 1.0)
    """
    work = scenario.workload
    if work.trace is None:
        return "rate", 1.0
    try:
        block = replace(work, cv=None).open(scenario.seed).read()
    except InputError as error:
        if "no arrival times" in error.reason:
            return "rate", 1.0
        raise
    span = float(block.arrival_s[-1] - block.arrival_s[0]) if len(block) > 1 else 0.0
    return ("rate_scale", (len(block) - 1) / span) if span > 0 else ("rate", 1.0)


def judged(run: Run, load: float, level: Mapping[str, float]) -> Tried:
    """Compare a run with an SLO."""
    figures = {name: _figure(run, name) for name in level}
    missed = [name for name, most in level.items() if _misses(name, figures[name] or 0.0, most)]
    if run.window.overloaded or (refused_of(run) and ATTAINMENT not in level):
        missed.append("load")
    return Tried(load, run.output_tokens_per_s, figures, tuple(missed))


def _figure(run: Run, name: str) -> Any:
    """Return the value of a run for a name of an SLO; None if the run has none."""
    if name == ATTAINMENT:
        classes = run.parts.get("classes")
        check_slos(f"--slo {name}", {c.name: c.kept or not c.sent for c in classes.kinds} if classes else {})
        return classes and classes.attained
    latency = latency_of(name)
    assert latency is not None
    return getattr(run, f"{latency.measure}_s").at(latency.quantile)


def _misses(name: str, figure: float, limit: float) -> bool:
    return figure < limit if name == ATTAINMENT else figure > limit


def too_long(missed: Iterable[str], figures: Mapping[str, float | None], level: Mapping[str, float], form: str) -> str:
    """Return the exceeded limits as text; `form` formats a latency's name, value and excess (`over`)."""
    lines = [
        form.format(name=name.replace("_", " "), value=figure_text(name, value), over=value / level[name] - 1)
        if name != ATTAINMENT
        else f"{figure_text(name, value)} of the requests meet the SLO"
        for name in missed
        if (value := figures.get(name)) is not None
    ]
    if BACKLOG in missed:
        lines.append("full engines serve less than arrives")
    if "load" in missed:
        lines.append("requests come faster than they are served")
    return " and ".join(lines)


def refused_of(run: Run) -> int:
    """Return the number of requests that admission control rejected."""
    return len(run.parts["classes"].refused_id) if "classes" in run.parts else 0
