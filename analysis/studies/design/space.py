"""A space of designs: a system whose device has free parameters, and what to make of it.

The file is a system's (``device``, ``devices_per_node``, ``mapping``) with a ``design:`` block. What is
searched are parameters of the device, and options of a scenario: placement, degrees, batch, formats.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, system_template
from ....workloads.catalog import load_model
from ....workloads.errors import InputError, nearest
from ....workloads.parameters import Template
from ....workloads.yamlfile import read_yaml
from ..sweep.axes import Value, read_axis
from ..sweep.parameters import check_parameter
from .goals import Goals, read_across, read_goals, read_limits

KEYS = ("title", "search", "models", "workloads", "goals", "limits", "across", "reference")
BLOCK = "design"
MOST = 200_000
"""Designs of a space; more are not told apart by a search of this kind."""
PARAMETER = "system.parameters."


@dataclass(frozen=True, slots=True)
class Space:
    """A checked space.

    Attributes
    ----------
    names : tuple of str
        What is searched, as people write it.
    settings : tuple of str
        The same as settings of a point (`..sweep.parameters`).
    values : tuple of tuples
        Of each.
    models, workloads : tuple
        What is served: every model under every workload.
    reference : tuple of values or None
        A design to hold the others against.
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

    @property
    def size(self) -> int:
        out = 1
        for values in self.values:
            out *= len(values)
        return out

    def designs(self) -> list[tuple[Value, ...]]:
        """All of them, in order."""
        return list(itertools.product(*self.values))

    def parameters(self, design: Sequence[Value]) -> dict[str, float]:
        """Those of the device alone."""
        return {
            name: float(value) if isinstance(value, float) else int(value or 0)
            for name, setting, value in zip(self.names, self.settings, design, strict=True)
            if setting.startswith(PARAMETER)
        }

    def options(self, design: Sequence[Value]) -> dict[str, Value]:
        """Options of a scenario that the design sets."""
        return {
            setting: value
            for setting, value in zip(self.settings, design, strict=True)
            if not setting.startswith(PARAMETER)
        }

    def point(
        self, design: Sequence[Value], model: str, workload: Mapping[str, Value]
    ) -> dict[str, Value]:
        """A design under one workload, as settings that `..sweep.point.evaluate` takes."""
        own = dict(zip(self.settings, design, strict=True))
        return {"model": model, "system": str(self.path), **workload, **own}

    def told(self, design: Sequence[Value]) -> dict[str, Value]:
        return dict(zip(self.names, design, strict=True))


def spaces() -> dict[str, Path]:
    """The package's spaces by name."""
    folder = Path(str(files("opbyte.analysis.studies.design") / "spaces"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def space_path(name: str | Path) -> Path:
    """The file of a space.

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
        raise InputError(repr(str(name)), f"is no space{nearest(str(name), known)}")
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
        if key not in KEYS:
            raise InputError(f"{path}: {BLOCK}.{key}", f"unknown key{nearest(str(key), KEYS)}")
    template = system_template(path)
    describe_system(path)
    names, settings, values = _searched(block.get("search"), template, path)
    served = tuple(models or block.get("models") or ())
    if not served:
        raise InputError("--models", "needs names by commas, for example mixtral-8x7b")
    for model in served:
        load_model(model)
    loads = tuple(workloads or block.get("workloads") or ({},))
    for load in loads:
        for key in load if isinstance(load, dict) else ():
            check_parameter(str(key), "--workload" if workloads else f"{path}: {BLOCK}.workloads")
    where = f"{path}: {BLOCK}"
    wanted = Goals(
        read_goals(goals if goals is not None else block.get("goals"), where),
        read_limits(limits if limits is not None else block.get("limits"), where),
        *read_across(across if across is not None else block.get("across", "mean"), served),
    )
    given = block.get("reference")
    reference = None if given is None else _reference(given, names, values, path)
    space = Space(str(block.get("title", path.stem)), path.absolute(), template, names, settings,
                  values, served, loads, wanted, reference)  # fmt: skip
    if space.size > MOST:
        raise InputError(f"{where}.search", f"spans {space.size:,} designs, more than {MOST:,}")
    return space


def _searched(
    given: Any, template: Template, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[Value, ...], ...]]:
    where = f"{path}: {BLOCK}.search"
    if not isinstance(given, dict) or not given:
        raise InputError(where, "must map parameters to their values: an empty space")
    names, settings, values = [], [], []
    for name, entry in given.items():
        axis = read_axis(str(name), entry, f"{where}.{name}")
        if axis.random is not None or len(axis.columns) != 1:
            raise InputError(f"{where}.{name}", "needs values, or grid: {low, high, points}")
        if name in template.names:
            if any(isinstance(v, (str, bool, type(None))) for (v,) in axis.values):
                raise InputError(f"{where}.{name}", "is a parameter of the device: needs numbers")
            settings.append(PARAMETER + str(name))
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


def _reference(
    given: Any, names: Sequence[str], values: Sequence[Sequence[Value]], path: Path
) -> tuple[Value, ...]:
    where = f"{path}: {BLOCK}.reference"
    if not isinstance(given, dict) or set(given) != set(names):
        raise InputError(where, f"must give each of {', '.join(names)}")
    for name, known in zip(names, values, strict=True):
        if given[name] not in known:
            raise InputError(
                f"{where}.{name}", f"{given[name]} is none of {', '.join(map(str, known))}"
            )
    return tuple(given[name] for name in names)
