"""What a simulated figure rests on: the cost models used, and every assumed constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ...devices.calibrated.model import CalibratedModel
from ...devices.device import FALLBACK
from ...devices.spec import ARITHMETIC
from ...devices.tables.model import TableModel
from ...simulator.batching.host import LAUNCH_S
from ...simulator.batching.policies import Policy
from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.placement import processors_of
from ...simulator.step.explicit import explicit_stage
from ...workloads.batch import Batch
from ...workloads.numerics import WEIGHT_GROUPS, Numerics
from ...workloads.ops import Op


def evidence(
    deployment: Deployment, sources: Mapping[str, str], policy: Policy | None = None
) -> list[dict[str, Any]]:
    """One entry per cost model that a run used.

    Parameters
    ----------
    sources : mapping of str to str
        Key path of the system's description -> source of that number.
    policy : Policy, optional
        Of the run, for the times of its host.

    Returns
    -------
    list of dict
        ``cost_model``, ``applies_to``, ``basis`` ("spec": published peaks and bandwidths with
        the efficiencies of the description; "assumed" where a number of it is an assumption;
        "fitted" on measurements of the device, "transferred" from other devices' fits, or
        "measured"), ``error`` (median, cross-validated over unseen shapes) and ``rows`` of the
        measurements behind it (None and 0 where there are none), and ``assumptions``: key path
        -> why.
    """
    out = []
    sources = used_sources(sources, deployment.model.numerics)
    ops = _ops(deployment)
    for processor in processors_of(deployment.device):
        below = f"processors.{processor.name}."
        model, rest = processor.model, ops
        if isinstance(model, TableModel):
            rest = [op for op in rest if not model.covers(op)]
            covered = [op for op in ops if model.covers(op)]
            if covered:  # else the tables were given in vain, which the coverage says
                out += [_measured(model, covered), *_blocks(model, covered)]
            model = model.base
        if isinstance(model, CalibratedModel):
            out += _fitted(model, rest)
            rest = [op for op in rest if model.quantities(op) is None]
            if not rest:
                continue
        out.append(_entry("roofline", processor.name, sources, (below, "memory.")))
    links = {"link": "links within a node", "node_link": "links between nodes"}
    used = ["link"] if deployment.layout.all_devices > 1 else []
    if deployment.system.nodes > 1:
        used.append("node_link")
    for key in used:
        out.append(_entry("latency + bytes/bandwidth", links[key], sources, (f"{key}.",)))
    out.append(_static(deployment, sources))
    return out if policy is None else out + _host(policy)


def _ops(deployment: Deployment) -> list[Op]:
    """One of each op that a step with prompts and decodes runs, collectives included."""
    batch = Batch.of([100], [(100, 0)])
    stage = explicit_stage(deployment, [batch] * deployment.ranks)
    return list({placed.op.name: placed.op for placed in stage.ops}.values())


def _measured(model: TableModel, ops: list[Op]) -> dict[str, Any]:
    names = ", ".join(sorted({op.name for op in ops}))
    return {
        "cost_model": "kernel tables", "applies_to": names, "basis": "measured", "error": None,
        "rows": model.count, "assumptions": {},
    }  # fmt: skip


def _blocks(model: TableModel, ops: list[Op]) -> list[dict[str, Any]]:
    """The model of unequal decodes that was fitted to the tables of equal ones."""
    return [
        {
            "cost_model": "thread blocks of a kernel", "applies_to": "decodes of unequal contexts",
            "basis": "fitted", "error": fit.error, "rows": fit.rows, "assumptions": {},
        }
        for fit in model.blocks.values()
        if any(fit.parameters is model.blocks_of(op) for op in ops)
    ]  # fmt: skip


def _fitted(model: CalibratedModel, ops: list[Op]) -> list[dict[str, Any]]:
    """One entry for each family of kernel models in use."""
    out: dict[str, dict[str, Any]] = {}
    for op in ops:
        used = model.models.get(op.kind)
        if used is None or model.quantities(op) is None:
            continue
        known = used.known
        seen = known.errors.get("by_shape") or known.errors.get("fit")
        out.setdefault(
            used.family.name,
            {
                "cost_model": "fitted kernel model", "applies_to": used.family.title,
                "basis": known.basis, "error": seen.median_ape if seen else None,
                "rows": known.rows, "assumptions": {},
            },
        )  # fmt: skip
    return list(out.values())


def _host(policy: Policy) -> list[dict[str, Any]]:
    """The times of the host, where there are any."""
    host = replace(policy.host, launch_s=0.0) if policy.graphs else policy.host
    sources = {f"host.{f.name}": "given" for f in fields(host) if getattr(host, f.name) > 0.0}
    if host.launch_s == LAUNCH_S:
        sources["host.launch_s"] = (
            f"assumed: {LAUNCH_S * 1e6:.0f} us an op, from one published pair"
        )
    return [_entry("host", "every step", sources, ("host.",))] if sources else []


def _static(deployment: Deployment, sources: Mapping[str, str]) -> dict[str, Any]:
    """Where the static power comes from; a device without any is an assumption too."""
    if deployment.system.device.static_W == 0 and not any("static_W" in key for key in sources):
        sources = {"device.static_W": "assumed: none given, so static energy is 0"}
    return _entry("static power", "energy per token", sources, ("static_W",))


def used_sources(sources: Mapping[str, str], numerics: Numerics) -> dict[str, str]:
    """Leave out rates and energies of arithmetic formats that the model never computes in."""
    given = {key.rpartition(".")[2] for key in sources}
    formats = set()
    for name in {numerics.default, *map(numerics.compute, WEIGHT_GROUPS)}:
        while name not in given and name in FALLBACK:
            name = FALLBACK[name]
        formats.add(name)
    return {
        key: source
        for key, source in sources.items()
        if (name := key.rpartition(".")[2]) not in ARITHMETIC or name in formats
    }


def _entry(
    model: str, applies_to: str, sources: Mapping[str, str], prefixes: tuple[str, ...]
) -> dict[str, Any]:
    assumed = {
        key: source
        for key, source in sources.items()
        if key.removeprefix("device.").startswith(prefixes) and _is_assumption(source)
    }
    return {
        "cost_model": model,
        "applies_to": applies_to,
        "basis": "assumed" if assumed else "spec",
        "error": None,
        "rows": 0,
        "assumptions": assumed,
    }


def _is_assumption(source: str) -> bool:
    return source.lower().startswith("assum")
