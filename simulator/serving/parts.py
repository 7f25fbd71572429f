"""Which parts an engine and a run have; those that cannot go together are refused by `deploy.parts`."""

from __future__ import annotations

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock, RequestStream
from ..batching.kv import CacheSettings
from ..batching.orders import LANED
from ..batching.policies import Policy
from ..batching.sglang_rules import SglangRules
from ..batching.trtllm_rules import TrtllmRules
from ..deploy.deployment import Deployment
from ..deploy.parts import check_parts, parts_of
from .pools import Pools


def engine_parts(d: Deployment, policy: Policy, cache: CacheSettings | None) -> dict[str, str]:
    """Parts of an engine, and the options that ask for them."""
    found, whose = parts_of(d), f"--policy {policy.name}"
    if cache is not None and cache.tiers is not None:
        found["kv-tiers"] = "--kv-tiers"
    if isinstance(policy.rules, SglangRules):
        found["sglang"] = whose
    if isinstance(policy.rules, TrtllmRules):
        found["tensorrt-llm"] = whose
    if policy.part is not None:
        found[policy.part.name] = policy.part.option
    return found


def check_order(policy: Policy) -> None:
    """Refuse an order that an engine with one queue cannot keep.

    Raises
    ------
    InputError
    """
    if policy.order in LANED:
        raise InputError(
            f"--policy {policy.name}",
            "orders by priority only where its own scheduler runs: a model whose layers all cache every token",
        )


def check_run(
    pools: Pools, policy: Policy, cache: CacheSettings | None, stream: RequestStream,
    first: RequestBlock | None, failures: bool, scaled: bool,
) -> None:  # fmt: skip
    """Refuse parts of a run that cannot go together.

    Parameters
    ----------
    first : RequestBlock or None
        Of the stream.
    failures, scaled : bool
        Whether replicas fail, or come and go.

    Raises
    ------
    InputError
        Names both options.
    """
    sides = [(d, policy, cache) for d in pools.entry[:1]]
    sides += [(d, pools.policy or policy, None) for d in pools.decode[:1]]
    found: dict[str, str] = {}
    for side in sides:  # engines of a pool are alike
        found |= engine_parts(*side)
    laned = first is not None and first.labels is not None and policy.order in LANED
    given = {
        "two-pools": ("--prefill and --decode", bool(pools.decode)),
        "classes": (f"--policy {policy.name}", laned),
        "sessions": ("sessions", first is not None and first.turns is not None),
        "encoder": ("--encoder", pools.encoder is not None),
        "failures": ("--fail or --mtbf", failures),
        "autoscale": ("--autoscale", scaled),
    }
    check_parts({part: option for part, (option, there) in given.items() if there} | found)
