"""Experts of a deployment, placed as a policy says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ....devices.spec import SystemSpec
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ...deploy.expert_parts import ExpertPart, sites_of
from ...deploy.layout import Layout
from .placing import ExpertPlacing, expert_placing


def placing_asked(_: object, said: Callable[[str], Any]) -> ExpertPlacing | None:
    """A placement of experts as options or an engine's file say."""
    return expert_placing(said("expert_placement"), said("redundant_experts"), said("expert_dispatch"))


def checked_placing(placing: ExpertPlacing, model: ModelSpec, system: SystemSpec, layout: Layout) -> ExpertPlacing:
    """Refuse a placement of experts where there are none to place.

    Raises
    ------
    InputError
    """
    where = "--expert-placement"
    if not any(part.routed.spreads for layer in model.layers for part in layer.expert_parts):
        raise InputError(where, f"{model.name} has no experts that can be distributed over devices; remove the option")
    if system.mapping.separate:
        reason = "cannot be combined with a system whose processors are separate devices"
        raise InputError(where, f"{reason}, as on {system.name}")
    if layout.gather and placing.dispatch != "any":
        reason = "must be any here: the ranks gather all tokens, so every copy of an expert receives them"
        raise InputError("--expert-dispatch", reason)
    return placing


def copies_of(placing: ExpertPlacing, layout: Layout, system: SystemSpec) -> Callable[[int], int]:
    """Return the additional experts of a device, from the experts of a layer."""
    return lambda experts: placing.copies(experts, layout.dealt(experts)[0], system.name)


def place_experts(
    placing: ExpertPlacing, parts: Sequence[ExpertPart], layout: Layout, system: SystemSpec
) -> tuple[ExpertPart, ...]:
    """Give every part whose experts spread its map, made from the router's long-run popularity."""
    out, layer = [], 0
    for part in parts:
        if part.spec.routed.spreads:
            sites = sites_of(part, placing, layout, system)
            loads = part.router.inclusion[part.row]
            part = replace(part, placed=placing.placed(loads, sites, layer))
        layer += part.layers
        out.append(part)
    return tuple(out)
