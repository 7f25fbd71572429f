"""Types of the options of a scenario as keywords, for the checkers of users' scripts.

A ``TypedDict`` cannot be made from fields where a checker would see it, so the module is written:
``python -m opbyte.analysis.manual``; a test holds it to the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

from ...simulator.option import PlacedOption, options_of
from ...simulator.registry import PARTS as REGISTERED
from ...simulator.scenario.options import DeployOptions, EngineOptions, FleetOptions, Workload
from ...simulator.scenario.scenario import Scenario

CORE = (Workload, EngineOptions, DeployOptions, FleetOptions)
PARTS = {name: part.options for name, part in REGISTERED.items() if part.options and part.scope == "run"}
"""Options of parts of a run; a deployment's are in `DeployOptions`."""
ALL = (*CORE, *PARTS.values())
UNPLANNED, UNSERVED = ("two-pools", "experts-apart", "autoscale"), ("kv-tiers", "two-pools", "experts-apart")
"""Parts that a plan, and a server, do not take."""
HEAD = '''\
"""Options of a scenario as keywords: what type each takes. Written by ``python -m opbyte.analysis.manual``."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

from ...devices.spec import SystemSpec
from ...workloads.model import ModelSpec
from ...workloads.requests.frames import Table

from ..option import PartOptions
from .options import (
{parts}
)

Name = str | os.PathLike[str] | None
Several = int | str | Sequence[int | str] | None
'''.format(parts="\n".join(f"    {name}," for name in sorted(part.__name__ for part in CORE)))
KINDS = {int: "int | None", float: "float | None", str: "str | None", tuple: "Sequence[str]", bool: "bool"}
FILES = ("host",)
"""Options that take a name or a file."""
VARIED = ("tp", "dp", "ep", "pp", "dtype", "kv_dtype", "policy", "token_budget")
"""Options of which a plan tries several values (`studies.plan`)."""
TRAINED = ("batch: int", "seq: int | None", "micro_batch: int", "zero: int", "recompute: str",
           "sequence_parallel: bool", "interleave: int", "dropout: bool", "cp: int", "pipeline_layout: str", "overlap_experts: bool",
           "overlap_tp: bool | None", "graphs: str",
           "schedule: str", "replicas: int", "offload: int", "offload_optimizer: bool", "offload_modules: str", "cp_exchange: str", "moment_bits: int", "gradient_bits: int", "loss: str", "mtp: int | None", "bf16_first: int", "bf16_last: int")  # fmt: skip
"""Options of `train` in addition to a deployment's."""
APART = ("host", "strict")
"""Options of a deployment that a server, which has its own host, does not accept."""


def module() -> str:
    """Return the whole source of the generated module."""
    deploy = list(options_of(DeployOptions))
    scenario_options = [p for p in options_of(Scenario) if not p.group and p.name not in ("model", "system")]
    groups = [f"{f.name}: {f.type}" for f in fields(Scenario) if f.default_factory in CORE]
    classes = [
        ("DeployedKeywords", ("TypedDict",), _lines(p for p in deploy if p.name not in APART),
         "The `DeployOptions` of a server."),
        *((_of(part), ("DeployedKeywords",), _lines(p for p in deploy if p.name in APART), _those(part))
          if part is DeployOptions
          else (_of(part), ("TypedDict",), _lines(options_of(part)), _those(part))
          for part in ALL),
        ("ScenarioKeywords", tuple(map(_of, ALL)), [*groups, "parts: PartOptions", *_lines(scenario_options)],
         "All of a `Scenario`, and whole parts."),
        ("StepKeywords", (_of(DeployOptions), _of(PARTS["drafts"])), [], "Of one step."),
        ("ChangeKeywords", ("ScenarioKeywords",),
         ["model: Name | ModelSpec", "system: Name | SystemSpec"], "The same with model and system."),
        ("TrainKeywords", (_of(DeployOptions),), TRAINED, "Of `train`."),
        ("PlanKeywords", (_of(Workload), _of(FleetOptions), *_without(UNPLANNED)),
         [*_lines(p for p in (*options_of(EngineOptions), *deploy, *scenario_options) if p.name not in VARIED),
          *(f"{name}: Several" for name in VARIED)],
         "Of a plan: some options may have several values, a list or a text with commas."),
        ("ServedKeywords", ("DeployedKeywords", _of(EngineOptions), _of(FleetOptions), *_without(UNSERVED)),
         ["seed: int"], "Of a server."),
    ]  # fmt: skip
    return "\n\n".join([HEAD, *(_class(*described) for described in classes)])


def _without(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_of(part) for name, part in PARTS.items() if name not in names)


def _of(part: type) -> str:
    return f"{part.__name__}Keywords"


def _those(part: type) -> str:
    return f"Those of `{part.__name__}`."


def _class(name: str, bases: Iterable[str], lines: Iterable[str], text: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    words = f'class {name}({", ".join(bases)}, total=False):\n    """{text}"""\n'
    return f"{words}\n{body}" if body else words


def _lines(options: Iterable[PlacedOption]) -> Iterator[str]:
    for p in options:
        kind = "Name" if p.option.file or p.name in FILES else KINDS[p.option.kind]
        if p.option.table:
            kind = "Name | Table"
        if p.option.choices:
            kind = f"Literal[{', '.join(map(repr, p.option.choices))}] | None".replace("'", '"')
        yield f"{p.name}: {kind if p.default is None else kind.removesuffix(' | None')}"
