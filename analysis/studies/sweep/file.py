"""The file of a sweep: a base, axes, constraints and objectives, and the points they span."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....devices.catalog import describe_system
from ....devices.spec import SystemSpec
from ....simulator.option import options_of
from ....simulator.quantity import columns
from ....simulator.scenario.options import Workload
from ....workloads.errors import InputError, check_known, errors_in, nearest, visible
from ....workloads.latencies import asked_of, column_of
from ....workloads.requests.classes import check_slos, is_classes_path, read_classes
from ....workloads.requests.options import check_count
from ....workloads.yamlfile import read_yaml
from ...answers.identity import located
from ...answers.part_answers import with_columns
from ...show.text import Rows
from .axes import BEST, DEVICE, FIXED, KERNEL, MAX_POINTS, Axis, Value, read_axis
from .expression import OF_RUN, Expression, parse
from .point import FIGURES, METRICS, PERCENTILES, check_parameter, scenario_of

KEYS = ("title", "base", "axes", "samples", "seed", "constraints", "objectives")
GOALS = ("max", "min")
LOADS = ("rate", "rate_scale", "closed_loop", "requests", "duration")
SERVED = frozenset(("model", *(p.name for p in options_of(Workload)))) - {*LOADS}
"""Parameters that say what is served."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """Names of a kind of study.

    Attributes
    ----------
    check : callable
        Refuses parameters that are none, by name and where it is given.
    metrics : tuple of str
        Columns of the table; `shown` of them are printed without objectives.
    figures : frozenset of str
        Names in conditions and objectives, in addition to `OF_RUN` and the path of a number of the result.
    """

    check: Callable[[str, str], None]
    metrics: tuple[str, ...]
    shown: tuple[str, ...]
    figures: frozenset[str]

    def names(self, more: Iterable[str]) -> frozenset[str]:
        """Names of results and of other columns."""
        return type(self.figures)((*self.figures, *more))

    def is_figure(self, name: str) -> bool:
        """Whether a name is of a result, not of a parameter."""
        return name in self.figures or name.startswith(OF_RUN)


def _check_kernel_parameter(name: str, where: str) -> None:
    """Refuse a `device.` key that is none; options of a step are looked at where it is costed."""
    from ....devices.tiles.machine import SETTINGS

    key = name.removeprefix(DEVICE)
    if name.startswith(DEVICE) and key not in SETTINGS:
        raise InputError(where, f"is not a number of a device that can be set{nearest(key, SETTINGS)}")
    if name.startswith(("system.", "model.")):
        raise InputError(where, "is not supported in sweeps of kernels; use device.KEY to change the device")


OF_RUNS = FileKind(check_parameter, METRICS, METRICS[6:9], FIGURES)
STEP_METRICS = ("step_s", "kept_step_s", "default_step_s", "joules", "processor_area_mm2", "kernels_changed")
"""Seconds of a step with every kernel re-chosen, with the device's kernels, and with the frameworks' untuned ones;
dynamic joules; area added by processors near memory [mm2]; kernels whose best configuration is not the device's."""
OF_STEPS = FileKind(_check_kernel_parameter, STEP_METRICS, STEP_METRICS, frozenset(STEP_METRICS))
"""With ``kernel: best``: a step of each variant of a device with its best kernels, instead of a simulation."""


FIXED_METRICS = ("step_s", "tokens_per_s", "joules", "processor_area_mm2")


def _check_step_parameter(name: str, where: str) -> None:
    """Refuse keys of a machine; options of a step are looked at where it is costed."""
    if name.startswith(DEVICE):
        raise InputError(where, f"needs {KERNEL}: {BEST}; for a key of the description use system.PATH")


