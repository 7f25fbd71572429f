"""Deployments whose capacity is searched: single systems, and two pools in every ratio of their devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ...devices.catalog import load_system
from ...devices.spec import SystemSpec
from ...simulator.frameworks.launch import Start
from ...simulator.limits import MAX_REPLICAS
from ...simulator.parts.two_pools import PoolOptions
from ...simulator.parts.two_pools.asked import both, counted
from ...simulator.scenario import Scenario
from ...workloads.catalog import load_model
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count
from .loads import names_of

Axes = Mapping[str, Sequence[Any]]
"""Name of a choice -> its values; empty if the study uses its default values."""
STAGES = (1, 2)
"""Pipeline stages that are tried."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to serve a scenario.

    Attributes
    ----------
    name : str
        Name of two pools; empty for a system, which has its own. Replicas apply to systems; pools state their number.
    systems : tuple of str or Path
        The system, or the systems of both pools.
    counts : tuple of int
        Number of each system.
    options : mapping of str to object
        Scenario options of this variant.
    experts_on : str or Path, optional
        The system that stores the experts of each decoding system.
    """

    name: str
    systems: tuple[str | Path, ...]
    counts: tuple[int, ...]
    options: Mapping[str, Any]
    experts_on: str | Path | None = None

    @property
    def devices(self) -> int:
        """Return the number of devices of all systems."""
        total = sum(n * _devices(s) for n, s in zip(self.counts, self.systems, strict=True))
        return total if self.experts_on is None else total + self.counts[-1] * _devices(self.experts_on)


def variants(systems: Sequence[str | Path] | str | None, scenario: Scenario, devices: int | None) -> list[Variant]:
    """Return a variant for each system of a list or comma-separated text, and for the two pools of the scenario.

    Raises
    ------
    InputError
        There are neither systems nor pools, or no ratio of the pools has this number of devices.
    """
    paired, experts_on = scenario.parts.asks("two-pools"), scenario.parts["experts-apart"].experts_on
    if systems is None and not paired:
        raise InputError(
            "--systems", "needs comma-separated names, for example h100-x4,duplex-x4; or --prefill and --decode"
        )
    if devices is not None and not paired:
        raise InputError("--devices", "belong to two pools: add --prefill and --decode")
    if devices is not None and experts_on is not None:
        raise InputError("--devices", "cannot be combined with --experts-on; name both pools and remove it")
    # Systems that are listed in addition to two pools do prefill and decode.
    alone = {"parts": scenario.parts.having("two-pools").having("experts-apart")} if paired else {}
    lone = [Variant("", (x,), (1,), {"system": x, **alone}) for x in ([] if systems is None else names_of(systems))]
    split = _pairs(scenario.parts["two-pools"], devices) if paired else lone
    if experts_on is not None:
        split = [_with_experts_on(variant, experts_on) for variant in split]
    return [*lone, *split] if paired else split


def laid_out(listed: Sequence[Variant], scenario: Scenario, search: str) -> list[Variant]:
    """Return the systems in every layout that `plan` would try.

    Raises
    ------
    InputError
        `search` is not ``layouts``, a variant has pools, or the scenario sets a parallel degree.
    """
    if search != "layouts":
        raise InputError("--search", f"must be layouts, not {search!r}")
    if any(len(variant.systems) > 1 or variant.experts_on for variant in listed):
        raise InputError("--search", "applies to systems, not to pools; use only --systems")
    given = [n for n in ("tp", "dp", "ep", "pp") if getattr(scenario.deployment, n) is not None]
    if given:
        raise InputError(f"--{given[0]}", "is set by --search layouts; remove one")
    model = scenario.model
    assert model is not None
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    return [
        replace(variant, options={**variant.options, "tp": s.tp, "dp": s.dp, "ep": s.ep, "pp": s.pp})
        for variant in listed
        for s in layouts(load_system(variant.systems[0]), spec, {}, False)
    ]


def _with_experts_on(variant: Variant, system: str | Path) -> Variant:
    """Return a variant with the experts on another system."""
    name = variant.name or str(variant.systems[0])
    return replace(variant, name=f"{name} with experts on {system}", experts_on=system)


def _pairs(pools: PoolOptions, devices: int | None) -> list[Variant]:
    """Return the two pools as given, or in every ratio with `devices` devices in total."""
    prefill, decode = both(pools)
    sides = counted(prefill, "--prefill"), counted(decode, "--decode")
    names = sides[0][0], sides[1][0]
    if devices is None:
        return [_pair(names, (sides[0][1], sides[1][1]))]
    check_count(devices, "--devices", 2, 2 * MAX_REPLICAS)
    for flag, (name, count) in zip(("--prefill", "--decode"), sides, strict=True):
        if count != 1:
            raise InputError(
                flag, f"must not have a number xN with --devices, which sets the number of systems: {name}"
            )
    sizes = _devices(names[0]), _devices(names[1])
    pairs_found = [
        _pair(names, (n, (devices - n * sizes[0]) // sizes[1]))
        for n in range(1, (devices - 1) // sizes[0] + 1)
        if (devices - n * sizes[0]) % sizes[1] == 0
    ]
    if not pairs_found:
        raise InputError(
            "--devices", f"{devices} is not the sum of systems {names[0]} ({sizes[0]} devices) and "
            f"{names[1]} ({sizes[1]}), at least one of each",
        )  # fmt: skip
    return pairs_found


def _pair(names: tuple[str, str], counts: tuple[int, int]) -> Variant:
    texts = [f"{name}x{count}" for name, count in zip(names, counts, strict=True)]
    shown = [name if n == 1 else text for name, n, text in zip(names, counts, texts, strict=True)]
    options = {"prefill": texts[0], "decode": texts[1], "replicas": None}
    return Variant("+".join(shown), names, counts, options)


def _devices(name: str | Path) -> int:
    system = load_system(name)
    return system.nodes * system.devices_per_node


def layouts(system: SystemSpec, model: ModelSpec, axes: Axes, lone: bool) -> Iterator[Start]:
    """Yield the parallel degrees whose product is the number of devices of a system."""
    devices, node = system.groups, system.groups_per_node
    slices = [2**i for i in range(node.bit_length()) if node % 2**i == 0]
    routed = any(p.routed.spreads for layer in model.layers for p in layer.expert_parts)
    for pp, tp in product(axes.get("pp") or STAGES, axes.get("tp") or slices):
        if devices % (pp * tp) or pp > len(model.layers):
            continue
        dp = devices // (pp * tp)
        if dp not in (axes.get("dp") or (dp,)):
            continue
        if not axes.get("dp") and dp > 1 and (pp > 1 or (lone and not routed)):
            continue
        groups = (axes.get("ep") or dict.fromkeys((1, tp * dp))) if routed else (1,)
        yield from (Start(tp, dp, ep, pp) for ep in groups if (tp * dp) % ep == 0)
