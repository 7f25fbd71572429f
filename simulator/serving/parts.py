"""Which parts a run has; those that cannot go together are refused by `deploy.parts`."""

from __future__ import annotations

from ...workloads.requests import RequestBlock, RequestStream
from ..batching.kv import CacheSettings
from ..batching.orders import LANED
from ..batching.policies import Policy
from ..batching.sglang_rules import SglangRules
from ..batching.trtllm_rules import TrtllmRules
from ..deploy.parts import check_parts, parts_of
from .pools import Pools


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
    found: dict[str, str] = {}
    for d in {id(d): d for d in (*pools.entry, *pools.decode)}.values():
        found |= parts_of(d)
    whose = f"--policy {policy.name}"
    bounds = any(c.bounded for c in stream.classes)
    for name, option, given in (
        ("two-pools", "--prefill and --decode", bool(pools.decode)),
        ("kv-tiers", "--kv-tiers", cache is not None and cache.tiers is not None),
        ("sglang", whose, isinstance(policy.rules, SglangRules)),
        ("tensorrt-llm", whose, isinstance(policy.rules, TrtllmRules)),
        (
            "classes",
            whose,
            first is not None and first.labels is not None and policy.order in LANED,
        ),
        ("classes", "--classes", bounds),
        ("sessions", "sessions", first is not None and first.turns is not None),
        ("encoder", "--encoder", pools.encoder is not None),
        ("failures", "--fail or --mtbf", failures),
        ("autoscale", "--autoscale", scaled),
    ):
        if given:
            found.setdefault(name, option)
    check_parts(found)
