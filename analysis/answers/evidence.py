"""Evidence of a simulated result: the cost models used, and every assumed constant; as rows, one table or one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ...devices.cost import DESCRIPTION, Evidence
from ...devices.dram.model import DERIVED
from ...devices.hosts.catalog import host_of, joined, link_of
from ...devices.link import LATENCY_BYTES
from ...devices.peaks import FALLBACK
from ...devices.power.transfer import power_model, reference_of
from ...devices.spec import ARITHMETIC
from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.placement import processors_of
from ...simulator.parts.drafts.speculation import given_text
from ...workloads.batch import Batch
from ...workloads.numerics import WEIGHT_GROUPS, Numerics
from ..show.text import Blocks, Records, Rows
from .error_factors import factor_evidence
from .memory_rows import USUAL, by_place
from .ranges import Ranges

if TYPE_CHECKING:
    from ...simulator.engine.policies import Policy


KINDS = ("measured", "fitted", "transferred", "derived", "assumed", "spec")
"""Bases, from the best evidence to the weakest."""
NAMED = 3
"""Maximum number of out-of-range ops that a line names."""


def evidence_rows(evidence: Rows, system: str, ranges: Ranges | None = None) -> Records:
    """Return a row for each cost model: its ops, format, measured rows and error, and the share out of range."""
    outside: dict[str, float] = {}
    for extrapolated in ranges.outside if ranges else ():
        family = extrapolated.kernels.rpartition(" in ")[0] or extrapolated.kernels
        outside[family] = outside.get(family, 0.0) + extrapolated.share
    return [
        {
            "system": system, "family": e["applies_to"], "cost model": e["cost_model"],
            "format": e.get("format") or None,
            "basis": e["basis"], "rows": e["rows"] or _elsewhere(e),
            "error": None if e["error"] is None else f"{e['error']:.1%}",
            "in range": _in_range(e, outside), "assumes": ", ".join(e["assumptions"]) or None,
            "why": e.get("why") or None,
        }
        for e in evidence
    ]  # fmt: skip


def _elsewhere(e: Mapping[str, Any]) -> str | None:
    """Return how many measured rows other formats have, if this format has none."""
    others = e.get("other_rows") or {}
    text = ", ".join(f"{count:,} in {name}" for name, count in others.items())
    return f"NO ROW: {text}" if text else None


def _in_range(e: Mapping[str, Any], outside: Mapping[str, float]) -> str | None:
    if not e["rows"]:
        return None
    if e.get("near_rows") == 0 and e.get("nearest"):
        return f"no: the nearest a factor of {e['nearest']:.0f} away"
    share = outside.get(e["applies_to"], 0.0)
    return f"no: {share:.0%} of the time" if share else "yes"


Known = tuple[Rows, str, "Ranges | None"]
"""Evidence of a system, the system's name, and the part that is out of range."""


def evidence_blocks(known: Sequence[Known], why: bool) -> Blocks:
    """Return the evidence of systems: a line for every system, or one table with all of it."""
    if not why:
        return [" ".join([*(evidence_line(*entry) for entry in known), "More: --why."])] if known else []
    rows = [row for entry in known for row in evidence_rows(*entry)]
    return [rows, *(text for *_, ranges in known if ranges for text in ranges.text())]


def evidence_line(evidence: Rows, system: str, ranges: Ranges | None = None) -> str:
    """Return the evidence of one system as one sentence.

    Examples
    --------
    >>> entry = {"basis": "fitted", "rows": 5, "error": 0.1, "applies_to": "GEMM", "assumptions": {}}
    >>> evidence_line([entry, entry | {"basis": "assumed"}], "h100-x1")
    'h100-x1 is based on cost models: 1 fitted, 1 assumed; none out of range.'
    """
    counts = Counter(e["basis"] for e in evidence)
    text = ", ".join(f"{counts[kind]} {kind}" for kind in (*KINDS, *sorted(set(counts) - {*KINDS})) if counts[kind])
    if ranges is None or not ranges.outside:
        return f"{system} is based on cost models: {text}; none out of range."
    names = ", ".join(dict.fromkeys(outside.op for outside in ranges.outside[:NAMED]))
    share = f"{100 * ranges.share:.1f} %" if ranges.share > 5e-4 else "under 0.1 %"
    return f"{system} is based on cost models: {text}; OUT OF RANGE {share} of the time: {names}."


