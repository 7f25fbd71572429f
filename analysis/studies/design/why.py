"""Why a design is where it is, in terms of Op/B, and what one more unit of anything is worth there.

Designs of a space with their area, power, cost and forecasts, before any simulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ....devices.catalog import describe_system
from ....devices.device import build_device
from ....devices.silicon.describe import Silicon, silicon_of
from ....devices.spec import DeviceSpec, SystemSpec
from ....simulator.deploy.placement import processors_of
from ....workloads.errors import InputError
from ....workloads.specfile import build
from ....workloads.textfile import digest_of
from ...answers.step import step_of
from ...show.text import show
from ..sweep.axes import Value
from .bounds import OF_TILES, DesignStep, TunedDesign, at_best, forecast, products, reach, step_for, step_options, tuned
from .goals import EDAP, MADE, ROBUST, SILICON, direction
from .space import Space

Figures = Mapping[str, float | None]


@dataclass(slots=True)
class Design:
    """One design.

    Attributes
    ----------
    values : tuple
        Of the searched parameters.
    bound, forecast : mapping of str to float
        Metrics over all models: best possible, and forecast from one step of each.
    each : sequence of mappings
        What its simulations gave, every workload of the first model first.
    metrics : mapping or None
        The same together.
    error : str or None
        Why it cannot be simulated.
    tuned : TunedDesign or None
        Its kernels, where the space chooses them.
    """

    values: tuple[Value, ...]
    device: DeviceSpec
    silicon: Silicon
    bound: Figures = field(default_factory=dict)
    forecast: Figures = field(default_factory=dict)
    each: Sequence[Figures] = ()
    metrics: Figures | None = None
    error: str | None = None
    tuned: TunedDesign | None = None


class Forecaster:
    """Bounds and forecasts of a space's designs; ops of a layout come once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._steps: dict[str, DesignStep | None] = {}

    def describe(self, values: tuple[Value, ...]) -> Design:
        """Return a design with its area, power and cost."""
        parameters = self.space.parameters(values)
        device = build(DeviceSpec, self.space.template.at(parameters))[0]
        silicon, fleet = silicon_of(device), self.space.fleet
        if fleet is not None:
            silicon = fleet.mean(silicon, self.space.own(values))
        return Design(values, device, silicon)

    def judge(self, design: Design) -> None:
        """Work out bounds and forecasts of a design; an error of its layout makes it one."""
        bounds: list[dict[str, float]] = []
        promised: list[dict[str, float]] = []
        options = self.space.options(design.values)
        loads = self.space.loads
        try:
            steps = [self._step(model, {**load, **options}, design) for model, load in loads]
            if self.space.tuned:
                design.tuned = tuned(design.device, [p for s in steps for p in products(s)])
                design.device = design.tuned.of(design.device)
            device, built = design.device, build_device(design.device)
            price = device.price_USD_per_hour
            for step in steps:
                if step is None:
                    bounds.append({})
                    promised.append({})
                    continue
                bounds.append(at_best(reach(step, built), step, device, price))
                promised.append(forecast(step, built, device, price))
        except InputError as error:
            design.error = str(error)
            return
        values = design.silicon.values()
        design.bound = together(self.space, bounds, values)
        design.forecast = together(self.space, promised, values)

    def _step(self, model: str, load: Mapping[str, Any], design: Design) -> DesignStep | None:
        device = design.device
        links = (device.link, device.node_link, device.bridge, device.host)
        shape = (device.memory.stacks, device.memory.spaces, sorted(device.processors))
        key = digest_of((model, dict(load), [str(link) for link in links], shape))
        if key not in self._steps:
            system, _ = describe_system(self.space.path, self.space.parameters(design.values))
            self._steps[key] = step_for(system, model, load)
        return self._steps[key]


def together(space: Space, by_load: Sequence[Figures], silicon: Figures) -> dict[str, float | None]:
    """Return the metrics over all models and workloads, with silicon metrics and derived ones."""
    weights = space.goals.weights
    per = len(by_load) // len(weights) if weights else 0
    names = dict.fromkeys(name for figures in by_load for name in figures)
    goals = space.goals
    out: dict[str, float | None] = {}
    for name in names:
        values = [figures.get(name) for figures in by_load]
        if not all(v is None or isinstance(v, (int, float)) for v in values):
            continue
        out[name] = goals.together(name, values, per)
    out |= silicon
    joules, pace, area = (out.get(n) for n in ("joules_per_token", "tpot_s_mean", "area_mm2"))
    out[EDAP] = None if joules is None or pace is None or area is None else float(joules * pace * area)
    if space.single is not None:
        rows = by_scenario(space, by_load, silicon)
        for name, bests in space.bests.items():
            ratios = [value / best for row, best in zip(rows, bests, strict=True) if (value := row.get(name))]
            worst = min if goals.wanted[ROBUST + name] == "max" else max
            out[ROBUST + name] = worst(ratios) if len(ratios) == len(rows) else None
    return out


