"""What a run refuses: parts of its engines and of its own that cannot go together, and orders without a queue for them."""

from __future__ import annotations

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock
from ..batching.kv import CacheSettings
from ..batching.orders import LANED
from ..batching.policies import Policy
from ..part import Combination
from ..parts.two_pools.pools import Pools
from ..registry import check_parts, parts_of


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
    pools: Pools, policy: Policy, cache: CacheSettings | None,
    first: RequestBlock | None, failures: bool, scaled: bool,
) -> None:  # fmt: skip
    """Refuse parts of a run that cannot go together.

    Parameters
    ----------
    first : RequestBlock or None
        The first ones of the run.
    failures, scaled : bool
        Whether replicas fail, or come and go.

    Raises
    ------
    InputError
        Names both options.
    """
    laned = first is not None and first.labels is not None and policy.order in LANED
    found = parts_of(Combination(None, policy, None, pools, first, laned, failures, scaled))
    for d in pools.entry[:1]:  # engines of a pool are alike
        found |= parts_of(Combination(d, policy, cache))
    for d in pools.decode[:1]:
        found |= parts_of(Combination(d, pools.policy or policy))
    check_parts(found)
