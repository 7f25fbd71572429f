"""What a plan chooses among: systems of given devices, layouts, formats and policies.

What is given stays; what is not is varied. A policy that is an engine's is run as that engine is started:
from an engine's file with the candidate's layout, so that a plan says no more than the engine can do.
Layouts of other policies are options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, is_path, list_devices, load_device
from ....devices.mapping import family
from ....devices.spec import SystemSpec
from ....simulator.frameworks.launch import FILES, Start, command_line, engine_values
from ....simulator.frameworks.sharing import NOTHING, Sharing
from ....simulator.scenario import Scenario
from ....workloads.catalog import catalog_entry
from ....workloads.digest import digest_of
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec

SIZES = (1, 2, 4, 8, 16)
"""Devices of a copy that are tried where only a device is named."""
STAGES = (1, 2)
"""Pipeline stages that are tried."""
POLICY = "vllm"
"""Policy where none is given."""
OWN = "own"
"""Format that the model comes in."""

Axes = Mapping[str, Sequence[Any]]
"""Name of a choice -> its values; empty where the plan tries its own."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One copy: a system with a layout, formats and a policy.

    Attributes
    ----------
    system : str or Path
    devices : int
    policy : str
    start : Start or None
        Layout, budget and formats; None where the system's own mapping lays the model out.
    token_budget : int or None
    dtype, kv_dtype : str or None
        None = the model's own.
    """

    system: str | Path
    devices: int
    policy: str
    start: Start | None
    token_budget: int | None
    dtype: str | None = None
    kv_dtype: str | None = None

    @property
    def engine(self) -> dict[str, Any] | None:
        """The engine's file; None where the policy is no engine's or the layout none of its."""
        if self.start is None or self.policy not in FILES:
            return None
        return engine_values(self.policy, self.start)

    @property
    def layout(self) -> str:
        """Degrees in words."""
        s = self.start
        if s is None:
            return "the system's own"
        parts = {"tp": s.tp, "dp": s.dp, "ep": s.ep, "pp": s.pp}
        return ", ".join(f"{k} {v}" for k, v in parts.items() if v > 1 or k == "tp")

    def scenario(self, base: Scenario, folder: Path, copies: int = 1) -> Scenario:
        """The scenario of some copies, its engine's file written to a folder."""
        changes: dict[str, Any] = {
            "system": self.system, "dtype": self.dtype, "kv_dtype": self.kv_dtype,
        }  # fmt: skip
        if copies > 1:
            changes["replicas"] = copies
        values = self.engine
        if values is not None:
            path = folder / f"{digest_of(tuple(sorted(map(str, values.items()))))}.json"
            path.write_text(json.dumps(values), encoding="utf-8")
            return base.changed(**changes, engine=path)
        if self.start is not None:
            changes |= {name: getattr(self.start, name) for name in ("tp", "dp", "ep", "pp")}
        return base.changed(**changes, policy=self.policy, token_budget=self.token_budget)

    def command(self, model: str) -> str | None:
        """How a copy is started; None where no engine's command says it."""
        values = self.engine
        if values is None:
            return None
        entry = catalog_entry(model)
        hub = next((name for name in entry.aliases if "/" in name), model) if entry else model
        line = command_line(self.policy, hub, values)
        left = self.start.unsaid(self.policy) if self.start is not None else []
        return f"{line}  # {self.policy} has no key for {', '.join(left)}" if left else line


def systems_of(name: str | Path) -> list[tuple[str | Path, SystemSpec]]:
    """A system by name or file, or those of `SIZES` of a device of the catalog.

    Raises
    ------
    InputError
        An unknown name, or a device without a system.
    """
    if isinstance(name, Path) or is_path(name):
        return [(name, describe_system(name)[0])]
    known = family(name)
    if known is None and name.lower() not in list_devices():
        return [(name, describe_system(name)[0])]
    device = load_device(known[0].device if known else name)[0]
    fewest = known[0].mapping.fewest(device) if known else 1
    node = device.node_size
    sizes = [n for n in SIZES if n >= fewest and (n <= node or n % node == 0)]
    named = [f"{name}-x{n}" if n <= node else f"{name}-{n // node}x{node}" for n in sizes]
    return [(text, describe_system(text)[0]) for text in named]


def candidates(
    name: str | Path, system: SystemSpec, model: ModelSpec, axes: Axes, lone: bool,
    sharing: Sharing = NOTHING,
) -> Iterator[Candidate]:  # fmt: skip
    """All candidates on one system; those that an engine cannot be started with are left out.

    Parameters
    ----------
    lone : bool
        Whether smaller systems of the same devices are candidates too: ranks of a dense model, which
        do not work together, are then copies of a smaller one.
    sharing : Sharing
        What options say of how ranks share experts.
    """
    devices = system.nodes * system.devices_per_node
    formats = [
        {"dtype": None if w == OWN else w, "kv_dtype": None if kv == OWN else kv}
        for w, kv in product(axes.get("dtype") or (OWN,), axes.get("kv_dtype") or (OWN,))
    ]
    m = system.mapping
    fixed = m.separate or m.pipeline or m.prefill_share is not None
    starts: list[Start | None] = [None] if fixed else list(_layouts(system, model, axes, lone))
    for policy, start, how, budget in product(
        axes.get("policy") or (POLICY,), starts, formats, axes.get("token_budget") or (None,)
    ):
        given = None if start is None else replace(start, tokens=budget, sharing=sharing, **how)
        found = Candidate(name, devices, policy, given, budget, **how)
        try:
            found.engine  # noqa: B018  # refuses layouts that the engine does not have
        except InputError:
            continue
        yield found


def _layouts(system: SystemSpec, model: ModelSpec, axes: Axes, lone: bool) -> Iterator[Start]:
    """Degrees that multiply to the devices of a system."""
    devices, node = system.groups, system.groups_per_node
    slices = [2**i for i in range(node.bit_length()) if node % 2**i == 0]
    routed = any(
        p.routed.spreads for layer in model.layers for p in layer.expert_parts
    )  # fmt: skip
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
