"""Loading of models and systems by name or file, with the number formats of the run.

Sweeps load a model or a system with some values of its description replaced. Every replaced key must exist, because a
mistyped key would be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...devices.catalog import describe_system, load_system
from ...devices.spec import SystemSpec
from ...workloads.catalog import catalog_entry, load_model
from ...workloads.errors import InputError, SpecError, nearest
from ...workloads.hf import model_from_keys
from ...workloads.hf.json_file import config_file, read_json_object
from ...workloads.model import ModelSpec
from ...workloads.specfile import Description, SourcedNumber, build, merge, to_si
from ...workloads.textfile import digest_of


def load(
    model: str | Path | ModelSpec,
    system: str | Path | SystemSpec,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    longest: int | None = None,
) -> tuple[ModelSpec, SystemSpec]:
    """Load a model and a system and apply ``--dtype`` and ``--kv-dtype``.

    Parameters
    ----------
    longest : int, optional
        Tokens of the longest sequence that is accepted: windows that never bind are none.

    Raises
    ------
    InputError
        Unknown name, bad file or unknown number format.
    """
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    spec = replace(spec, numerics=spec.numerics.with_formats(dtype, kv_dtype))
    if longest is not None:
        spec = spec.within(longest)
    return spec, system if isinstance(system, SystemSpec) else load_system(system)


CHANGED = "assumed: set by the sweep"
"""Source that is recorded for a replaced number."""

Overrides = tuple[tuple[str, Any], ...]
"""Pairs of a key path, such as ``num_hidden_layers`` or ``device.memory.bandwidth_GBps``, and its new value."""


def changed_model(name: str, changes: Overrides) -> ModelSpec:
    """Return a model with keys of its ``config.json`` replaced.

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
    return model_from_keys(keys, name=f"{label} ({text})", where=f"model {label}", source=f"{source}; {CHANGED}")


def _replaced(keys: Mapping[str, Any], path: list[str], value: Any, where: str) -> dict[str, Any]:
    head, *rest = path
    if head not in keys:
        known = [key for key, old in keys.items() if isinstance(old, (int, float, str, dict))]
        raise InputError(where, f"{head!r} is not a key of the configuration{nearest(head, known)}")
    if not rest:
        return {**keys, head: value}
    if not isinstance(keys[head], Mapping):
        raise InputError(where, f"{head!r} has no keys below it")
    return {**keys, head: _replaced(keys[head], rest, value, where)}


def changed_system(name: str, changes: Overrides) -> SystemSpec:
    """Return a system with values of its description replaced; keys have units as in YAML.

    ``parameters.NAME`` sets a parameter of the device, and with it all expressions that it is in.

    Raises
    ------
    SpecError
        An unknown key or a value that the schema does not allow.
    """
    heads = ("parameters.", "device.parameters.")
    settings = {path.rpartition(".")[2]: value for path, value in changes if path.startswith(heads)}
    spec = describe_system(name, settings)[0]
    tree = {**spec.model_dump(), "name": f"{spec.name}-{digest_of(changes)[:6]}"}
    for path_text, value in changes:
        if path_text.startswith(heads):
            continue
        over = _nested(path_text.split("."), value, tree, f"system.{path_text}")
        tree = merge(tree, over)
    try:
        return build(SystemSpec, Description(tree, Path(f"system {spec.name}")))[0]
    except SpecError as error:
        raise SpecError(str(error.subject), error.reason) from None


def _nested(path: list[str], value: Any, tree: Any, where: str) -> dict[str, Any]:
    """Return the change as a nested dictionary; every key but the last must exist."""
    head, *rest = path
    if not isinstance(tree, Mapping):
        raise SpecError(where, f"it has no keys below it: {head!r}")
    if rest:
        fields = {to_si(key)[0]: below for key, below in tree.items()}  # an earlier change's unit
        below = fields.get(to_si(head)[0])
        if not isinstance(below, Mapping):
            known = [key for key, inner in tree.items() if isinstance(inner, Mapping)]
            raise SpecError(where, f"{head!r} is not a block of the description{nearest(head, known)}")
        return {head: _nested(rest, value, below, where)}
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {head: SourcedNumber(value, CHANGED) if number else value}
