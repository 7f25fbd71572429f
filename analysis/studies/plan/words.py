"""Text of plans: a candidate, the difference to another, the reasons for rejections, and counts."""

from __future__ import annotations

from collections.abc import Sequence

from ...answers.bases import in_short
from ...show.text import show
from .best import Searched, TriedCandidate
from .choices import CHOICES, POOLS
from .points import BEATEN, PlanTask, Point

FORMATS = {"fp8": "fp8", "nvfp4": "fp4"}
"""Formats of weights that a plan names where it has not tried them, and the arithmetic that a device needs for them."""


def priced(p: Point) -> str:
    """Return the basis of its times in two words."""
    return in_short(p.bases, p.measured)


def said(p: Point) -> str:
    """Return devices, layout, policy, cost and energy as text."""
    c = p.candidate
    devices = f"{p.devices:,} device{'s' * (p.devices > 1)}"
    parts = [f"{devices}, {p.copies} x {p.system}", c.layout, f"policy {c.policy}"]
    parts += [f"{c.token_budget:,} tokens a step"] if c.token_budget else []
    parts += [f"{show(p.usd_per_hour)} USD/h"] if p.usd_per_hour else []
    parts += [f"{show(p.joules_per_token)} J/token"] if p.joules_per_token else []
    parts += [f"{show(1e3 * p.gco2_per_token)} mg CO2/token"] if p.gco2_per_token else []
    return ", ".join(parts)


def finished(s: Searched) -> str:
    """Return a one-line result for the systems of a name."""
    return f"{s.name}: {'nothing serves the load' if s.chosen is None else said(s.chosen)}"


def times(p: Point, q: Point) -> str:
    """How much more the next one takes."""
    told = []
    for name, a, b in (("the devices", p.devices, q.devices),
                       ("the cost", p.usd_per_hour, q.usd_per_hour),
                       ("the energy", p.joules_per_token, q.joules_per_token)):  # fmt: skip
        if a and b:
            told.append(f"{b / a:.2f}x {name}")
    return f" ({', '.join(told)})" if told else ""


def verdict(task: PlanTask, t: TriedCandidate) -> str:
    """What became of a candidate."""
    if t.best is not None:
        return "meets the level" if t.best.copies == t.fails + 1 else "meets the SLO; fewer replicas may too"
    if t.bound.copies is None:
        return t.bound.why
    if t.points:
        if t.points[-1].missed == BEATEN:
            return f"not better than what was found: {show(t.points[-1].joules_per_token)} J/token"
        again = "" if t.done else "; more copies cannot be better than what was found"
        return f"misses: {t.points[-1].misses(task.level)}{again}"
    if t.fails >= t.most:
        return f"{t.bound.why}: more than may be had" if t.bound.why else "more than may be had"
    least = (t.fails + 1) * t.candidate.devices
    return f"not simulated: {least} devices or more cannot be better than what was found"


def untried(task: PlanTask, searched: Sequence[Searched]) -> str:
    """Return the formats and searches that a plan did not try; empty if it tried all."""
    tried = [t for s in searched for t in s.tried]
    devices = {t.system.device.name: t.system.device for t in tried}.values()
    fast = {name for device in devices for p in device.processors.values() for name in p.peak_flops_per_s or ()}
    formats = [f for f, needs in FORMATS.items() if needs in fast and f not in (task.axes.get("dtype") or ())]
    searches = [name for name in (POOLS, *CHOICES) if name not in (task.axes.get("search") or ())]
    said = [f"--{flag} {','.join(names)}" for flag, names in (("dtype own", formats), ("search", searches)) if names]
    return f"Not tried: {'; '.join(said)}.".replace("dtype own ", "dtype own,") if said else ""


def counted(searched: Sequence[Searched]) -> str:
    """How many candidates there were and what became of them."""
    tried = [t for s in searched for t in s.tried]
    memory, roofs = (
        sum(t.bound.copies is None and t.bound.why.startswith(kind) for t in tried) for kind in ("memory", "roofline")
    )
    runs = sum(s.simulations for s in searched)
    return (
        f"{len(tried):,} candidate{'s' * (len(tried) != 1)}: {memory:,} do not fit, {roofs:,} are too slow at nominal "
        f"rates; {runs:,} simulations, each run until it is decided."
    )
