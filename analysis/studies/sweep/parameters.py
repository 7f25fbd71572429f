"""What a sweep can set: options of a scenario, and paths into the model's and system's specs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, is_path
from ....devices.spec import SystemSpec
from ....simulator.scenario.scenario import Scenario, placed
from ....workloads.catalog import catalog_entry, is_model_path, load_model
from ....workloads.errors import InputError, SpecError, nearest
from ....workloads.hf import model_from_keys
from ....workloads.hf.json_file import config_file, read_json_object
from ....workloads.kernel_tables import table_files
from ....workloads.model import ModelSpec
from ....workloads.requests.sources import trace_files
from ....workloads.specfile import Description, Quantity, build, merge, to_si
from ...show.provenance import digest_of, digest_of_files

SEEDS = "seeds"
"""A parameter beside the scenario's options: the mean over so many seeds."""
UNREADABLE = "unreadable"
SOURCE = "assumed: set by the sweep"

Overrides = tuple[tuple[str, Any], ...]


def parameters() -> tuple[str, ...]:
    """Options of a scenario that a sweep may set: those of one value."""
    known = placed(Scenario).items()
    return (*(name for name, p in known if p.option.kind is not tuple), SEEDS)


def check_parameter(name: str, where: str) -> None:
    """Refuse what cannot be set.

    Raises
    ------
    InputError
        Neither an option of a scenario nor a path that starts with ``model.`` or ``system.``.
    """
    head, _, path = name.partition(".")
    if head in ("model", "system") and path:
        return
    if name not in parameters():
        raise InputError(
            where,
            f"unknown parameter {name!r}{nearest(name, parameters())}; model.KEY and system.PATH "
            "reach into the specs",
        )


def scenario_of(point: Mapping[str, Any]) -> Scenario:
    """The scenario of a point, specs with their changes applied.

    Raises
    ------
    InputError
        A spec that cannot be read or does not allow the change.
    """
    known = placed(Scenario)
    given = {name: value for name, value in point.items() if name in known and value is not None}
    for head, change in (("model", changed_model), ("system", changed_system)):
        inside = tuple(
            (name.partition(".")[2], value)
            for name, value in sorted(point.items())
            if name.startswith(f"{head}.")
        )
        if given.get(head) is None:
            raise InputError(head, "is needed: give it in base or as an axis")
        if inside:
            given[head] = change(str(given[head]), inside)
    return Scenario.of(**given)


def changed_model(name: str, changes: Overrides) -> ModelSpec:
    """A model with keys of its ``config.json`` replaced.

    Raises
    ------
    InputError
        A key that the configuration does not have: it would be ignored.
    """
    entry = catalog_entry(name)
    if entry is not None:
        keys, source, label = dict(entry.config), entry.source, entry.name
    else:
        path = config_file(Path(name))
        keys, source, label = read_json_object(path), str(path), load_model(name).name
    for path_text, value in changes:
        keys = _replaced(keys, path_text.split("."), value, f"model.{path_text}")
    text = ", ".join(f"{key} {value}" for key, value in changes)
    return model_from_keys(
        keys, name=f"{label} ({text})", where=f"model {label}", source=f"{source}; {SOURCE}"
    )


def _replaced(keys: Mapping[str, Any], path: list[str], value: Any, where: str) -> dict[str, Any]:
    head, *rest = path
    if head not in keys:
        known = [key for key, old in keys.items() if isinstance(old, (int, float, str, dict))]
        raise InputError(where, f"{head!r} is no key of the configuration{nearest(head, known)}")
    if not rest:
        return {**keys, head: value}
    if not isinstance(keys[head], Mapping):
        raise InputError(where, f"{head!r} has no keys below it")
    return {**keys, head: _replaced(keys[head], rest, value, where)}


def changed_system(name: str, changes: Overrides) -> SystemSpec:
    """A system with values of its description replaced, units in the keys as in YAML.

    Raises
    ------
    SpecError
        An unknown key or a value that the schema does not allow.
    """
    spec = describe_system(name)[0]
    tree = spec.model_dump()
    for path_text, value in changes:
        over = _nested(path_text.split("."), value, tree, f"system.{path_text}")
        tree = merge(tree, over)
    tree["name"] = f"{spec.name}-{digest_of(changes)[:6]}"
    try:
        return build(SystemSpec, Description(tree, Path(f"system {spec.name}")))[0]
    except SpecError as error:
        raise SpecError(str(error.subject), error.reason) from None


def sources_of(point: Mapping[str, Any]) -> dict[str, str]:
    """Key path -> source of every constant of a point's system, those set by the sweep too."""
    found = describe_system(str(point["system"]))[1]
    changed = {n.partition(".")[2] for n in point if n.startswith("system.")}
    return {**found, **dict.fromkeys(changed, SOURCE)}


def _nested(path: list[str], value: Any, tree: Any, where: str) -> dict[str, Any]:
    """The change as a tree of its own; every key but the last must exist."""
    head, *rest = path
    if not isinstance(tree, Mapping):
        raise SpecError(where, f"nothing lies below it: {head!r}")
    if rest:
        fields = {to_si(key)[0]: below for key, below in tree.items()}  # an earlier change's unit
        below = fields.get(to_si(head)[0])
        if not isinstance(below, Mapping):
            known = [key for key, inner in tree.items() if isinstance(inner, Mapping)]
            raise SpecError(where, f"{head!r} is no block of the description{nearest(head, known)}")
        return {head: _nested(rest, value, below, where)}
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {head: Quantity(value, SOURCE) if number else value}


def located(point: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A point's settings, relative paths in them taken from `folder`, the sweep file's."""
    out = dict(point)
    for name, value in point.items():
        head, text = _path_in(name, value)
        if text:
            out[name] = f"{head}{folder / text}"
    return out


def _path_in(name: str, value: object) -> tuple[str, str]:
    """The path that a parameter's value names, and what stands before it; empty if none."""
    if not isinstance(value, str):
        return "", ""
    if name == "routing":
        kind, colon, path = value.partition(":")
        return (f"{kind}:", path) if kind == "trace" and colon else ("", "")
    takes_path = {"system": is_path, "model": is_model_path}.get(name)
    found = _names_file(name) if takes_path is None else takes_path(value)
    return "", value if found else ""


def identity(point: Mapping[str, Any], known: dict[str, str] | None = None) -> dict[str, str]:
    """Digests of the files a point names, so that an edited file is another point.

    A file that cannot be read has a digest that starts with `UNREADABLE`; such points are never
    taken from stored results, and fail with the reason.

    Parameters
    ----------
    known : dict, optional
        Digests found before, by what was read; added to, so that points that share a file read
        it once.
    """
    known = {} if known is None else known
    found = {}
    for name, value in point.items():
        text = _path_in(name, value)[1]
        if text:
            what = f"{name}:{text}"
            if what not in known:
                known[what] = _file_digest(name, text)
            found[name] = known[what]
    return found


def _names_file(name: str) -> bool:
    known = placed(Scenario).get(name)
    return known is not None and known.option.file


def _file_digest(name: str, value: str) -> str:
    """Digest of all that is read for a path, and nothing else that lies beside it."""
    path = Path(value)
    try:
        if name == "system":
            return digest_of(describe_system(value)[0].model_dump())
        if name == "model":
            return digest_of_files([config_file(path)])
        if name == "kernels":
            return digest_of_files(table_files([path]))
        return digest_of_files(trace_files(path) if name == "trace" else [path])
    except (InputError, OSError) as error:
        return f"{UNREADABLE} {value}: {error}"
