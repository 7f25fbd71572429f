"""A space of designs: a system whose device has free parameters, and what to make of it.

The file is a system's (``device``, ``devices_per_node``, ``mapping``) with a ``design:`` block. What is
searched are parameters of the device, and options of a scenario: placement, degrees, batch, formats.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, load_system, system_template
from ....devices.silicon.describe import Silicon, silicon_of
from ....simulator.limits import MAX_REPLICAS
from ....workloads.catalog import load_model
from ....workloads.errors import InputError, check_known, nearest
from ....workloads.latencies import asked_of
from ....workloads.parameters import Template
from ....workloads.requests.options import check_count
from ....workloads.yamlfile import read_yaml
from ...answers.description import spaces
from ..sweep.axes import Value, read_axis
from ..sweep.file import check_value
from ..sweep.point import PERCENTILES, TRAINING, check_parameter
from .goals import ROBUST, Goals, read_across, read_goals, read_limits

OWN = "own_systems"
"""What is searched of a fleet: how many of its systems are the file's."""
PARAMETER = "system.parameters."


@dataclass(frozen=True, slots=True)
class MixedFleet:
    """A number of systems: the file's decode, the others prefill; all do both if all are of one kind.

    Attributes
    ----------
    systems : int
        In all.
    plain, path : str, Path
        A system's name, and the space's file.
    silicon : Silicon
        Of a plain device.
    """

    systems: int
    plain: str
    path: Path
    silicon: Silicon

    def options(self, designed: int) -> dict[str, Value]:
        """Options of a scenario in which `designed` systems are the file's."""
        if designed in (0, self.systems):
            return {"system": str(self.path) if designed else self.plain, "replicas": self.systems}
        plain = f"{self.plain}x{self.systems - designed}"
        return {"system": None, "prefill": plain, "decode": f"{self.path}x{designed}"}

    def mean(self, silicon: Silicon, designed: int) -> Silicon:
        """Return the silicon of the mean device, if the file's systems have one."""
        return silicon.mixed(self.silicon, designed / self.systems)


def read_fleet(given: Any, path: Path, searched: Mapping[str, Sequence[Value]]) -> MixedFleet | None:
    """The fleet of a space, if it is one.

    Raises
    ------
    InputError
        If keys are missing, systems have different sizes, or the device has parameters other than `OWN`.
    """
    if given is None:
        return None
    where = f"{path}: design.fleet"
    if not isinstance(given, dict) or set(given) != {"systems", "plain"}:
        raise InputError(where, "must be {systems: NUMBER, plain: SYSTEM}")
    systems = check_count(given["systems"], f"{where}.systems", 2, MAX_REPLICAS)
    plain, described = load_system(str(given["plain"])), describe_system(path)[0]
    if plain.nodes * plain.devices_per_node != described.nodes * described.devices_per_node:
        raise InputError(f"{where}.plain", "must have as many devices as the file's system")
    if OWN not in searched:
        raise InputError(f"{path}: design.search", f"needs for a fleet the key {OWN}, numbers from 0 to {systems}")
    for value in searched[OWN]:
        check_count(value, f"{path}: design.search.{OWN}", 0, systems)
    for name in searched:
        if name.startswith(PARAMETER):
            reason = "is a parameter of the device, but a fleet searches only numbers of systems and options; remove it"
            raise InputError(f"{path}: design.search.{name.removeprefix(PARAMETER)}", reason)
    return MixedFleet(systems, str(given["plain"]), path.absolute(), silicon_of(plain.device))


KEYS = (
    "title",
    "search",
    "models",
    "workloads",
    "scenarios",
    "goals",
    "limits",
    "across",
    "reference",
    "fleet",
    "kernel",
)
BLOCK, BEST = "design", "best"
MOST = 200_000
"""Maximum designs of a space for this kind of search."""


