"""What a sweep can set: options of a scenario, and paths into the model's and system's specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....devices.catalog import describe_system
from ....devices.hosts.catalog import host_sources
from ....simulator.option import placed
from ....simulator.parts.two_pools.asked import counted
from ....simulator.scenario.load import CHANGED, changed_model, changed_system
from ....simulator.scenario.scenario import Scenario
from ....workloads.errors import InputError, nearest
from ...answers.identity import POOLS

SEEDS = "seeds"
"""A parameter in addition to the scenario's options: the mean over N seeds."""


def parameters() -> tuple[str, ...]:
    """Return the scenario options that a sweep may set: options with one value."""
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
            f"unknown parameter {name!r}{nearest(name, parameters())}; model.KEY and system.PATH reach into the specs",
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
            (name.partition(".")[2], value) for name, value in sorted(point.items()) if name.startswith(f"{head}.")
        )
        pooled = head == "system" and given.get("prefill") is not None
        if given.get(head) is None and not pooled:
            raise InputError(head, "is needed: give it in base or as an axis")
        if inside:
            given[head] = change(str(given[head]), inside)
    return Scenario.of(**given)


def systems_of(point: Mapping[str, Any]) -> str:
    """What a point runs on: its system, or its two pools."""
    names = ("system",) if "system" in point else POOLS
    experts = f" with experts on {point['experts_on']}" if point.get("experts_on") else ""
    return "+".join(str(point[name]) for name in names) + experts


def sources_of(point: Mapping[str, Any]) -> dict[str, str]:
    """Key path -> source of every constant of a point's system, those set by the sweep too.

    With two pools, the system is the decode system.
    """
    named = counted(str(point["decode"]), "")[0] if "system" not in point else point["system"]
    system, sources = describe_system(str(named))
    sources = sources | host_sources(system, point.get("host"))
    changed = {n.partition(".")[2] for n in point if n.startswith("system.")}
    return {**sources, **dict.fromkeys(changed, CHANGED)}