def evidence(
    deployment: Deployment, sources: Mapping[str, str], policy: Policy | None = None,
    batches: Sequence[Batch] = (), usual: Sequence[Batch] = USUAL, experts: bool | None = None,
) -> Records:  # fmt: skip
    """Return the evidence of a run: one entry for each cost model it used.

    Parameters
    ----------
    sources : mapping of str to str
        Key path of the system's description -> source of that number.
    policy : Policy, optional
        Policy of the run; adds entries for its host's times.
    batches : sequence of Batch
        Typical steps of a rank. Their ops are compared with the measured rows.
    usual : sequence of Batch
        Further steps whose ops are compared, too.
    experts : bool, optional
        True for only the routed experts, False for all other ops, if both are on separate devices; None for all ops.

    Returns
    -------
    list of dict
        ``cost_model``, ``applies_to`` (ops) and ``basis``. A basis is "spec" (published peaks and bandwidths, with the
        efficiencies of the description), "assumed" (some number of the description is an assumption), "derived" (by the
        command model of the DRAM), "fitted" (to measurements of the device), "transferred" (from other devices' fits) or
        "measured". ``error`` is the median error, cross-validated over unseen shapes (None without measurements).
        ``rows`` counts the measured rows of number format ``format``, ``other_rows`` the rows of other formats.
        ``near_rows`` counts the rows within about a factor of 8 in every size; ``nearest`` is the factor to the nearest
        row (None without rows). ``why`` is the reason for a transfer; ``assumptions`` maps key path -> reason.
    """
    out = []
    sources = used_sources(sources, deployment.model.numerics)
    placed = by_place(deployment, batches, usual)
    if experts is not None:
        placed = {
            where: {name: op for name, op in ops.items() if op.routed == experts} for where, ops in placed.items()
        }
    for processor in processors_of(deployment.device):
        processor_ops = list(placed.get(processor.name, {}).values())
        prefixes = (f"processors.{processor.name}.", "memory.")
        many = len(deployment.device.processors) > 1
        entries = processor.model.evidence(processor_ops)
        # A derived efficiency replaces the flat one. Without a derived one, the layout of the data has no effect.
        derived = any(e.basis == DERIVED for e in entries)
        unused = f"{processor.name}.{FLAT}" if derived else "memory.dram."
        known = {key: source for key, source in sources.items() if unused not in key}
        out += [_explained(e, processor.name, known, prefixes, many) for e in entries]
    system = deployment.system
    bridged = joined(system) is not system.device
    for spec, keys, name in (
        (link_of(system), ("bridge.",) if bridged else ("link.", "host."), "links within a node"),
        (system.device.node_link, ("node_link.",), "links between nodes"),
    ):
        ops = list(placed.get(spec.name, {}).values())
        of_link = {(e.cost_model, e.applies_to, e.format): e for op in ops for e in deployment.link(op).evidence([op])}
        out += [_explained(e, name, sources, keys, False) for e in of_link.values()]
    out += [
        *_waits(deployment),
        *_tiers(deployment, sources),
        *_acceptance(deployment),
        *_maps(deployment),
        _static(deployment, sources),
        *_power(deployment),
        *_int4(deployment),
    ]
    if policy is None:
        return out
    return out + _host(policy, deployment) + factor_evidence(deployment)


FLAT = "memory_efficiency"
"""Number of a description that a derived efficiency replaces."""


