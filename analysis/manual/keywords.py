"""Types of the options of a scenario as keywords, for the checkers of users' scripts.

A ``TypedDict`` cannot be made from fields where a checker would see it, so the module is written:
``python -m opbyte.analysis.manual``; a test holds it to the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

from ...simulator.scenario.option import Placed, options_of
from ...simulator.scenario.parts import (
    DeployOptions,
    EngineOptions,
    FleetOptions,
    PoolOptions,
    SpeculationOptions,
    Workload,
)
from ...simulator.scenario.scenario import Scenario

HEAD = '''\
"""Options of a scenario as keywords: what type each takes. Written by ``python -m opbyte.analysis.manual``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from .parts import (
    DeployOptions,
    EngineOptions,
    FleetOptions,
    PoolOptions,
    SpeculationOptions,
    Workload,
)

if TYPE_CHECKING:
    from ...devices.spec import SystemSpec
    from ...workloads.model import ModelSpec

Name = str | os.PathLike[str] | None
'''
KINDS = {int: "int | None", float: "float | None", str: "str | None", tuple: "Sequence[str]",
         bool: "bool"}  # fmt: skip
FILES = ("host",)
"""Options that take a name or a file."""
PARTS = (Workload, EngineOptions, DeployOptions, SpeculationOptions, FleetOptions, PoolOptions)


def module() -> str:
    """The whole module."""
    parts = [_class(f"{part.__name__}Keywords", "TypedDict", _lines(options_of(part)), f"Those of `{part.__name__}`.")
             for part in PARTS]  # fmt: skip
    own = [p for p in options_of(Scenario) if not p.group and not p.option.argument]
    own = [p for p in own if p.name != "system"]
    groups = [f"{f.name}: {f.type}" for f in fields(Scenario)
              if f.default_factory in PARTS]  # fmt: skip
    bases = ", ".join(f"{part.__name__}Keywords" for part in PARTS)
    parts.append(
        _class(
            "ScenarioKeywords",
            bases,
            [*groups, *_lines(own)],
            "All of a `Scenario`, and whole parts.",
        )
    )
    parts.append(
        _class("StepKeywords", "DeployOptionsKeywords, SpeculationOptionsKeywords", [],
               "Of one step.")
    )  # fmt: skip
    ends = ("model: Name | ModelSpec", "system: Name | SystemSpec")
    parts.append(
        _class("ChangeKeywords", "ScenarioKeywords", ends, "The same with model and system.")
    )
    deploy = [p for p in options_of(DeployOptions) if p.name not in ("host", "strict")]
    parts.append(
        _class("ServedKeywords", "EngineOptionsKeywords, SpeculationOptionsKeywords, FleetOptionsKeywords",
               ["seed: int", *_lines(deploy)],
               "Of a server, which has a `host` of its own.")
    )  # fmt: skip
    return "\n\n".join([HEAD, *parts])


def _class(name: str, bases: str, lines: Iterable[str], text: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    told = f'class {name}({bases}, total=False):  # fmt: skip\n    """{text}"""\n'
    return f"{told}\n{body}" if body else told


def _lines(options: Iterable[Placed]) -> Iterator[str]:
    for p in options:
        kind = "Name" if p.option.file or p.name in FILES else KINDS[p.option.kind]
        yield f"{p.name}: {kind if p.default is None else kind.removesuffix(' | None')}"
