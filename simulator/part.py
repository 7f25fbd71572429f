"""The description of a part: its options, the parts that it cannot be combined with and why, its code and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, cast

from ..workloads.errors import InputError, nearest
from .quantity import Figures


@dataclass(frozen=True, slots=True)
class Combination:
    """The requested engine and run, as far as they are known when parts are checked.

    Attributes
    ----------
    deployment, policy, cache
        `deploy.deployment.Deployment`, `engine.policies.Policy` and `engine.kv.CacheSettings` of the engine.
    pools, first
        `fleet.pools.Pools` of the run, and the first block of its requests.
    laned, fails, scaled : bool
        Whether requests wait by class, replicas fail, or come and go.
    """

    deployment: Any = None
    policy: Any = None
    cache: Any = None
    pools: Any = None
    first: Any = None
    laned: bool = False
    fails: bool = False
    scaled: bool = False

    def of(self, name: str) -> Any:
        """Return an attribute of the deployment; None without a deployment."""
        return getattr(self.deployment, name, None)

    def part(self, name: str) -> Any:
        """Return the deployment's value of a part; None if it has none."""
        return None if self.deployment is None else self.deployment.parts.get(name)

    @property
    def rules(self) -> str:
        """Return the name of the part whose scheduler the engine runs; empty for OpByte's own scheduler."""
        rules = getattr(self.policy, "rules", None)
        return "" if rules is None else str(rules.part)


HOOKS = {
    "check_scenario": "(scenario) -> None; refuses options that do not fit each other",
    "adapt_spec": "(model, scenario) -> model as it is read for a scenario",
    "arrange": "(scenario) -> (deployment, deployment of prompts, settings of each, pools), instead of one system",
    "deploy": "(model, system, scenario, settings) -> deployment, instead of the core's, where an option of the part is given",
    "deployed": "(deployment, scenario, settings) -> deployment as it runs",
    "settings": "(scenario, settings, deployment) -> engine settings",
    "fleet": "(scenario, system, fleet) -> fleet",
    "requests": "(stream, scenario, deployment, fleet) -> requests as engines see them",
    "value": "(options, said) -> what a deployment is given of the part; `said` has what options or else an engine's file say",
    "configure": "(value, model, system, layout) -> value of a deployment; refuses what does not fit, None drops it",
    "adapt_model": "(value, model) -> (model, popularity of what requests choose); called before it is sharded",
    "expert_copies": "(value, layout, system) -> (experts of a layer) -> copies that a device has",
    "place_experts": "(value, expert parts, layout, system) -> expert parts",
    "lower": "(plan, names of its rows, deployment, replica, tokens tabulated) -> both, with the part's record in the plan",
    "step_cost": "(arguments of a step, caches) -> cost of the step op by op, instead of the core's",
    "waits": "(value, step op by op, caches) -> what layers waited for; lengthens the stages' seconds",
    "slot_loads": "(expert part, loads of its experts, step, replica) -> loads of what its groups hold",
    "check": "(value, deployment) -> None; refuses what the finished deployment does not allow",
    "elsewhere_bytes": "(value, deployment, stage) -> bytes of weights that a device of a stage has not",
    "added_bytes": "(value, deployment, stage) -> bytes of weights that it has in addition",
    "build": "(options, deployment) -> state of a run; called before its first request where an option of the part is given",
    "policy": "batching policy that its module registers",
    "scheduler": "compiled functions of a scheduler by hook point (`engine.scheduler_hooks`), where a policy has its rules",
    "shared": "(nodes, policy, cache) -> what engines of a run share, None if nothing; engines have it in `given`",
    "queues": "(policy, deployment, first requests, stream, whether an engine refuses) -> (policy, what engines are `given`)",
    "engine": "(engine) -> `engine.engine_part.EnginePart`: state, compiled hooks and what it does for one engine",
    "run": "(driver) -> `fleet.run_part.RunPart`, None if it does nothing in the run",
    "check_requests": "(stream, first requests) -> None; refuses requests that a run cannot serve",
    "door": "(stream, clock, table) -> (row, time) -> whether a request is let in, before routers",
    "between": "(clock) -> record of what lies between two pools of nodes",
    "engine_requests": "(value, stream) -> requests, refused where a deployment cannot serve them",
    "nodes": "(value, pools, stream) -> nodes as their requests make them",
    "stage": "(clock, dealer, pools, seed) -> (what it counts, reader of blocks of requests), or None; lets requests wait on their way",
    "read": "(state, block) -> None; called with each block of requests as it is read",
    "collect": "(run, served, stream, warmup) -> what the part left of a run, None if nothing; called after the core has measured it",
    "request_columns": "(left) -> columns of requests.csv, by name",
    "ops": "(engines) -> ops of the run that the part adds to the ops of the model",
    "step": "(deployment, stage) -> what the part left of one step, None if nothing",
    "figures": "Values for JSON, tables, columns and the reference",
    "figures_of": "(left) -> values that depend on the run",
}
"""Python hook points of parts: arguments and result of the hook, and when it is called."""


@dataclass(frozen=True, slots=True)
class Part:
    """One feature of a serving engine or a fleet.

    Attributes
    ----------
    name, flags, title : str
        Its name, the options that ask for it, and a line on it.
    options : type, optional
        Class of its options (`option.CheckedOptions`).
    scope, panel : str
        Whether its options belong to a run ("run") or change the cost of a step ("deployment"); and the ``--help``
        panel of run options.
    page, tests
        Its page in docs, with its rules and evidence, and its tests below `tests`.
    also : sequence of str
        Modules below `simulator` that it shares with others, in addition to its package.
    cannot : mapping of str to str
        Parts that it cannot be combined with, each with the physical reason.
    left : callable
        Whether a run has results of the part without its options in `asked`; takes `RunState`.
    hooks : mapping of str to object
        Hook point (`HOOKS`) -> what the part has there, or ``MODULE:NAME`` of its package.
    home : str
        Its package below `simulator`.
    asked : callable
        What is given, to the option that asks for the part, or to whether the first of `flags` does.
    """

    name: str
    flags: str
    title: str
    options: type[Any] | None = None
    scope: Literal["run", "deployment"] = "run"
    panel: str = "Engine"
    page: str = ""
    tests: Sequence[str] = ()
    also: Sequence[str] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    asked: Callable[[Combination], object] = lambda a: None
    left: Callable[[Any], bool] = lambda served: False
    hooks: Mapping[str, Any] = field(default_factory=dict)
    home: str = ""

    def __post_init__(self) -> None:
        for name in self.hooks:
            if name not in HOOKS:
                raise InputError(
                    f"part {self.name!r}", f"no hook {name!r}{nearest(name, HOOKS)}; there are {', '.join(HOOKS)}"
                )

    def hook(self, name: str) -> Any:
        """Return the part's hook at a hook point, imported on first use; None if it has none."""
        hook = self.hooks.get(name)
        if not isinstance(hook, str):
            return hook
        module, _, inner = hook.partition(":")
        return getattr(import_module(f"{__package__}.{self.home}.{module}"), inner)

    def figures(self, left: Any) -> Figures:
        """Return the values of the part's results."""
        choose = self.hook("figures_of")
        return cast("Figures", self.hook("figures") if choose is None else choose(left))
