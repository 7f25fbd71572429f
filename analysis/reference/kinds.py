"""Kinds of files that OpByte reads: their templates and their schemas for editors.

JSON schemas of the YAML files, for editors: keys as they are written, with their units.

The specs are written in SI units (`bandwidth_bytes_per_s`); files say `bandwidth_GBps`, a number with a source. So
every property of pydantic's schema becomes one for each unit, and every number may be `{value, source}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from typing import Any

from ...workloads.errors import InputError, nearest
from ...workloads.specfile import UNITS, Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SOURCE = {"type": "string", "description": "Where the plain numbers of this block come from."}
TABLE = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "Short names of sources, which `source` may then give.",
}
PARENT = {"type": "string", "description": "Name or file of the description this one starts from."}

DESCRIBED = ("DeviceSpec", "HostSpec")
"""Specs that have separate files, whose keys `extends` and `sources` are therefore allowed in any position."""


def written(field: str) -> tuple[str, ...]:
    """Return all names of a field in a file, one for each unit; a field without a unit has only its own name.

    Examples
    --------
    >>> written("latency_s")
    ('latency_s', 'latency_ms', 'latency_us', 'latency_ns')
    >>> written("stacks")
    ('stacks',)
    """
    for si in sorted({si for si, _ in UNITS.values()}, key=len, reverse=True):
        if field.endswith(f"_{si}"):
            stem = field.removesuffix(si)
            names = [f"{stem}{unit}" for unit, (of, _) in UNITS.items() if of == si]
            return tuple(dict.fromkeys([*names, field]))  # sizes may be given in bytes
    return (field,)


def json_schema(spec: type[Spec], title: str, inline: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the JSON schema of the files that describe a spec.

    Parameters
    ----------
    spec : type
    title : str
    inline : mapping of str to str, optional
        Key -> meaning of a text in place of the block: a device of a system by name.

    Returns
    -------
    dict
        JSON schema. Nothing is required: a file may start from another.
    """
    raw = spec.model_json_schema()
    blocks = {name: _object(block) for name, block in raw.pop("$defs", {}).items()}
    top = _object(raw)
    for key, meaning in (inline or {}).items():
        top["properties"][key] = {"anyOf": [{"type": "string", "description": meaning}, top["properties"][key]]}
    common = {"extends": PARENT, "sources": TABLE}
    for block in (top, *(blocks[name] for name in DESCRIBED if name in blocks)):
        block["properties"] |= common
    return {"$schema": DIALECT, "title": title, **top, "$defs": blocks}