@dataclass(frozen=True, slots=True)
class Space:
    """A checked space.

    Attributes
    ----------
    names : tuple of str
        What is searched, as people write it.
    settings : tuple of str
        The same as settings of a point (`..sweep.point`).
    values : tuple of tuples
        Of each.
    models, workloads : tuple
        What is served: every model under every workload.
    reference : tuple of values or None
        A design to hold the others against.
    fleet : MixedFleet or None
        What a design is of, if not of one system.
    tuned : bool
        Whether efficiencies follow from the best tiles of each design (`.tiles`).
    scenarios : tuple of str
        Names of the workloads, if each has a front of its own.
    single : Goals or None
        Goals of one scenario, once the best of each is known: those of the space are then ratios to them.
    bests : mapping of str to tuple of float
        Goal -> the best value of each scenario.
    """

    title: str
    path: Path
    template: Template
    names: tuple[str, ...]
    settings: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    models: tuple[str, ...]
    workloads: tuple[Mapping[str, Value], ...]
    goals: Goals
    reference: tuple[Value, ...] | None
    fleet: MixedFleet | None = None
    tuned: bool = False
    scenarios: tuple[str, ...] = ()
    single: Goals | None = None
    bests: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def loads(self) -> list[tuple[str, Mapping[str, Value]]]:
        """Every model under every workload; a scenario may name its own model."""
        return [(str(load.get("model", model)), load) for model in self.models for load in self.workloads]

    @property
    def size(self) -> int:
        out = 1
        for values in self.values:
            out *= len(values)
        return out

    def designs(self) -> list[tuple[Value, ...]]:
        """Return all designs of the space, in order."""
        return list(itertools.product(*self.values))

    def parameters(self, design: Sequence[Value]) -> dict[str, float]:
        """Return only the parameters of the device."""
        return {
            name: float(value) if isinstance(value, float) else int(value or 0)
            for name, setting, value in zip(self.names, self.settings, design, strict=True)
            if setting.startswith(PARAMETER)
        }

    def options(self, design: Sequence[Value]) -> dict[str, Value]:
        """Options of a scenario that the design sets."""
        out = {
            setting: value
            for setting, value in zip(self.settings, design, strict=True)
            if not setting.startswith(PARAMETER)
        }
        if self.tuned:
            out["costs"] = "roofline"
        return out if self.fleet is None else out | self.fleet.options(int(out.pop(OWN) or 0))

    def own(self, design: Sequence[Value]) -> int:
        """Return the number of the file's systems in a fleet; 1 without a fleet."""
        return 1 if self.fleet is None else int(self.named(design)[OWN] or 0)

    def point(self, design: Sequence[Value], model: str, workload: Mapping[str, Value]) -> dict[str, Value]:
        """A design under one workload, as settings that `..sweep.point.evaluate` takes."""
        settings = {PARAMETER + name: value for name, value in self.parameters(design).items()}
        shown = asked_of([goal.removeprefix(ROBUST) for goal in self.goals.names])
        options = {"model": model, "system": str(self.path), PERCENTILES: shown, **workload, **settings}
        options |= self.options(design)
        return {name: value for name, value in options.items() if value is not None}

    def named(self, design: Sequence[Value]) -> dict[str, Value]:
        return dict(zip(self.names, design, strict=True))


def space_path(name: str | Path) -> Path:
    """Return the file of a design space.

    Raises
    ------
    InputError
        Neither a name nor a file.
    """
    known = spaces()
    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml") and not path.is_file():
        raise InputError(repr(str(name)), f"is not a design space{nearest(str(name), known)}")
    return path


