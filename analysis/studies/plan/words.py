"""Text of plans: a candidate, the difference to another, the reasons for rejections, and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...answers.bases import in_short
from ...show.text import seconds, show
from ..stationary import GLANCE
from .best import Searched
from .candidates import CHOICES, POOLS
from .points import BEATEN, PlanTask, Point
from .spares import Outage, Outages
from .tried import TriedCandidate, deferred, narrows

FORMATS = {"fp8": "fp8", "nvfp4": "fp4"}
"""Formats of weights that a plan names where it has not tried them, and the arithmetic that a device needs for them."""


def priced(point: Point) -> str:
    """Return the basis of a point's step times in two words."""
    return in_short(point.bases, point.measured)


def said(point: Point) -> str:
    """Return devices, layout, policy, cost and energy as text."""
    c = point.candidate
    devices = f"{point.devices:,} device{'s' * (point.devices > 1)}"
    parts = [f"{devices}, {point.started} x {point.system}", c.layout, f"policy {c.policy}"]
    parts += [f"{c.token_budget:,} tokens a step"] if c.token_budget else []
    parts += [f"{show(point.usd_per_hour)} USD/h"] if point.usd_per_hour else []
    parts += [f"{show(point.joules_per_token)} J/token"] if point.joules_per_token else []
    parts += [f"{show(1e3 * point.gco2_per_token)} mg CO2/token"] if point.gco2_per_token else []
    return ", ".join(parts)


def finished(searched: Searched) -> str:
    """Return a one-line result for the systems of a name."""
    return f"{searched.name}: {'nothing serves the load' if searched.chosen is None else said(searched.chosen)}"


def times(point: Point, q: Point) -> str:
    """Return the ratios of devices, cost and energy of point `q` to those in `point`, as text."""
    values = (("the devices", point.devices, q.devices), ("the cost", point.usd_per_hour, q.usd_per_hour),
              ("the energy", point.joules_per_token, q.joules_per_token))  # fmt: skip
    more = ", ".join(f"{b / a:.2f}x {name}" for name, a, b in values if a and b)
    return f" ({more})" if more else ""


def verdict(candidate: TriedCandidate) -> str:
    """Return a candidate's outcome as text: it meets the SLO, or the reason why not."""
    if candidate.best is not None:
        return f"meets the SLO{'' if candidate.best.copies == candidate.fails + 1 else '; fewer replicas may too'}"
    if candidate.bound.copies is None:
        return candidate.bound.why
    if candidate.points:
        last = candidate.points[-1]
        if last.missed == BEATEN:
            short = f" in a run of {GLANCE} requests" if last.requests == GLANCE else ""
            return f"not better than what was found: {show(last.joules_per_token)} J/token{short}"
        again = "" if candidate.done else f"; {_left(candidate, 'more copies')}"
        return f"misses: {last.misses(candidate.task.level)}{again}"
    if candidate.fails >= candidate.most:
        return f"{candidate.bound.why}: more than may be had" if candidate.bound.why else "more than may be had"
    least = (candidate.fails + 1) * candidate.candidate.devices
    return f"not simulated: {_left(candidate, f'{least} devices or more')}"


def _left(candidate: TriedCandidate, what: str) -> str:
    """Why a candidate was tried no further."""
    return (
        f"{what} are skipped by --quick" if narrows(candidate.task) else f"{what} cannot be better than what was found"
    )


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


def left_out(searched: Sequence[Searched]) -> str:
    """Return a sentence on the steps that a quick plan leaves out."""
    rest = [t for s in searched for t in s.tried if not t.done]
    skips = ["intervals", "why fewer devices fail"]
    if rest and narrows(rest[0].task):
        far = sum(deferred(t) and not t.points for t in rest)
        skips = [
            f"{far:,} candidates with pipeline stages",
            f"{len(rest) - far:,} others that seem slower or cannot be cheaper",
            *skips,
        ]
    return f"Skipped by --quick: {', '.join(skips)}."


def outage_text(outage: Outage, outages: Outages) -> str:
    """How many replicas are spare, and the latencies without an outage and during it."""

    def told(figures: Mapping[str, float | None]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {seconds(value)}" for name, value in figures.items())

    spares = outage.replicas - outage.needed
    return (
        f"Failures: {outage.needed} of {outage.replicas} replicas meet the SLO ({spares} spare{'s' * (spares != 1)}). Each is up "
        f"{outages.up:.4%} of the time (mtbf {outages.mtbf_s:,.6g} s, repair {outages.repair_s:,.6g} s), at least {outage.needed} of "
        f"them {outage.share:.5%} (asked: {outages.availability:.6g}). A failure of one meets {outage.requests:,} requests of "
        f"the simulated ones: {told(outage.during)}; the same requests without it: {told(outage.without)}."
    )