def _object(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a block with the keys' names in files; schemas without properties become values."""
    if "properties" not in block:
        return _value(block)
    keys: dict[str, Any] = {}
    for field, value in block["properties"].items():
        dropped = {"anyOf": [_value(value), {"type": "null"}]}
        keys |= dict.fromkeys(written(field), dropped)
    out: dict[str, Any] = {"type": "object", "properties": keys | {"source": SOURCE}}
    if "description" in block:
        out["description"] = block["description"]
    return out | {"additionalProperties": False}


def _value(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a value in a file: numbers may contain their source, and null removes a key."""
    value = {k: v for k, v in value.items() if k != "title"}
    if "anyOf" in value:
        return value | {"anyOf": [_value(one) for one in value["anyOf"]]}
    kind = value.get("type")
    if kind in ("number", "integer"):
        carried = {
            "type": "object",
            "properties": {"value": {"type": kind}, "source": SOURCE},
            "required": ["value"],
            "additionalProperties": False,
        }
        limits = {k: v for k, v in value.items() if k not in ("default", "description")}
        copied = {k: v for k, v in value.items() if k in ("default", "description")}
        return copied | {"anyOf": [limits, carried]}
    if kind == "object":
        return _table(value)
    return dict(value)


def _table(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block whose keys are names: the content under each key, and the block's own source."""
    copied = ("type", "description", "default")
    out: dict[str, Any] = {k: v for k, v in value.items() if k in copied}
    out["properties"] = {"source": SOURCE}
    inner = value.get("additionalProperties")
    for one in value.get("patternProperties", {}).values():
        inner = one
    allowed = {"anyOf": [_value(inner), {"type": "null"}]} if isinstance(inner, Mapping) else False
    return out | {"additionalProperties": allowed}


TEMPLATES = {
    "device": "device.yaml", "system": "system.yaml", "host": "host.yaml",
    "memory": "memory.yaml", "sweep": "sweep.yaml", "engine": "engine.json",
    "kernels": "kernels.csv",
}  # fmt: skip
"""Template file of each kind, in the folder `templates`."""


SPECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "device": ("devices.spec", "DeviceSpec", "A device", {}),
    "system": ("devices.spec", "SystemSpec", "A system", {
        "device": "A catalog name, or a device's file.",
        "host": "A class of `opbyte list hosts`, or a host's file.",
    }),
    "host": ("devices.hosts.spec", "HostSpec", "A host", {}),
    "memory": ("devices.dram.spec", "DramSpec", "A DRAM standard", {}),
}  # fmt: skip
"""Kind -> the spec of its files, their title, and keys that may have a text in place of a block."""


def template(kind: str) -> str:
    """Return a commented template of a kind of file, which is valid input without changes.

    Raises
    ------
    InputError
        No such kind.
    """
    return (files(__package__) / "templates" / TEMPLATES[_known(kind)]).read_text(encoding="utf-8")


def measuring_script() -> str:
    """Return the script that measures kernels on a GPU with torch and fills kernel tables."""
    return (files(__package__) / "templates" / "measure_torch.py.txt").read_text(encoding="utf-8")


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON schema of the files of a kind.

    Raises
    ------
    InputError
        If the kind does not exist, or is neither YAML nor JSON.
    """
    made = {"sweep": _sweep, "engine": _engine}
    if _known(kind) in made:
        return made[kind]()
    if kind not in SPECS:
        raise InputError("--schema", f"{kind} files are tables; their columns: docs/reference.md")
    module, name, title, named = SPECS[kind]
    return json_schema(getattr(import_module(f"...{module}", __package__), name), title, named)


def _known(kind: str) -> str:
    if kind not in TEMPLATES:
        reason = f"is not a kind of file{nearest(kind, TEMPLATES)}"
        raise InputError(f"KIND {kind!r}", reason)
    return kind


def _sweep() -> dict[str, Any]:
    """Return the JSON schema of a sweep's file."""
    from ...simulator.option import placed
    from ...simulator.scenario.scenario import Scenario
    from ..studies.sweep.point import PERCENTILES, SEEDS, parameters

    options = placed(Scenario)
    kinds = {int: "integer", float: "number"}
    base = {
        name: {
            "type": [kinds.get(options[name].option.kind, "string"), "null"],
            "description": options[name].option.text,
        }
        for name in parameters()
        if name not in (SEEDS, PERCENTILES)
    }
    base[PERCENTILES] = {"type": "string", "description": "Percentiles of latencies that the table has too: p95,p99.9."}
    base[SEEDS] = {"type": "integer", "description": "Runs of different seeds, of which means are taken."}
    inside = {r"^(system|model)\.": {"type": ["number", "string", "boolean", "null"]}}
    listed: dict[str, Any] = {"type": ["array", "object"]}
    return {
        "$schema": DIALECT, "title": "A sweep", "type": "object",
        "properties": {
            "title": {"type": "string"},
            "base": {"type": "object", "properties": base, "patternProperties": inside,
                     "additionalProperties": False},
            "axes": {"type": "object", "additionalProperties": listed},
            "samples": {"type": "integer", "minimum": 1},
            "seed": {"type": "integer", "minimum": 0},
            "constraints": {"type": "array", "items": {"type": "string"}},
            "objectives": {"type": "object", "additionalProperties": {"enum": ["max", "min"]}},
        },
        "required": ["axes"], "additionalProperties": False,
    }  # fmt: skip


def _engine() -> dict[str, Any]:
    """Return the JSON schema of engine files, with the keys that are read; all other keys are ignored."""
    from ...simulator.frameworks.engine_file import KEYS

    properties: dict[str, Any] = {}
    for engine, (keys, only) in KEYS.items():
        for key in keys:
            entry = properties.setdefault(key, {})
            if key in only:
                value, why = only[key]
                said = f"{engine}: only {value!r}: {why}."
                entry["description"] = " ".join(filter(None, (entry.get("description"), said)))
    return {"$schema": DIALECT, "title": "Settings of a serving engine", "type": "object", "properties": properties}