def _explained(
    known: Evidence, where: str, sources: Mapping[str, str], prefixes: tuple[str, ...], many: bool
) -> dict[str, Any]:
    """Return one entry of a cost model's evidence, with the assumptions of its description.

    If a device has several processors, each entry names its processor.
    """
    if known.basis == DESCRIPTION:
        return _entry(known.cost_model, where, sources, prefixes)
    applies_to = f"{known.applies_to} on {where}" if many else known.applies_to
    return {
        "cost_model": known.cost_model, "applies_to": applies_to, "basis": known.basis,
        "error": known.error, "rows": known.rows, "assumptions": {}, "format": known.format or None,
        "other_rows": dict(known.others), "near_rows": known.near,
        "nearest": known.distance if known.distance and np.isfinite(known.distance) else None,
        "why": known.why or None,
    }  # fmt: skip


VERSIONED = ("gap_s", "sequence_s")
"""Host times that depend on the engine's version."""


def _host(policy: Policy, deployment: Deployment) -> Records:
    """Return the evidence of the host's times per step, launch and token."""
    from ...simulator.engine.host import (  # compiled code, which a step does without
        HTTP_S,
        LAUNCH_S,
        OUTSIDE_S,
        SYNC_GAP_S,
        TOKEN_S,
    )

    host = policy.host
    versioned = {name: f"assumed: {host.why}" for name in VERSIONED if host.why}
    sources = {
        f"host.{f.name}": versioned.get(f.name, "given")
        for f in fields(host) if f.name not in ("why", "front", "sync_s") and getattr(host, f.name) > 0.0
    }  # fmt: skip
    if host.front.request_s > 0.0:
        sources["host.front.request_s"] = f"assumed: {host.front.why}" if host.front.why else "given"
    for name, value, usual, why in (
        ("front.token_s", host.front.token_s, TOKEN_S, "random text, one thread"),
        ("front.http_s", host.front.http_s, HTTP_S, "measured on one core"),
        ("sync_s", policy.sync_s(deployment.layout.pp), SYNC_GAP_S,
         f"{SYNC_GAP_S * 1e3:g} ms between steps, as scheduling is not asynchronous, from deployments of vLLM 0.11"),
        ("launch_s", host.launch_s, LAUNCH_S, f"{LAUNCH_S * 1e6:.0f} us a launch outside CUDA graphs, fitted to measured runs"),
        ("request_s", host.request_s + host.front.http_s, OUTSIDE_S,
         f"{host.request_s * 1e3:g} ms a request outside the steps, fitted to measured runs of vLLM"),
    ):  # fmt: skip
        if value > 0.0:
            sources[f"host.{name}"] = f"assumed: {why}" if value == usual else "given"
    fitted = host_of(deployment.system)
    if fitted and fitted.gap_s and host.gap_s == fitted.gap_s:  # the machine's, not the version's
        sources["host.gap_s"] = "given"
    return [_entry("host", "steps and requests", sources, ("host.",))] if sources else []


