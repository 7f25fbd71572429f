"""The content of a report, chosen by the result's type; at its end the cost models, and every constant with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

from ...devices.spec import SystemSpec
from ...workloads.specfile import to_si
from ..answers.evidence import evidence, evidence_rows, used_sources
from ..show.result import ReportSection, Rests, Result
from ..show.text import Records, show


@singledispatch
def sections(result: Result) -> Sequence[ReportSection]:
    """Return a report's default sections: the drawings and printed blocks, then the evidence of its systems."""
    rests = [section for rests in result.rests() for section in rests_section(rests)]
    return [ReportSection("Result", [*result.drawings(), *result.blocks()]), *rests]


def rests_section(rests: Rests) -> list[ReportSection]:
    """Return the evidence of a system's cost models, if there is a deployment, and the system's constants."""
    name, sources, deployment = rests.system.name, rests.sources, rests.deployment
    if deployment is None:
        return [constants_section(rests.system, sources, f"{name}: constants")]
    models = evidence(deployment, sources)
    known = used_sources(sources, deployment.model.numerics)
    return [
        ReportSection(f"{name}: evidence", [evidence_rows(models, name)]),
        constants_section(rests.system, known, f"{name}: constants"),
    ]


def constants_section(system: SystemSpec, sources: Mapping[str, str], title: str) -> ReportSection:
    """Return a section with a table of all constants of a system."""
    rows = constant_rows(system, sources)
    if not rows:
        return ReportSection(title, ["The system was given as an object, without its sources."])
    return ReportSection(title, [rows], folded=len(rows))


def constant_rows(system: SystemSpec, sources: Mapping[str, str]) -> Records:
    """Return every constant of a system as a row: its value in the unit of its key, and its source.

    Fitted parameters of kernel models are counted by family: their files list them.
    """
    tree = system.model_dump()
    rows: Records = []
    fitted: dict[str, int] = {}
    for key, source in sorted(sources.items()):
        parts = key.split(".")
        if "calibration" in parts:
            family = parts[parts.index("calibration") + 1]
            fitted[family] = fitted.get(family, 0) + 1
            continue
        value = _value_of(tree, parts)
        assumed = source.lower().startswith("assum")
        rows.append(
            {
                "constant": key.removeprefix("device."),
                "value": show(value) if value is not None else None,
                "kind": "assumed" if assumed else "sourced",
                "source": source,
            }
        )
    for family, count in fitted.items():
        rows.append(
            {
                "constant": f"calibration.{family}", "value": f"{count} numbers", "kind": "fitted",
                "source": f"devices/specs/calibrated/{system.device.name}.yaml",
            }
        )  # fmt: skip
    return rows


def _value_of(tree: Any, parts: Sequence[str]) -> Any:
    """Return the number at a key path, converted from SI to the unit of the path."""
    node, factor = tree, 1.0
    at = 0
    while at < len(parts) and isinstance(node, Mapping):
        for end in range(len(parts), at, -1):  # a processor's name may hold a dot
            field, si_field = to_si(".".join(parts[at:end]))
            if field in node:
                node, at = node[field], end
                factor = si_field if si_field != 1.0 else factor
                break
        else:
            return None
    if isinstance(node, (int, float)) and not isinstance(node, bool):
        return node / factor if factor != 1.0 else node
    return None
