"""Why no design of a space is within the limits, and what would be enough."""

from __future__ import annotations

from collections.abc import Sequence

from ....workloads.errors import InputError
from ...show.text import show
from ..sweep.absent import why_absent
from ..sweep.expression import Expression
from .designs import Design, Figures, Forecaster
from .goals import MADE, direction
from .searching import SearchOutcome
from .space import Space

JUDGED = 2000
"""Most designs beyond a limit that are looked at to say what would be enough."""


def nothing(plan: Space, outcome: SearchOutcome) -> InputError:
    """The line that says so: an error that all have, a metric that none has, or the limits that bind."""
    errors = [one.error for one in outcome.every if one.error is not None]
    if len(errors) == len(outcome.every):
        return InputError(plan.path.stem, f"no design can be run: {errors[0]}")
    done = [one for one in outcome.every if one.metrics is not None]
    for name in plan.goals.names if done else ():
        if all((one.metrics or {}).get(name) is None for one in done):
            settings = plan.point(done[0].values, plan.models[0], plan.workloads[0])
            where = "--goal" if name in plan.goals.wanted else "--budget"
            reason = f"has no value: {why_absent(name, settings, len(done))}"
            return InputError(f"{where}: {name}", reason)
    forecaster = Forecaster(plan)
    for one in [one for one in outcome.every if not one.forecast and one.error is None][:JUDGED]:
        forecaster.judge(one)  # those beyond the area, power or cost: what they would do tells what is lacking
    every = [one for one in outcome.every if one.error is None]
    limits = plan.goals.limits
    alone = [_nearest(plan, limit, (), every) for limit in limits]
    lines = [text for text in alone if text] or [
        text for limit in limits if (text := _nearest(plan, limit, limits, every))
    ]
    text = "; ".join(lines) or "the limits hold of no design together; loosen one"
    return InputError("--budget", f"no design is within the limits: {text}")


def _nearest(plan: Space, limit: Expression, others: Sequence[Expression], every: Sequence[Design]) -> str:
    """How near a limit of one metric is met by designs that meet the others; nothing where any meets it."""
    (name, *more) = sorted(limit.names)
    rest = [other for other in others if other is not limit]
    known = [one for one in every if all(_may_meet(other, _figures(one)) for other in rest)]
    values = {id(one): v for one in known if (v := _figures(one).get(name)) is not None}
    unknown = not rest and len(values) < len(known)
    if more or not values or unknown or any(limit.holds(_figures(one)) for one in known):
        return ""
    sign = 1.0 if direction(name, plan.goals.wanted) == "min" else -1.0
    best = min((one for one in known if id(one) in values), key=lambda one: sign * values[id(one)])
    bound = " at best" if best.metrics is None and name not in MADE else ""
    which = " that meets the others" if rest else ""
    return f"{limit.text} holds of none{which}: {show(values[id(best)])} is the nearest{bound}"


def _figures(one: Design) -> Figures:
    """What is known of a design: its metrics, or what it can reach at best."""
    return {**one.bound, **one.silicon.values(), **(one.metrics or {})}


def _may_meet(limit: Expression, figures: Figures) -> bool:
    return any(figures.get(name) is None for name in limit.names) or limit.holds(figures)
