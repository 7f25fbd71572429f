"""Kinds of files that OpByte reads: their templates and their schemas for editors."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from typing import Any

from ...workloads.errors import InputError, nearest
from .schema import DIALECT, json_schema

TEMPLATES = {
    "device": "device.yaml", "system": "system.yaml", "host": "host.yaml",
    "memory": "memory.yaml", "sweep": "sweep.yaml", "engine": "engine.json",
    "kernels": "kernels.csv",
}  # fmt: skip
"""Kind -> file in `templates`."""


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
    """A commented file of a kind that works as it is.

    Raises
    ------
    InputError
        No such kind.
    """
    return (files(__package__) / "templates" / TEMPLATES[_known(kind)]).read_text(encoding="utf-8")


def measuring_script() -> str:
    """The script that fills kernel tables on a GPU with torch."""
    return (files(__package__) / "templates" / "measure_torch.py.txt").read_text(encoding="utf-8")


def schema(kind: str) -> dict[str, Any]:
    """JSON schema of the files of a kind.

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
    """Return the names of the keys that are read; others are ignored, as real engines have many more."""
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
