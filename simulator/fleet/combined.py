"""The parts of a run: their interface, which are active, the states that they build, and refusals of those that cannot be combined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...workloads.requests import RequestBlock
from ..deploy.deployment import Deployment
from ..engine.kv import CacheSettings
from ..engine.orders import LANED
from ..engine.policies import Policy
from ..option import PartOptions
from ..part import Combination
from ..registry import PARTS, check_parts, parts_of
from .pools import Pools


class RunPart:
    """Part of one run, created by the part's hook ``run`` for the driver.

    Attributes
    ----------
    failures : int
        Nodes that it has let fail.
    """

    failures: int = 0

    def start(self, seed: int) -> None:
        """Schedule the part's initial events at time 0 (`Clock.call_at`)."""

    def left(self) -> dict[str, Any]:
        """Return the fields of `RunState` that this part has counted."""
        return {}


def check_run(
    pools: Pools, policy: Policy, cache: CacheSettings | None,
    first: RequestBlock | None, failures: bool, scaled: bool, options: PartOptions,
) -> tuple[str, ...]:  # fmt: skip
    """Return the names of the active parts of a run; refuse parts that cannot be combined.

    Parameters
    ----------
    first : RequestBlock or None
        The first ones of the run.
    failures, scaled : bool
        Whether replicas fail, or come and go.
    options : PartOptions
        Options of the run; a part that builds a state from options is active if one is given.

    Raises
    ------
    InputError
        Names both options.
    """
    laned = first is not None and first.labels is not None and policy.order in LANED
    active = parts_of(Combination(None, policy, None, pools, first, laned, failures, scaled))
    for d in pools.entry[:1]:  # engines of a pool are alike
        active |= parts_of(Combination(d, policy, cache))
    for d in pools.decode[:1]:
        active |= parts_of(Combination(d, pools.policy or policy))
    active |= {name: PARTS[name].flags for name in options.names() if PARTS[name].hook("build") is not None}
    check_parts(active)
    return tuple(active)


def states_of(options: PartOptions, deployment: Deployment) -> dict[str, Any]:
    """Return the states of the parts that build one for a run, from the deployment that requests arrive at."""
    hooks = {name: PARTS[name].hook("build") for name in options.names()}
    return {name: hook(options[name], deployment) for name, hook in hooks.items() if hook is not None}


def scaled_by(pools: Pools, autoscale: Any) -> bool:
    """Return whether an autoscaler changes the number of replicas."""
    scales = pools.scales if pools.decode else (autoscale,)
    return any(scale.decides for scale in scales if scale is not None)


def swapped_by(pools: Pools) -> bool:
    """Return whether adapters are loaded into a limited number of slots."""
    tenants = pools.entry[0].parts.get("adapters")
    return tenants is not None and tenants.swapped


def decoding(pools: Pools, policy: Policy, cache: CacheSettings | None) -> tuple[Policy, CacheSettings | None]:
    """Return the settings of decode nodes, which receive whole caches and so need no prefix cache."""
    policy, cache = pools.policy or policy, pools.cache or cache
    policy = replace(policy, rules=policy.rules and policy.rules.decoding(), caching=False)
    return policy, None if cache is None else replace(cache, tiers=None)