OF_FIXED = FileKind(_check_step_parameter, FIXED_METRICS, FIXED_METRICS, frozenset(FIXED_METRICS))
"""With ``kernel: fixed``: the step of ``opbyte roofline``, instead of a simulation."""
KINDS = {"None": OF_RUNS, BEST: OF_STEPS, FIXED: OF_FIXED}


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One simulation of a sweep.

    Attributes
    ----------
    columns : dict of str to value
        The axes' values as the table shows them.
    settings : dict of str to value
        Every parameter set, by `parameters` names.
    """

    columns: dict[str, Value]
    settings: dict[str, Value]


@dataclass(frozen=True, slots=True)
class SweepFile:
    """A checked sweep file.

    Attributes
    ----------
    base : dict of str to value
        Parameters that all points share.
    samples : int
        Samples of the random axes, taken together; 1 without random axes.
    constraints : tuple of Expression
        On columns, parameters and metrics. Those without a metric leave points out beforehand.
    objectives : dict of str to str
        Metric or column -> "max" or "min".
    folder : Path
        Where relative paths of the parameters start: the sweep file's folder.
    """

    title: str
    base: dict[str, Value]
    axes: tuple[Axis, ...]
    samples: int
    seed: int
    constraints: tuple[Expression, ...]
    objectives: dict[str, str]
    folder: Path = Path()
    kind: FileKind = OF_RUNS

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for axis in self.axes for column in axis.columns)

    def points(self) -> Iterator[SweepPoint]:
        """Every distinct point that the constraints on parameters allow, in order."""
        seen = set()
        rng = np.random.default_rng(self.seed)
        rows = [axis.drawn(rng, self.samples) if axis.random else axis.values for axis in self.axes]
        fixed = [r for axis, r in zip(self.axes, rows, strict=True) if axis.random is None]
        drawn = [r for axis, r in zip(self.axes, rows, strict=True) if axis.random is not None]
        before = [c for c in self.constraints if not any(map(self.kind.is_figure, c.names))]
        for grid in itertools.product(*fixed):
            for sample in zip(*drawn, strict=True) if drawn else [()]:
                point = self._point(iter(grid), iter(sample))
                key = tuple(point.settings.items())
                if key in seen:
                    continue
                seen.add(key)
                values = {**point.settings, **point.columns}
                if all(c.holds(values) for c in before):
                    yield point

    def _point(self, grid: Iterator[Any], sample: Iterator[Any]) -> SweepPoint:
        columns: dict[str, Value] = {}
        chosen: dict[str, Value] = {}
        for axis in self.axes:
            row = next(sample if axis.random else grid)
            columns |= dict(zip(axis.columns, row, strict=True))
            chosen |= dict(zip(axis.parameters, row, strict=True))
        return SweepPoint(columns, located({**self.base, **chosen}, self.folder))

    @property
    def asked(self) -> tuple[str, ...]:
        """Metrics that conditions and objectives name."""
        names = [name for c in self.constraints for name in sorted(c.names)]
        return tuple(dict.fromkeys(n for n in (*self.objectives, *names) if self.kind.is_figure(n)))

    @property
    def load(self) -> str:
        """The load, if a study without objectives varies only the load and the system; else empty."""
        varied = {p for axis in self.axes for p in axis.parameters}
        loads = varied & {"closed_loop", "rate"}
        return (
            loads.pop()
            if varied == {*self.columns} == {"system", *loads} and len(loads) == 1 > len(self.objectives)
            else ""
        )

    @property
    def workloads(self) -> tuple[str, ...]:
        """Columns that say what is served, not how: designs are compared within each of their values.

        The load is not among them: the number of users per device is a choice.
        """
        return tuple(
            column
            for axis in self.axes
            for column, parameter in zip(axis.columns, axis.parameters, strict=True)
            if parameter in SERVED
        )

    @property
    def size(self) -> int:
        """Points before constraints and duplicates."""
        return math.prod(len(a.values) for a in self.axes if a.random is None) * self.samples

    def feasible(self, row: Mapping[str, Any]) -> bool:
        """Whether a finished row meets every constraint."""
        return all(c.holds({**self.base, **row}) for c in self.constraints)


def path_of(study: str | Path | Mapping[str, Any]) -> Path:
    """Return a study's file; one that was never in a file is called sweep."""
    return Path("sweep" if isinstance(study, Mapping) else study)


