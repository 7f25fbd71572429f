"""Designs of a space with their area, power, cost and forecasts, before any simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ....devices.catalog import describe_system
from ....devices.device import build_device
from ....devices.silicon.describe import Silicon, silicon_of
from ....devices.spec import DeviceSpec
from ....workloads.errors import InputError
from ....workloads.specfile import build
from ....workloads.textfile import digest_of
from ..sweep.axes import Value
from .bounds import DesignStep, at_best, forecast, reach, step_for
from .goals import EDAP, MADE, SILICON
from .space import Space
from .tiles import TunedDesign, products, tuned

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
        """A design with its area, power and cost."""
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
        loads = list(product(self.space.models, self.space.workloads))
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
    return out


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
    """Of metrics those that no simulation is needed for."""
    return tuple(name for name in names if name in MADE and name != EDAP)
