"""Kinds of files that OpByte reads: their templates and their schemas for editors."""

from __future__ import annotations

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
    made = {"device": _device, "system": _system, "host": _host, "memory": _memory, "sweep": _sweep, "engine": _engine}
    if _known(kind) not in made:
        raise InputError("--schema", f"{kind} files are tables; their columns: docs/reference.md")
    return made[kind]()


def _known(kind: str) -> str:
    if kind not in TEMPLATES:
        reason = f"is not a kind of file{nearest(kind, TEMPLATES)}"
        raise InputError(f"KIND {kind!r}", reason)
    return kind


def _device() -> dict[str, Any]:
    from ...devices.spec import DeviceSpec

    return json_schema(DeviceSpec, "A device")


def _system() -> dict[str, Any]:
    from ...devices.spec import SystemSpec

    named = {
        "device": "A catalog name, or a device's file.",
        "host": "A class of `opbyte list hosts`, or a host's file.",
    }
    return json_schema(SystemSpec, "A system", named)


def _host() -> dict[str, Any]:
    from ...devices.hosts.spec import HostSpec

    return json_schema(HostSpec, "A host")


def _memory() -> dict[str, Any]:
    from ...devices.dram.spec import DramSpec

    return json_schema(DramSpec, "A DRAM standard")


def _sweep() -> dict[str, Any]:
    from ...simulator.option import placed
    from ...simulator.scenario.scenario import Scenario
    from ..studies.sweep.parameters import SEEDS, parameters

    options = placed(Scenario)
    kinds = {int: "integer", float: "number"}
    base = {
        name: {
            "type": [kinds.get(options[name].option.kind, "string"), "null"],
            "description": options[name].option.text,
        }
        for name in parameters()
        if name != SEEDS
    }
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
