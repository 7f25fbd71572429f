"""What studies of deployments take unless it is said: vLLM's scheduler, and of a GPU the engine's own kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ...devices.spec import SystemSpec
from ...simulator.frameworks.launch import Start
from ...simulator.scenario import Scenario
from ...workloads.model import ModelSpec
from ..answers.simulate import Simulation

Axes = Mapping[str, Sequence[Any]]
"""Name of a choice -> its values; empty where a study tries its own."""
STAGES = (1, 2)
"""Pipeline stages that are tried."""
POLICY = "vllm"
FRAMEWORKS = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
"""Whose kernels an engine's scheduler is served with."""


def framework_of(policy: str | None, systems: Sequence[SystemSpec]) -> str | None:
    """Whose kernels a policy runs on, by a GPU's products; None on devices that share none.

    Examples
    --------
    >>> from opbyte.devices.catalog import load_system
    >>> h100, duplex = load_system("h100-x1"), load_system("duplex-x4")
    >>> framework_of("sglang+fcfs", [h100]), framework_of("sglang", [duplex]), framework_of("chunked", [h100])
    ('sglang', None, None)
    """
    shared = all(system.device.kernels is not None for system in systems)
    return FRAMEWORKS.get((policy or "").partition("+")[0]) if shared else None


def as_usual(scenario: Scenario, systems: Sequence[SystemSpec]) -> Scenario:
    """A scenario on some systems, with the policy and the kernels that it does not name.

    A framework that is named brings its own policy; an engine's file says both.
    """
    own, framework = scenario.serving, scenario.deployment.framework
    if own.engine is not None:
        return scenario
    if framework is not None:
        named = own.policy is not None or framework.partition("@")[0] in FRAMEWORKS.values()
        return scenario if named else scenario.changed(policy=POLICY)
    if own.policy is not None:
        return scenario.changed(framework=framework_of(own.policy, systems))
    framework = framework_of(POLICY, systems)
    return scenario.changed(framework=framework, policy=None if framework else POLICY)


def served_by(made: Simulation) -> str:
    """Layout, policy and kernels of a simulation in words."""
    run, scenario = made.run, made.scenario
    d = run.deployment
    degrees = {n: getattr(d.layout, n) for n in ("tp", "dp", "ep", "pp")}
    layout = ", ".join(f"{n} {x}" for n, x in degrees.items() if x > 1 or n == "tp")
    if run.pools:
        layout = "; ".join(f"{p.name} tp {p.deployment.layout.tp}" for p in run.pools)
    kernels = scenario.deployment.framework
    return f"{layout}; {run.policy.name}" + (f" on {kernels}'s kernels" if kernels else "")


def layouts(system: SystemSpec, model: ModelSpec, axes: Axes, lone: bool) -> Iterator[Start]:
    """Degrees that multiply to the devices of a system."""
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