def read_sweep(study: str | Path | Mapping[str, Any], objectives: Mapping[str, str] | None = None) -> SweepFile:
    """Read a sweep file, or what would be in it; `objectives` replace the file's.

    Raises
    ------
    InputError
        If the file is invalid; the message names the key and the right form.
    """
    path = path_of(study)
    raw = dict(study) if isinstance(study, Mapping) else read_yaml(path)
    raw |= {"objectives": dict(objectives)} if objectives else {}
    for key in raw:
        check_known(f"{path}: {key}", key, KEYS, "unknown key")
    base = _mapping(raw, "base", path)
    kind = KINDS.get(str(base.get(KERNEL)))
    if kind is None:
        raise InputError(f"{path}: base.kernel", f"must be {BEST} or {FIXED}, not {base[KERNEL]!r}")
    axes = tuple(
        read_axis(str(name), given, f"{path}: axes.{name}") for name, given in _mapping(raw, "axes", path).items()
    )
    if not axes:
        raise InputError(f"{path}: axes", "needs at least one axis, for example rate: [1, 2, 4]")
    _check_names(base, axes, path, kind)
    given_names = {*base, *(name for axis in axes for name in axis.parameters)}
    for name in ("model", "prefill" if "prefill" in given_names else "system"):
        if name not in given_names:
            raise InputError(f"{path}: base.{name}", "is needed, here or as an axis")
    samples, seed = _randomness(raw, axes, path)
    known = {*base, *(c for axis in axes for c in (*axis.columns, *axis.parameters))}
    names = kind.names(name for name in known if name.isidentifier())
    given = raw.get("constraints", [])
    if not isinstance(given, list):
        raise InputError(f"{path}: constraints", "must be a list of conditions in quotes")
    constraints = tuple(parse(text, f"{path}: constraints[{i}]", names) for i, text in enumerate(given))
    columns = {column for axis in axes for column in axis.columns}
    objectives = read_objectives(_mapping(raw, "objectives", path), f"{path}: objectives", kind.names(columns))
    texts = {
        c for axis in axes for row in axis.values for c, v in zip(axis.columns, row, strict=True) if isinstance(v, str)
    }
    for name in sorted(texts & set(objectives)):
        raise InputError(f"{path}: objectives.{name}", "is a column of text; an objective needs numbers")
    named = {*objectives, *(name for c in constraints for name in c.names)}
    shown = asked_of(named, base.get(PERCENTILES), f"{path}: base.{PERCENTILES}")
    base |= {PERCENTILES: shown} if shown else {}
    if promised := named & {"attainment", "goodput_per_s"}:
        _check_promised(min(promised), base, axes, path)
    title = raw.get("title", visible(path.stem))
    if not isinstance(title, str):
        raise InputError(f"{path}: title", "must be text")
    folder = path.absolute().parent  # a resumed sweep may be started elsewhere
    plan = SweepFile(title, base, axes, samples, seed, constraints, objectives, folder, kind)
    if plan.size > MAX_POINTS:
        raise InputError(f"{path}: axes", f"span {plan.size:,} points, more than {MAX_POINTS:,}")
    return plan


def _check_promised(asked: str, base: Mapping[str, Value], axes: Sequence[Axis], path: Path) -> None:
    """Refuse SLO attainment if a class has no SLO."""
    known = [base["classes"]] if "classes" in base else []
    for axis in axes:
        if "classes" in axis.parameters:
            known += [row[axis.parameters.index("classes")] for row in axis.values]
    texts = [str(path.parent / text) if is_classes_path(text) else text for text in map(str, known)]
    for classes in map(read_classes, texts) if texts else [()]:
        check_slos(f"{path}: {asked}", {c.name: c.promises for c in classes})