def read_space(
    name: str | Path,
    models: Sequence[str] | None = None,
    workloads: Sequence[Mapping[str, Value]] | None = None,
    goals: str | None = None,
    limits: str | None = None,
    across: str | None = None,
) -> Space:
    """Read a space; what is given comes before what the file says.

    Raises
    ------
    InputError
        A wrong key, an empty space, an unknown parameter, model or metric.
    """
    path = space_path(name)
    raw = read_yaml(path)
    block = raw.get(BLOCK)
    if not isinstance(block, dict):
        raise InputError(f"{path}: {BLOCK}", "is missing: a space is a system's file with it")
    for key in block:
        check_known(f"{path}: {BLOCK}.{key}", key, KEYS, "unknown key")
    template = system_template(path)
    describe_system(path)
    names, settings, values = _searched(block.get("search"), template, path, block.get("fleet") is not None)
    served = tuple(models or _list(block.get("models"), f"{path}: {BLOCK}.models", str))
    if not served:
        raise InputError("--models", "needs comma-separated names, for example mixtral-8x7b")
    for model in served:
        load_model(model)
    where = "--workload" if workloads else f"{path}: {BLOCK}.{'scenarios' if 'scenarios' in block else 'workloads'}"
    scenarios = {} if workloads else block.get("scenarios", {})
    if not isinstance(scenarios, dict) or (scenarios and "workloads" in block):
        raise InputError(where, "must map names to {option: value, ...}, in place of workloads")
    listed = [*scenarios.values()] or block.get("workloads")
    loads = tuple(workloads or _list(listed, where, dict)) or ({},)
    for load in loads:
        for key, value in load.items() if TRAINING not in load else ():
            check_parameter(str(key), where)
            check_value(value, f"{where}.{key}")
    where = f"{path}: {BLOCK}"
    wanted = Goals(
        read_goals(goals if goals is not None else block.get("goals"), where),
        read_limits(limits if limits is not None else block.get("limits"), where),
        *read_across(across if across is not None else block.get("across", "mean"), served),
    )
    given = block.get("reference")
    reference = None if given is None else _reference(given, names, values, path)
    fleet = read_fleet(block.get("fleet"), path, dict(zip(settings, values, strict=True)))
    space = Space(str(block.get("title", path.stem)), path.absolute(), template, names, settings,
                  values, served, loads, wanted, reference, fleet, _kernel(block, path), tuple(map(str, scenarios)))  # fmt: skip
    if space.size > MOST:
        raise InputError(f"{where}.search", f"spans {space.size:,} designs, more than {MOST:,}")
    return space


def _kernel(block: Mapping[str, Any], path: Path) -> bool:
    """Return whether kernels are chosen for every design."""
    if block.get("kernel") not in (None, BEST):
        raise InputError(f"{path}: {BLOCK}.kernel", f"must be {BEST}, not {block['kernel']!r}")
    return block.get("kernel") is not None


def _list(given: Any, where: str, kind: type) -> list[Any]:
    """A block that lists texts or mappings; empty where there is none."""
    given = [] if given is None else given
    if not isinstance(given, list) or not all(isinstance(item, kind) for item in given):
        named = "names" if kind is str else "{option: value, ...}"
        raise InputError(where, f"must be a list of {named}, not {given!r:.60}")
    return given


def _searched(
    given: Any, template: Template, path: Path, fleet: bool
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[Value, ...], ...]]:
    """Read `search` of a space: names of the axes, what each one sets, and its values."""
    where = f"{path}: {BLOCK}.search"
    if not isinstance(given, dict) or not given:
        raise InputError(where, "must map parameters to their values, and not be empty")
    names, settings, values = [], [], []
    for name, entry in given.items():
        axis = read_axis(str(name), entry, f"{where}.{name}")
        if axis.random is not None or len(axis.columns) != 1:
            raise InputError(f"{where}.{name}", "needs values, or grid: {low, high, points}")
        if name in template.names:
            if any(isinstance(v, (str, bool, type(None))) for (v,) in axis.values):
                raise InputError(f"{where}.{name}", "must have numbers, because it is a parameter of the device")
            settings.append(PARAMETER + str(name))
        elif name == OWN and fleet:
            settings.append(OWN)
        else:
            _known(str(name), template, f"{where}.{name}")
            settings.append(str(name))
        names.append(str(name))
        values.append(tuple(row[0] for row in axis.values))
    return tuple(names), tuple(settings), tuple(values)


def _known(name: str, template: Template, where: str) -> None:
    try:
        check_parameter(name, where)
    except InputError:
        close = nearest(name, template.names)
        reason = f"{name!r} is neither a parameter of the device nor an option{close}"
        raise InputError(where, reason) from None


def _reference(given: Any, names: Sequence[str], values: Sequence[Sequence[Value]], path: Path) -> tuple[Value, ...]:
    where = f"{path}: {BLOCK}.reference"
    if not isinstance(given, dict) or set(given) != set(names):
        raise InputError(where, f"must give each of {', '.join(names)}")
    for name, known in zip(names, values, strict=True):
        if given[name] not in known:
            raise InputError(f"{where}.{name}", f"{given[name]} is none of {', '.join(map(str, known))}")
    return tuple(given[name] for name in names)
