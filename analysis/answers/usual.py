"""Defaults of all commands: vLLM's scheduler and, on GPUs, the kernels of the same engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...devices.catalog import load_system
from ...devices.spec import SystemSpec
from ...simulator.scenario.options import DeployOptions
from .error_factors import engine_file_of
from .summary import degrees

if TYPE_CHECKING:
    from pathlib import Path

    from ...simulator.results.record import Run
    from ...simulator.scenario import Scenario

POLICY = "vllm"
FRAMEWORKS = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
"""Engine's scheduler -> framework whose kernels are used with it."""


def framework_of(policy: str | None, systems: Sequence[SystemSpec], costs: str = "auto") -> str | None:
    """Return the framework whose kernels a policy uses on GPUs; None for rooflines or without shared kernels."""
    shared = costs != "roofline" and all(system.device.kernels is not None for system in systems)
    return FRAMEWORKS.get((policy or "").partition("+")[0]) if shared else None


def as_usual(scenario: Scenario) -> Scenario:
    """Return a scenario with its missing policy and kernels set to the defaults.

    A framework that the scenario names sets its own policy; an engine file sets both.
    """
    serving, pools, where = scenario.serving, scenario.parts["two-pools"], scenario.deployment
    if any((serving.engine, pools.prefill_engine, pools.decode_engine)):
        return scenario
    if where.framework is not None:
        named = serving.policy is not None or where.framework.partition("@")[0] in FRAMEWORKS.values()
        return scenario if named else scenario.changed(policy=POLICY)
    policy = serving.policy or pools.prefill_policy or pools.decode_policy
    framework = framework_of(policy or POLICY, _systems(scenario), where.costs)
    return scenario.changed(framework=framework, policy=serving.policy if policy or framework else POLICY)


def kernels_as_usual(options: DeployOptions, *systems: SystemSpec) -> DeployOptions:
    """Return the options of one step (which has no scheduler) with the default kernels, if none are named."""
    if options.framework is not None:
        return options
    return replace(options, framework=framework_of(POLICY, systems, options.costs))


def _systems(scenario: Scenario) -> list[SystemSpec]:
    """Return all systems that a scenario names, of both pools and of experts."""
    from ...simulator.parts.two_pools.asked import counted  # compiled code, which one step has no use for

    both = ("--prefill", scenario.parts["two-pools"].prefill), ("--decode", scenario.parts["two-pools"].decode)
    pools = [counted(str(text), option)[0] for option, text in both if text]
    named: list[str | Path | SystemSpec | None] = [scenario.system, scenario.parts["experts-apart"].experts_on, *pools]
    return [x if isinstance(x, SystemSpec) else load_system(x) for x in named if x is not None]


def served_by(run: Run, scenario: Scenario) -> str:
    """Return layout, policy and kernels of a simulation as text."""
    from ...simulator.parts.two_pools.run import pools_of  # compiled code behind it

    layout = "; ".join(f"{p.name} tp {p.deployment.layout.tp}" for p in pools_of(run)) or degrees(run.deployment)
    kernels = scenario.deployment.framework or engine_file_of(scenario).get("framework") or "no engine"
    return f"{layout}; {run.policy.name} on {kernels}'s kernels; {may_run(run)}"


def may_run(run: Run) -> str:
    """Return the limit of running requests of a rank, its reason, and whether a prefix cache is used, as text."""
    why = run.policy.sequences_why or "the policy's limit"
    none = uncached(run)
    return f"at most {run.policy.max_sequences:,} running a rank: {why}" + (
        f"; no prefix cache: {none}" if none else ""
    )


def uncached(run: Run) -> str:
    """Return why prompts are not found in a prefix cache; empty if they can be."""
    rules = run.policy.rules
    asked = run.policy.caching if rules is None else rules.caches
    if run.cached:
        return "" if asked else "the engine keeps none, as it is set up"
    if rules is None and not run.policy.caching:
        return f"policy {run.policy.name} keeps none"
    return "with constant states or windows that share its memory it is not simulated"
