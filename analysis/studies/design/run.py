"""`opbyte design`: judge all designs of a space, simulate those that may be best, say which and why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ....workloads.errors import InputError
from ....workloads.requests.options import check_count
from ...answers.description import Shown
from ...parallel import OnProgress
from ...parallel.local import Workers
from ...parallel.study import Study
from ...show.text import show
from ..sweep.axes import Value, read_value
from ..sweep.expression import Expression
from ..sweep.file import why_absent
from ..sweep.outcomes import OutcomeFile, Outcomes, Settings
from ..sweep.point import Outcome
from .engines import EngineAnswer, engine_space, engines
from .goals import MADE, ROBUST, SILICON, direction
from .result import DesignAnswer
from .searching import METHODS, SearchOutcome, front_of, may_hold, search
from .space import Space, read_space, space_path
from .why import (
    NEARBY,
    RATES,
    RESOURCES,
    STEP,
    Design,
    Figures,
    Forecaster,
    Shadow,
    alone,
    along,
    limits_of,
    needed,
    price_of,
    system_of,
    together,
)

LEAST = 12
"""Minimum simulations of a small space."""


def design(
    space: str | Path, *, models: Sequence[str] | str | None = None, workload: str | None = None,
    goal: str | None = None, budget: str | None = None, across: str | None = None,
    method: str = "bounds", simulations: int | None = None, seed: int = 0,
    workers: int | None = None, dask: str | None = None, folder: str | Path | None = None,
    progress: OnProgress | None = None,
) -> DesignAnswer | EngineAnswer:  # fmt: skip
    """Search a space of devices and mappings for what no other design beats.

    Parameters
    ----------
    space : str or Path
        A name of `opbyte list spaces`, or a system's file with a ``design:`` block.
    models : sequence of str, or str by commas, optional
        What is served; the space's own by default.
    workload : str, optional
        Options of a scenario, ``closed_loop=32,input_len=512,...``; several separated by ``;``.
    goal, budget : str, optional
        Comma-separated metrics (``output_tokens_per_s,area_mm2:min``) and conditions (``area_mm2<=900``).
    across : str, optional
        mean, worst, or weights of the models (``A=2,B=1``).
    method : str
        "bounds", "exhaustive" or "random".
    simulations : int, optional
        Most designs simulated; a tenth of the space by default, 12 at least.
    folder : str or Path, optional
        Where results are kept: a later call simulates only what is missing.

    Raises
    ------
    InputError
        A wrong space, metric or limit, or no design within the limits: the line says how near any is.
    """
    if method not in METHODS:
        raise InputError("--method", f"must be one of {', '.join(METHODS)}, not {method!r}")
    check_count(seed, "--seed", 0)
    named = [m.strip() for m in models.split(",")] if isinstance(models, str) else models
    if named is not None and not all(named):
        raise InputError("--models", f"needs comma-separated names, not {models!r}")
    path = space_path(space)
    if (engines_own := engine_space(path)) is not None:
        for option, value in (("--workload", workload), ("--goal", goal), ("--across", across)):
            if value is not None:
                raise InputError(option, f"is not supported by {path.stem}, a space of FPGA engines; remove it")
        return engines(path.stem, engines_own, named, budget, progress)
    plan = read_space(path, named, _workloads(workload), goal, budget, across)
    most = max(LEAST, -(-plan.size // 10)) if simulations is None else simulations
    most = check_count(most, "--simulations", 1)
    where = Workers(workers or (None if dask else 1), dask)
    with _stored(folder) as stored:
        study, fronts = stored.study(where), dict[str, tuple[Design, ...]]()

        def searched(space: Space) -> tuple[SearchOutcome, tuple[Design, ...]]:
            every = judged(space, progress)
            results = search(space, every, Runner(space, study).run, method, most, seed)
            front = tuple(every[i] for i in front_of(space.goals, every, results.simulated))
            if not front:
                raise nothing(space, results)
            return results, front

        for name, load in zip(plan.scenarios, plan.workloads, strict=False):
            fronts[name] = searched(replace(plan, workloads=(load,), scenarios=()))[1]
        plan = _robust(plan, tuple(fronts.values())) if fronts else plan
        runner, (results, front) = Runner(plan, study), searched(plan)
        every = results.every
        reference = _reference(plan, every, runner)
        limits = tuple(tuple(limits_of(plan, one)) for one in front)
        single = alone(plan, [every[i] for i in results.simulated])
        prices = (*_resources(plan, front[0], every, runner), *_rates(plan, front[0], runner))
    text = Shown(*system_of(plan, front[0])).text()
    return DesignAnswer(plan, results, front, limits, single, prices, reference, text, method, seed, fronts)


def _robust(plan: Space, fronts: Sequence[Sequence[Design]]) -> Space:
    """Return a space whose goals are the worst ratios to the best of each scenario; limits hold in every scenario."""
    bests: dict[str, tuple[float, ...]] = {}
    for name, sign in zip(plan.goals.wanted, plan.goals.signs, strict=True):
        if name not in SILICON:
            bests[name] = tuple(
                min(((d.metrics or {})[name] or 0.0 for d in f), key=lambda x: sign * x) for f in fronts
            )
    wanted = {ROBUST + name if name in bests else name: goal for name, goal in plan.goals.wanted.items()}
    return replace(plan, goals=replace(plan.goals, wanted=wanted, across="worst"), single=plan.goals, bests=bests)


def _workloads(text: str | None) -> list[dict[str, Value]] | None:
    """Parse comma-separated options of workloads separated by ``;``."""
    if text is None:
        return None
    out: list[dict[str, Value]] = []
    for part in text.split(";"):
        load: dict[str, Value] = {}
        for pair in filter(None, (p.strip() for p in part.split(","))):
            name, sign, value = pair.partition("=")
            if not sign:
                raise InputError("--workload", f"must be comma-separated NAME=VALUE, not {pair!r}")
            load[name.strip()] = read_value(value.strip())
        out.append(load)
    return out


def judged(plan: Space, progress: OnProgress | None) -> list[Design]:
    """Return all designs with area, power and cost; bounds and forecasts only for designs that may meet the limits."""
    forecaster, every = Forecaster(plan), []
    values = plan.designs()
    for i, one in enumerate(values):
        every.append(forecaster.describe(one))
        if i == 0:
            needed(plan, every)
        if one == plan.reference or may_hold(plan.goals, every[-1].silicon.values()):
            forecaster.judge(every[-1])
        else:
            every[-1].bound = every[-1].silicon.values()
        if progress is not None and i % 64 == 0:
            progress(i, len(values))
    needed(plan, every)
    if not any(d.error is None and may_hold(plan.goals, d.bound) for d in every):
        raise nothing(plan, SearchOutcome(every))
    return every


def _stored(folder: str | Path | None) -> AbstractContextManager[Outcomes]:
    """Return the store of simulated outcomes: in memory, and in a folder if one is given."""
    return nullcontext(Outcomes()) if folder is None else OutcomeFile(Path(folder))


def points_of(plan: Space, design: Design) -> list[dict[str, Value]]:
    """Return the points of a sweep that simulate a design, one for each model and workload."""
    settings = {} if design.tuned is None else design.tuned.settings
    return [{**plan.point(design.values, model, load), **settings} for model, load in plan.loads]


@dataclass(frozen=True, slots=True)
class Runner:
    """Simulates designs, each model under each workload."""

    plan: Space
    study: Study[Settings, Outcome]

    def run(self, designs: Sequence[Design]) -> None:
        """Fill in the metrics of designs, or the error of one that cannot be simulated."""
        points = [points_of(self.plan, design) for design in designs]
        results = iter(self.study.results([p for group in points for p in group]))
        for one, group in zip(designs, points, strict=True):
            got = [next(results) for _ in group]
            errors = [o.error for o in got if o.error is not None]
            if errors:
                one.error = errors[0]
                continue
            one.each = [o.metrics or {} for o in got]
            one.metrics = together(self.plan, one.each, one.silicon.values())


def _resources(plan: Space, best: Design, every: Sequence[Design], runner: Runner) -> list[Shadow]:
    """Return the shadow prices of area, power and cost, each from a simulated design that needs more of it."""
    forecaster, out = Forecaster(plan), []
    for name, unit in RESOURCES:
        here = best.silicon.values()[name]
        if here is None:
            continue
        near = [d for d in every if here < (d.silicon.values()[name] or 0.0) <= here * NEARBY]
        for one in near:
            if not one.forecast and one.error is None:
                forecaster.judge(one)
        other = along(plan, best, name, near)
        if other is not None and other.metrics is None:
            runner.run([other])
        out.append(price_of(plan, best, other, name, unit))
    return out


def _reference(plan: Space, every: Sequence[Design], runner: Runner) -> Design | None:
    """Return the space's own design, simulated also if it exceeds the limits; None if it cannot be simulated."""
    for one in every:
        if one.values == plan.reference:
            if one.metrics is None:
                runner.run([one])
            return one if one.metrics is not None else None
    return None


