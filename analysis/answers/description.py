"""The meaning of a name; for a device, system or host a file that describes it (``opbyte show``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ...devices.catalog import describe_system, list_devices, load_device, suggestion
from ...devices.dram.spec import DramSpec, describe_memory, list_memories
from ...devices.hosts.catalog import list_hosts, load_host
from ...devices.hosts.spec import HostSpec
from ...devices.spec import DeviceSpec, SystemSpec
from ...simulator.engine.policies import POLICIES
from ...simulator.frameworks.engine_file import ENGINES, KEYS, engine_of
from ...workloads.catalog import catalog_entry
from ...workloads.errors import InputError, SpecError
from ...workloads.specfile import to_si
from ...workloads.yamlfile import read_yaml
from ..show.result import Result
from ..show.text import Blocks, Records, Rows

HEADING = "Whole description, nothing extended; its name is not the catalog's, so that it can be used."
LEFT_OUT = ("calibration", "aliases")
"""Keys that only catalog entries may have, and that the output omits: fits (`kernels` names the shared ones), aliases."""
PREFIX = "my-"
OTHERS = {"axes": ("a sweep", "opbyte sweep"), "engine": ("an engine file", "opbyte simulate --engine")}
"""Files that `describe` refuses: a key that identifies the kind of file -> its name, and the command that reads it."""
COUNTS = ("devices_per_node", "nodes")
"""Keys that a system's name such as ``h100-2x8`` already determines."""


@dataclass(frozen=True, slots=True)
class Shown(Result):
    """A description with the source of every number; see `describe`."""

    spec: DeviceSpec | SystemSpec | HostSpec | DramSpec
    sources: Mapping[str, str]

    @property
    def tree(self) -> dict[str, Any]:
        """Return the description as the mapping of its file: keys with units, and numbers with their sources."""
        return _written(self.spec, self.sources)

    @property
    def name(self) -> str:
        """The name of the file."""
        return str(self.tree["name"])

    def text(self) -> str:
        """Return the description as the text of a YAML file."""
        body = yaml.safe_dump(self.tree, sort_keys=False, width=100, allow_unicode=True)
        return f"# {HEADING}\n{body}"

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.spec.name, "description": self.tree}

    def rows(self) -> Records:
        return [{"key": key, "source": source} for key, source in self.sources.items()]

    def blocks(self) -> Blocks:
        return [self.text()]


def describe(name: str | Path) -> Shown | SpelledOut:
    """Look up a device, system, host or memory by name or file, or a model, space, policy or engine by name.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if isinstance(name, str) and name in list_devices():
        return Shown(*load_device(name))
    if str(name).lower() in list_hosts() or _kind(name) == "host":
        return Shown(*load_host(name))
    if str(name).lower() in list_memories() or _is_memory(name):
        return Shown(*describe_memory(name))
    if Path(name).is_file():  # so that the error is about the file's contents, not about an unknown name
        values = read_yaml(Path(name))
        _refuse_others(name, values)
        return Shown(*(describe_system if "device" in values else load_device)(name))
    try:
        return Shown(*load_device(name))
    except SpecError:
        try:
            return Shown(*describe_system(name))
        except InputError as error:
            named = spelled_out(str(name))
            if named is not None:
                return named
            near = suggestion(str(name)) or "; see opbyte list devices, or another list"
            reason = f"is not a device, system, host, memory, model, space, policy or engine{near}"
            raise InputError(repr(str(name)), reason) from error


def _refuse_others(name: str | Path, values: Mapping[str, Any]) -> None:
    """Refuse a file of another kind, and name the command that reads it."""
    kind, command = next((other for key, other in OTHERS.items() if key in values), ("", ""))
    if kind:
        raise InputError(
            name, f"is {kind}; show takes a device, system, host or memory. For this file: {command} {name}"
        )


def _is_memory(name: str | Path) -> bool:
    """Return whether a file describes a memory: it has timings, or extends a memory of the catalog."""
    path = Path(name)
    values = read_yaml(path) if path.is_file() else {}
    return "timings" in values or str(values.get("extends")) in list_memories()


def _kind(name: str | Path) -> object:
    """Return the value of a file's key ``kind``; None if the path is not a file."""
    path = Path(name)
    return read_yaml(path).get("kind") if path.is_file() else None


def _written(spec: DeviceSpec | SystemSpec | HostSpec | DramSpec, sources: Mapping[str, str]) -> dict[str, Any]:
    """Return a description with the keys and units of its file, without numbers that equal the schema's defaults."""
    values = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    _drop(values)
    out: dict[str, Any] = _plain(values)
    for named in (out, out.get("device", {})):
        if "name" in named:
            named["name"] = PREFIX + named["name"]
    for key, source in sources.items():
        _put(out, values, key, source)
    for key in COUNTS:
        if key in values:
            out.setdefault(key, {"value": values[key], "source": "the system's name"})
    return out


