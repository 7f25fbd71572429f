"""Placement of experts from options: the maps of a model's layers, and the deployment with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....devices.spec import SystemSpec
from ....workloads.csvfile import numbers, read_whole
from ....workloads.errors import InputError, nearest, reason_of
from ....workloads.model import ModelSpec
from ...deploy.expert_maps import DISPATCHES, EMPTY, F8, I8, Dispatch, ExpertMap, Sites, check_dispatch, dispatch
from ...deploy.expert_parts import ExpertPart, sites_of
from ...deploy.layout import Layout
from .policies import MAP_POLICIES

FILE = "file"
"""Policy whose maps are read: ``file:PATH``."""
COLUMNS = ("layer", "expert", "device")
MOST = 4095
"""Largest number of a layer, expert or device in a file."""


@dataclass(frozen=True, slots=True)
class ExpertPlacing:
    """A policy, copies and a dispatch rule.

    Attributes
    ----------
    policy : str
        A name of `policies.MAP_POLICIES`, or ``file:PATH``.
    redundant : int
        Copies of experts of a layer over all devices.
    dispatch : str
        One of `dispatch.DISPATCHES`.
    read : tuple of int64 arrays
        Maps of a file, one a MoE layer: groups by slots.
    """

    policy: str
    redundant: int = 0
    dispatch: str = DISPATCHES[0]
    read: tuple[I8, ...] = ()

    def copies(self, experts: int, groups: int, where: str) -> int:
        """Return the slots of each group for copies, in addition to its own experts.

        Raises
        ------
        InputError
            Copies that groups cannot share evenly, or a file of other groups than `where` has.
        """
        if self.read:
            have, slots = self.read[0].shape
            if have != groups:
                raise InputError(
                    f"--expert-placement {self.policy}",
                    f"has devices 0 to {have - 1}, but the experts of {where} are distributed to {groups} groups of devices; number these from 0",
                )
            return max(int(slots) - experts // groups, 0)
        if groups == 1:
            raise InputError(
                "--expert-placement",
                f"has no effect with ep 1: all experts of {where} are in one group of devices; set --ep",
            )
        if (experts + self.redundant) % groups:
            raise InputError(
                "--redundant-experts",
                f"must fill the {groups} groups that hold experts on {where} alike: {experts} experts and "
                f"{self.redundant} copies are not a multiple of {groups}",
            )
        return (experts + self.redundant) // groups - experts // groups

    def placed(self, loads: F8, sites: Sites, layer: int) -> Dispatch:
        """The map of a layer and what its slots serve.

        Parameters
        ----------
        loads : float64 array, shape (experts,)
            Tokens of each expert that the map is made from, in any unit.
        layer : int
            Which MoE layer; maps of a file are used in turn.

        Raises
        ------
        InputError
            A map that names an expert that there is not, or none for some expert; a policy that needs other nodes.
        """
        if self.read:
            read = self.read[layer % len(self.read)]
            wide = np.full((sites.groups, sites.slots), EMPTY, dtype=np.int64)
            wide[:, : read.shape[1]] = read
            try:
                return dispatch(ExpertMap(sites, wide), self.dispatch)
            except InputError as error:
                path = self.policy.partition(":")[2]
                raise InputError(f"{path}: layer {layer % len(self.read)}", error.reason) from None
        if MAP_POLICIES[self.policy].needs_nodes and not sites.distributes_by_node:
            raise InputError(
                f"--expert-placement {self.policy}",
                f"needs groups of experts (n_group) that {sites.whole_nodes} nodes divide; the model has "
                f"{sites.expert_groups}: use eplb or balanced",
            )
        try:
            slots = np.array(MAP_POLICIES[self.policy].make(loads.copy(), sites), dtype=np.int64)
            return dispatch(ExpertMap(sites, slots), self.dispatch)
        except Exception as error:  # whatever a policy from outside raises
            where = f"expert placement {self.policy!r}"
            raise InputError(where, f"returns no valid map of experts ({reason_of(error)})") from error


def expert_placing(policy: str | None, redundant: int | None, rule: str | None) -> ExpertPlacing | None:
    """Return the expert placement that the options describe, or None without such options.

    Redundant experts without a policy are placed by ``balanced``. A dispatch rule acts only on redundant experts.

    Raises
    ------
    InputError
        An unknown policy or rule, or a file that cannot be used.
    """
    if rule is not None:
        check_dispatch(rule)
    if policy is None and redundant is None:
        if rule is not None:
            raise InputError("--expert-dispatch", "needs --expert-placement or --redundant-experts too")
        return None
    name = policy or "balanced"
    kind, colon, path = name.partition(":")
    if colon or kind == FILE:
        if kind != FILE or not path:
            raise InputError(
                f"--expert-placement {name!r}", "must be file:PATH or a name of `opbyte list expert-placements`"
            )
        if redundant is not None:
            raise InputError("--redundant-experts", f"cannot be combined with {name}, which has its own copies")
        try:
            return ExpertPlacing(name, 0, rule or DISPATCHES[0], read_maps(Path(path)))
        except InputError as error:
            raise InputError(f"--expert-placement {FILE}:{error.subject}", error.reason) from None
    if kind not in MAP_POLICIES:
        reason = f"unknown expert placement{nearest(kind, [*MAP_POLICIES, FILE])}"
        raise InputError(f"--expert-placement {name!r}", reason)
    return ExpertPlacing(name, redundant or 0, rule or DISPATCHES[0])


def read_maps(path: Path) -> tuple[I8, ...]:
    """Maps from a CSV with columns layer, expert and device, a row for each copy of an expert.

    A device may have two of one expert, as EPLB makes them where one expert has most of the load.

    Layers are MoE layers, from 0 and none left out; devices are groups that hold experts, from 0.

    Raises
    ------
    InputError
        What is wrong, with file and line.
    """
    columns = read_whole(path, COLUMNS)
    layers, experts, devices = (numbers(columns[name], 0, MOST, whole=True).astype(np.int64) for name in COLUMNS)
    if len(missing := np.flatnonzero(np.bincount(layers) == 0)):
        raise InputError(path, f"has no row for MoE layer {missing[0]}")
    rows = list(zip(layers.tolist(), experts.tolist(), devices.tolist(), strict=True))
    groups = int(devices.max()) + 1
    held: list[list[list[int]]] = [[[] for _ in range(groups)] for _ in range(layers.max() + 1)]
    for layer, expert, device in rows:
        held[layer][device].append(expert)
    slots = max(len(own) for layer in held for own in layer)
    return tuple(_filled(layer, slots) for layer in held)


def _filled(held: Sequence[Sequence[int]], slots: int) -> I8:
    """Experts of every group as an array, what is left over `EMPTY`."""
    return np.array([[*row, *[EMPTY] * (slots - len(row))] for row in held], dtype=np.int64)


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