def link_evidence(name: str, node_link: str, sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the basis of KV transfer times between two pools: given numbers, or a network."""
    known = sources if name == node_link else {"kv_link": "given"}
    return _entry(LATENCY_BYTES, "KV caches between the pools", known, ("node_link.",))


def _tiers(deployment: Deployment, sources: Mapping[str, str]) -> Records:
    """Return the evidence of the memories that experts are fetched from, and of the expert predictor."""
    store = deployment.parts.get("resident-experts")
    if store is None:
        return []
    out = [_entry(LATENCY_BYTES, "experts fetched", sources, ("host_memory.", "disk."))]
    if store.predicts:
        stated = {"expert_predictor": "assumed: the accuracy that was stated"}
        out.append(_entry("expert predictor", "experts fetched", stated, ("expert_predictor",)))
    return out


def _acceptance(deployment: Deployment) -> Records:
    """Return the evidence of the draft acceptance rate, which is given and not computed."""
    speculation = deployment.parts.get("drafts")
    if speculation is None:
        return []
    why = given_text(speculation).removeprefix("given: ")
    return [entry("acceptance of drafts", "tokens of a step", "given", why=why)]


def _maps(deployment: Deployment) -> Records:
    """Return the evidence of expert maps: the expert loads they are made from; empty without maps."""
    if deployment.parts.get("expert-copies") is None:
        return []
    loads = {
        "expert_placement": "assumed: maps follow the router's long-run popularity, which does not "
        "change; exchanges assume an even spread"
    }
    return [_entry("maps of experts", "loads of devices", loads, ("expert_placement",))]


def _waits(deployment: Deployment) -> Records:
    """Return the evidence of the time between steps that a fitted host adds."""
    host = host_of(deployment.system)
    fit = None if host is None else host.fitted
    if fit is None or fit.step_gap_s is None:
        return []
    why = f"a run: {fit.run}; {fit.step_gap_s.low * 1e6:.3g} to {fit.step_gap_s.high * 1e6:.3g} us"
    return [entry("gap between steps", "steps", "fitted", why=why, rows=1)]


def _power(deployment: Deployment) -> Records:
    """Return the evidence of a device's power model, if its power is modelled."""
    spec = deployment.system.device
    if deployment.device.board.model is None:
        return []
    known = power_model(spec)
    rules = {"device.power": f"assumed: carried over from {reference_of(spec)} by limit, idle power, process "
             "and memory (docs/power.md)"}  # fmt: skip
    assumed = {} if known.basis == "fitted" else rules
    return [entry("power model", "energy per token", known.basis, assumed, error=known.median_ape, rows=known.rows)]


def _int4(deployment: Deployment) -> Records:
    """Return the evidence of the kernels used for 4-bit integer weights, whose format no op states."""
    numerics = deployment.run.numerics
    if "int4" not in map(numerics.weight_format, WEIGHT_GROUPS):
        return []
    kernels = {
        "int4": "assumed: experts by kernels of w4a16_mxfp4 weights, products by 16-bit kernels that read 4 bits"
    }
    return [_entry("4-bit integers", "weights in int4", kernels, ("int4",))]


def _static(deployment: Deployment, sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the evidence of static power; if the device has none, this is an assumption too."""
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


def entry(
    model: str, applies_to: str, basis: str, assumptions: Mapping[str, str] | None = None, why: str = "", **known: Any
) -> dict[str, Any]:
    """Return one evidence entry; `known` replaces its values, which by default state no error and no measured rows."""
    said = {"why": why} if why else {}
    rest: dict[str, Any] = {"error": None, "rows": 0, "assumptions": assumptions or {}}
    return {"cost_model": model, "applies_to": applies_to, "basis": basis, **rest, **known, **said}


def _entry(model: str, applies_to: str, sources: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, Any]:
    assumed = {
        key: source
        for key, source in sources.items()
        if key.removeprefix("device.").startswith(prefixes) and source.lower().startswith("assum")
    }
    return entry(model, applies_to, "assumed" if assumed else "spec", assumed)


def apart_evidence(
    deployment: Deployment, sources: Mapping[str, str], beside: Mapping[str, str], policy: Policy | None = None,
    batches: Sequence[Batch] = (),
) -> Records:  # fmt: skip
    """Return the evidence of a run; entries name their group of devices.

    Parameters
    ----------
    sources, beside : mapping of str to str
        Key path of each system's description -> source of that number.
    """
    if deployment.apart is None:
        return evidence(deployment, sources, policy, batches)
    holder = deployment.apart.holder
    unused = ("links within a node", "links between nodes")
    experts = [
        known for known in evidence(holder, beside, None, batches, experts=True) if known["applies_to"] not in unused
    ]
    entries = [
        {**known, "applies_to": f"{known['applies_to']}, {group}"}
        for group, group_entries in (
            ("attention", evidence(deployment, sources, policy, batches, experts=False)),
            ("experts", experts),
        )
        for known in group_entries
    ]
    why = "the given rate, or the rate of the slower network"
    return [*entries, entry(LATENCY_BYTES, "what crosses to the experts and back", "spec", why=why)]