def by_scenario(space: Space, by_load: Sequence[Figures], silicon: Figures) -> list[dict[str, float | None]]:
    """Return the metrics of each scenario over all models."""
    single, count = replace(space, single=None, goals=space.single or space.goals), len(space.scenarios)
    return [together(single, by_load[i::count], silicon) for i in range(count)]


def needed(space: Space, designs: Sequence[Design]) -> None:
    """Refuse metrics of the silicon that no design has.

    Raises
    ------
    InputError
        An area, power or cost without a value; the line says what the description lacks.
    """
    asked = set(space.goals.names)
    if EDAP in asked:
        asked.add("area_mm2")
    for name in SILICON:
        if name in asked and all(d.silicon.values()[name] is None for d in designs):
            raise InputError(name, getattr(designs[0].silicon, name).why.removeprefix(f"{name} "))


def settled(names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that need no simulation."""
    return tuple(name for name in names if name in MADE and name != EDAP)


GROUPS = {"attention_decode": "decode attention", "mla_decode": "decode attention",
          "sparse_decode": "sparse attention", "index_decode": "index scores",
          "gemm": "weights of all tokens"}  # fmt: skip
"""Kinds of op by what they are called; others by their own name."""
STEP = 0.01
"""Share by which a rate is raised to see what it is worth."""
RATES = {
    "memory bandwidth": ("memory", "bandwidth_bytes_per_s", 1e9, "1 GB/s"),
    "memory capacity": ("memory", "capacity_bytes", 2.0**30, "1 GiB"),
    "link bandwidth": ("link", "bandwidth_bytes_per_s", 1e9, "1 GB/s"),
}
"""What is raised: block and key of the device, the unit in SI, and the unit's name."""


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What takes most of a model's decoding step: a group of ops, its Op/B, and where it runs."""

    model: str
    group: str
    op_per_byte: float | None
    processor: str
    ridge: float | None
    bound: str
    share: float

    def text(self) -> str:
        at = f" at {show(self.op_per_byte)} Op/B" if self.op_per_byte is not None else ""
        roof = f" (ridge {show(self.ridge)} Op/B)" if self.ridge is not None else ""
        return (
            f"{self.model}: {self.group}{at} on {self.processor}{roof}, bound by {self.bound}, "
            f"{self.share:.0%} of a decoding step"
        )


def system_of(space: Space, design: Design) -> tuple[SystemSpec, Mapping[str, str]]:
    """The system of a design, of a fleet the one that decodes, with the sources of its numbers."""
    if space.fleet is not None and not space.own(design.values):
        return describe_system(space.fleet.plain)
    system, sources = describe_system(space.path, space.parameters(design.values))
    if design.tuned is None:
        return system, sources
    entry = {name.removeprefix("system."): OF_TILES for name in design.tuned.settings}
    return system.model_copy(update={"device": design.device}), {**sources, **entry}


def groups_of(space: Space, design: Design, model: str, workload: Mapping[str, Any]) -> list[Bottleneck]:
    """Groups of ops of a decoding step, the longest first; none without a fixed number of sequences."""
    load = {**workload, **space.options(design.values)}
    if load.get("closed_loop") is None:
        return []
    context = int(load.get("input_len") or 0) + int(load.get("output_len") or 0) // 2
    # of a system that decodes, with its share of the requests
    copies = 1 if space.fleet is None else space.own(design.values) or space.fleet.systems
    batch = -(-int(load["closed_loop"]) // copies)
    system = system_of(space, design)[0]
    d, stage = step_of(model, system, batch, context, 0, step_options(load, system))
    took: dict[tuple[str, str, str], list[float]] = {}
    for p in stage.ops:
        if not p.critical:
            continue
        group = GROUPS.get(p.op.kind, p.op.kind.replace("_", " "))
        group = "exchanges" if p.op.exchange else group
        row = took.setdefault((group, p.processor, p.cost.bound), [0.0, 0.0, 0.0])
        row[0] += p.cost.seconds * p.count * p.exposed
        row[1] += p.op.flops * p.count
        row[2] += p.op.bytes * p.count
    ridge = {p.name: p.ridge(d.model.numerics.default) for p in processors_of(d.device)}
    total = sum(row[0] for row in took.values())
    out = [
        Bottleneck(d.model.name, group, flops / moved if moved and where in ridge else None, where, ridge.get(where),
              bound, seconds / total)
        for (group, where, bound), (seconds, flops, moved) in took.items()
    ]  # fmt: skip
    return sorted(out, key=lambda bottleneck: -bottleneck.share)


def limits_of(space: Space, design: Design) -> list[Bottleneck]:
    """Return the longest group of ops for each model, under the first workload or in each scenario."""
    limits = []
    loads = space.loads if space.scenarios else [(model, space.workloads[0]) for model in space.models]
    for (model, load), scenario in zip(loads, itertools.cycle(space.scenarios or ("",))):
        try:
            limits += [replace(g, model=f"{scenario}, {model}" if scenario else model)
                       for g in groups_of(space, design, model, load)[:1]]  # fmt: skip
        except InputError:
            continue
    return limits


@dataclass(frozen=True, slots=True)
class Alone:
    """The design that is best for one model of several in the first goal, and what a step of it waits for.

    `groups` are the groups of its decoding step, the longest on each processor.
    """

    model: str
    design: Design
    metrics: Figures
    groups: tuple[Bottleneck, ...]

    def to_dict(self, space: Space) -> dict[str, Any]:
        return {
            "model": self.model, "parameters": space.named(self.design.values),
            "metrics": {name: self.metrics.get(name) for name in space.goals.names},
            "ridges": {group.processor: group.ridge for group in self.groups if group.ridge is not None},
            "why": "; ".join(group.text() for group in self.groups),
        }  # fmt: skip

    def row(self, space: Space) -> dict[str, Any]:
        """For tables: the op with the longest time on each processor, its Op/B and the ridge point."""
        (goal, *_) = space.goals.wanted
        values_own = {
            group.processor: f"{group.group} at {show(group.op_per_byte or 0.0)} under {show(group.ridge)}"
            for group in self.groups
            if group.ridge is not None
        }
        values = space.named(self.design.values)
        return {"model": self.model, **values, goal: self.metrics.get(goal), **values_own}


def alone(space: Space, simulated: Sequence[Design]) -> tuple[Alone, ...]:
    """Return the best simulated design for each single model; nothing for one model."""
    out, per = [], len(space.workloads)
    for m, model in enumerate(space.models if len(space.models) > 1 and space.single is None else ()):
        single = replace(space, models=(model,), goals=replace(space.goals, weights=(1.0,)))
        known: list[tuple[Design, Figures]] = []
        for one in simulated:
            metrics = together(single, one.each[m * per : (m + 1) * per], one.silicon.values())
            if one.metrics is not None and all(limit.holds(metrics) for limit in space.goals.limits):
                known.append((one, metrics))
        (goal, *_) = space.goals.wanted
        sign = 1.0 if direction(goal, space.goals.wanted) == "min" else -1.0
        known = [(one, metrics) for one, metrics in known if metrics.get(goal) is not None]
        if not known:
            continue
        best, best_metrics = min(known, key=lambda pair: sign * float(pair[1][goal] or 0.0))
        groups = groups_of(space, best, model, space.workloads[0])
        first = {group.processor: group for group in reversed(groups)}
        out.append(Alone(model, best, best_metrics, tuple(sorted(first.values(), key=groups.index))))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Shadow:
    """Change of the first goal by one more unit of a resource, at the best design."""

    of: str
    unit: str
    change: float
    share: float
    how: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


NEARBY = 1.25
"""Extra amount of a resource that a design may need to define its shadow price."""
RESOURCES = (("area_mm2", "1 mm2"), ("watts", "1 W"), ("usd", "1 USD"))


def along(space: Space, best: Design, name: str, others: Sequence[Design]) -> Design | None:
    """Return the design that needs more of a resource and whose forecast gains most for it; None if none gains.

    Designs beyond the limits count, so that a binding limit has a shadow price.
    """
    (goal, *_) = space.goals.wanted
    sign = 1.0 if direction(goal, space.goals.wanted) == "max" else -1.0
    here, now = best.silicon.values()[name], best.forecast.get(goal)
    if here is None or now is None:
        return None
    priced: list[tuple[float, Design]] = []
    for other in others:
        needs, then = other.silicon.values()[name], other.forecast.get(goal)
        if needs is not None and then is not None and here < needs <= here * NEARBY:
            priced.append((sign * (then - now) / (needs - here), other))
    gain, chosen = max(priced, key=lambda pair: pair[0], default=(0.0, best))
    return chosen if gain > 0 else None


def price_of(space: Space, best: Design, other: Design | None, name: str, unit: str) -> Shadow:
    """What a unit of a resource changes the first goal by, from the best design to another, both simulated."""
    (goal, *_) = space.goals.wanted
    old = (best.metrics or {})[goal]
    assert old is not None
    new = None if other is None or other.metrics is None else other.metrics.get(goal)
    if other is None or new is None:
        return Shadow(name, unit, 0.0, 0.0, "no design of the space that needs a little more gains by it")
    more = float(other.silicon.values()[name] or 0.0) - float(best.silicon.values()[name] or 0.0)
    text = ", ".join(f"{k} {show(v)}" for k, v in space.named(other.values).items())
    slope = (new - old) / more
    return Shadow(name, unit, slope, slope / old if old else 0.0, f"to {text}, simulated")
