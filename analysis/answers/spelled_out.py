"""A model, a batching policy or a serving engine, spelled out (``opbyte show``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ...simulator.batching.policies import POLICIES
from ...simulator.frameworks.engine_file import ENGINES, KEYS, engine_of
from ...workloads.catalog import catalog_entry
from ..show.result import Result
from ..show.text import Blocks, Rows

LAYOUT = ("tp", "dp", "ep", "pp")
"""Engine settings that define the layout of a model on its devices."""


@dataclass(frozen=True, slots=True)
class SpelledOut(Result):
    """The meaning of a name; see `spelled_out`.

    Attributes
    ----------
    name, heading : str
        The heading says what it is, and where its numbers come from.
    tree : mapping
        Every key with its value.
    """

    name: str
    heading: str
    tree: Mapping[str, Any]

    def text(self) -> str:
        """The same as YAML; of a model, a file that describes the same one."""
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


def spelled_out(name: str) -> SpelledOut | None:
    """Look up a model, a policy or an engine by name; None if it is unknown.

    Of a name that both a policy and an engine have, the engine, which holds the policy.
    """
    entry = catalog_entry(name)
    if entry is not None:
        return SpelledOut(entry.name, f"{entry.title}. Source: {entry.source}", entry.config)
    if name in ENGINES:
        return _engine(name)
    base = name.partition("+")[0]
    if base in POLICIES:
        heading = f"A batching policy: {POLICIES.title(base)}. What its keys mean: docs/schedulers.md"
        return SpelledOut(base, heading, _plain(asdict(POLICIES[base])))
    return None


def _engine(name: str) -> SpelledOut:
    """Defaults of an engine, the keys of its file that are read, and those that may have one value."""
    engine = engine_of(Path("engine.json"), {"engine": name})
    keys, only = KEYS[name]
    settings = {
        field: _plain(asdict(value) if is_dataclass(value) else value)  # type: ignore[arg-type]  # of no class, but of its object
        for field in engine.__dataclass_fields__
        if field not in (*LAYOUT, "given", "doubts", "device_name", "engine")
        and (value := getattr(engine, field)) is not None
    }
    tree = {
        "engine": name, **settings, "keys": sorted(keys),
        "only": {key: {"value": _plain(value), "why": why} for key, (value, why) in only.items()},
    }  # fmt: skip
    heading = (
        f"Engine {name}: what holds where its file says nothing, and the keys that are read from one "
        "(docs/reference.md); layouts are the system's"
    )
    return SpelledOut(name, heading, tree)


def _plain(value: Any) -> Any:
    """A value as YAML writes it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