def _drop(values: dict[str, Any]) -> None:
    for name in LEFT_OUT:
        values.pop(name, None)
    if isinstance(values.get("device"), dict):
        _drop(values["device"])


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a description that are not numbers: names, texts and switches."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            inner = _plain(value)
            if inner:
                out[key] = inner
        elif isinstance(value, list):
            out[key] = [_plain(item) if isinstance(item, dict) else item for item in value]
        elif isinstance(value, (str, bool)):
            out[key] = value
    return out


def _put(out: dict[str, Any], values: Mapping[str, Any], key: str, source: str) -> None:
    """Write one number with its source into `out`, under the key path `key`; skip numbers that another file replaces."""
    node: Any = values
    parts: list[Any] = []
    rest, factor = key.replace("[", ".[").split("."), 1.0
    if "calibration" in rest:
        return
    while rest and isinstance(node, (dict, list)):
        if isinstance(node, list):  # [0] of a list
            parts.append(int(rest[0][1:-1]))
            node, rest = node[parts[-1]], rest[1:]
            continue
        for end in range(len(rest), 0, -1):  # a name may hold a dot
            field, si_field = to_si(".".join(rest[:end]))
            if field in node:
                parts.append(".".join(rest[:end]))
                node, rest = node[field], rest[end:]
                factor = si_field if si_field != 1.0 else factor
                break
        else:
            return  # a default, or a number that another file replaces
    if isinstance(node, bool) or not isinstance(node, (int, float)):
        return
    place: Any = out
    for part in parts[:-1]:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    value = node if factor == 1.0 else float(f"{node / factor:.12g}")
    place[parts[-1]] = {"value": value, "source": source}


LAYOUT = ("tp", "dp", "ep", "pp")
"""Engine settings that define the layout of a model on its devices."""


@dataclass(frozen=True, slots=True)
class SpelledOut(Result):
    """The meaning of a name; see `spelled_out`.

    Attributes
    ----------
    name, heading : str
        The heading names the kind of entry and the source of its numbers.
    tree : mapping
        Every key with its value.
    """

    name: str
    heading: str
    tree: Mapping[str, Any]

    def text(self) -> str:
        """Return the tree as YAML; for a model, as a file that describes it."""
        body = yaml.safe_dump(dict(self.tree), sort_keys=False, width=100, allow_unicode=True)
        return f"# {self.heading}\n{body}"

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "description": dict(self.tree)}

    def rows(self) -> Rows:
        return [{"key": key, "value": value} for key, value in self.tree.items()]

    def blocks(self) -> Blocks:
        return [self.text()]

    def report_title(self) -> str:
        return f"{self.name}: {self.heading}"


def spaces() -> dict[str, Path]:
    """Return the files of the package's design spaces by name; `analysis.studies.design` searches them."""
    folder = Path(str(files("opbyte.analysis.studies.design") / "spaces"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def spelled_out(name: str) -> SpelledOut | None:
    """Look up a model, a space, a policy or an engine by name; None if it is unknown.

    If both a policy and an engine have the name, the engine is returned; its settings include the policy.
    """
    entry = catalog_entry(name)
    if entry is not None:
        return SpelledOut(entry.name, f"{entry.title}. Source: {entry.source}", entry.config)
    if name in spaces():
        heading = "A space of designs; opbyte design FILE searches an edited copy (docs/design.md)"
        return SpelledOut(name, heading, read_yaml(spaces()[name]))
    if name in ENGINES:
        return _engine(name)
    base = name.partition("+")[0]
    if base in POLICIES:
        heading = f"A batching policy: {POLICIES.title(base)}. What its keys mean: docs/schedulers.md"
        return SpelledOut(base, heading, _as_yaml(asdict(POLICIES[base])))
    return None


def _engine(name: str) -> SpelledOut:
    """Return an engine's defaults, the keys of its file that are read, and the keys that accept only one value."""
    engine = engine_of(Path("engine.json"), {"engine": name})
    keys, only = KEYS[name]
    settings = {
        field: _as_yaml(asdict(value) if is_dataclass(value) else value)  # type: ignore[arg-type]  # of no class, but of its object
        for field in engine.__dataclass_fields__
        if field not in (*LAYOUT, "given", "doubts", "device_name", "engine")
        and (value := getattr(engine, field)) is not None
    }
    tree = {
        "engine": name, **settings, "keys": sorted(keys),
        "only": {key: {"value": _as_yaml(value), "why": why} for key, (value, why) in only.items()},
    }  # fmt: skip
    heading = (
        f"Engine {name}: what holds where its file says nothing, and the keys that are read from one "
        "(docs/reference.md); layouts are the system's"
    )
    return SpelledOut(name, heading, tree)


def _as_yaml(value: Any) -> Any:
    """Return a value as plain lists, mappings and scalars, which YAML can write."""
    if isinstance(value, Mapping):
        return {str(key): _as_yaml(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_yaml(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