def read_objectives(given: Any, where: str, known: Collection[str]) -> dict[str, str]:
    """Check objectives: metrics or columns to be made large or small.

    Raises
    ------
    InputError
        An unknown name or goal.
    """
    if not isinstance(given, Mapping):
        raise InputError(where, "must be a mapping of names to max or min")
    with errors_in(where):
        for name, goal in given.items():
            if name not in known and not str(name).startswith(OF_RUN):
                raise InputError(f"{where}.{name}", f"unknown metric{nearest(str(name), known)}")
            if goal not in GOALS:
                raise InputError(f"{where}.{name}", f"must be max or min, not {goal!r}")
        return {column_of(str(name)): str(goal) for name, goal in given.items()}


def _mapping(raw: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    section = raw.get(key, {})
    if not isinstance(section, dict):
        raise InputError(f"{path}: {key}", "must be a mapping of names to values")
    return {str(name): value for name, value in section.items()}


def check_value(value: object, where: str) -> None:
    """Refuse what no option of a scenario can be."""
    plain = isinstance(value, (str, int, float, bool, type(None)))
    if not plain or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(where, "must be a finite number or text")


def _check_names(base: Mapping[str, Any], axes: tuple[Axis, ...], path: Path, kind: FileKind) -> None:
    """Refuse names that are unknown, set twice, or names of results."""
    for name, value in base.items():
        kind.check(name, f"{path}: base.{name}")
        check_value(value, f"{path}: base.{name}")
    columns: set[str] = set()
    parameters: set[str] = set()
    for axis in axes:
        for column, parameter in zip(axis.columns, axis.parameters, strict=True):
            kind.check(parameter, f"{path}: axes.{column}")
            if column in columns or parameter in parameters:
                raise InputError(f"{path}: axes.{column}", "is set by two axes; keep one")
            if column in kind.figures or column in FIXED_COLUMNS:
                raise InputError(f"{path}: axes.{column}", "is the name of a metric; rename the axis")
            columns.add(column)
            parameters.add(parameter)


FIXED_COLUMNS = ("point", "feasible", "error")


def _randomness(raw: Mapping[str, Any], axes: tuple[Axis, ...], path: Path) -> tuple[int, int]:
    random = [axis for axis in axes if axis.random is not None]
    if random and "samples" not in raw:
        raise InputError(f"{path}: samples", "is needed with random axes: the number of samples")
    if not random and "samples" in raw:
        raise InputError(f"{path}: samples", "needs a random axis")
    samples = check_count(raw.get("samples", 1), f"{path}: samples", 1, MAX_POINTS)
    return samples, check_count(raw.get("seed", 0), f"{path}: seed", 0)


UNPRICED = ("device_usd_per_hour", "usd_per_million_tokens")


def refuse_absent(asked: Iterable[str], rows: Rows, points: Iterable[SweepPoint], where: str) -> None:
    """Refuse a metric that every point lacks that was simulated.

    Raises
    ------
    InputError
        The line names the metric, and what of the description or study gives it.
    """
    done = [row for row in rows if row["error"] is None]
    if not done:
        return
    first = next(iter(points))
    for name in sorted(set(asked)):
        if all(name in row and row[name] is None for row in done):
            raise InputError(f"{where}: {name}", f"has no value: {why_absent(name, first.settings, len(done))}")


def why_absent(name: str, settings: Mapping[str, Any], done: int) -> str:
    """Why the points lack a metric: the setting or option that would give it."""
    for facet in with_columns():
        if name in columns(facet.columns):
            return facet.missing
    if name.startswith(OF_RUN):
        return "simulate does not output it for these points; simulate --json lists the metrics"
    if name == "stationary":
        return "too few requests to decide, or a closed loop"
    if name.startswith("gco2"):
        return "give grid_gCO2_per_kWh"
    system = scenario_of(settings).system
    spec = system if isinstance(system, SystemSpec) else describe_system(str(system))[0]
    device = spec.device.name
    if name == "processor_area_mm2":
        return f"no processor of {device} gives area_mm2"
    if name in UNPRICED:
        return f"{device} has no price_USD_per_hour"
    return f"none of {done:,} points gives it"