def _rates(plan: Space, best: Design, runner: Runner) -> list[Shadow]:
    """Return the gain in the first goal if one rate of the best device rises by `STEP`, by simulation."""
    (goal, *_) = plan.goals.wanted
    old = (best.metrics or {}).get(goal)
    out: list[Shadow] = []
    if plan.fleet is not None:  # systems of two kinds, and no rate is that of all
        return out
    for what, (block, key, unit, name) in RATES.items():
        value = getattr(getattr(best.device, block), key)
        changed = replace(best, metrics=None, error=None)
        setting = f"system.device.{block}.{key}"
        points = [{**point, setting: value * (1 + STEP)} for point in points_of(plan, best)]
        got = runner.study.results(points)
        if any(o.error is not None for o in got) or not old:
            continue
        metrics = [o.metrics or {} for o in got]
        new = together(plan, metrics, changed.silicon.values()).get(goal)
        if new is None:
            continue
        slope = (new - old) / (value * STEP / unit)
        how = f"simulated with {STEP:.0%} more"
        out.append(Shadow(what, name, slope, slope / old, how))
    return out


JUDGED = 2000
"""Most designs beyond a limit that are looked at to say what would be enough."""


def nothing(plan: Space, outcome: SearchOutcome) -> InputError:
    """Return the error of a search without a result: a common error, a missing metric, or the limits."""
    errors = [one.error for one in [outcome.every[i] for i in outcome.simulated] or outcome.every]
    if None not in errors:
        return InputError(plan.path, f"no design can be simulated: {errors[0]}")
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
    """Return the nearest value to a limit among designs within the other limits, as text; empty if one meets it."""
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
    """Return a design's metrics: simulated values, else bounds."""
    return {**one.bound, **one.silicon.values(), **(one.metrics or {})}


def _may_meet(limit: Expression, figures: Figures) -> bool:
    return any(figures.get(name) is None for name in limit.names) or limit.holds(figures)
