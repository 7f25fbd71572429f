"""Lower bounds on the replicas that an SLO needs, by memory and nominal rates.

Bounds are sound: a simulation of the same requests would fail too (`tests/analysis/test_plan.py` samples cases). Of `n`
first tokens `floor(0.99 (n - 1)) + 1` must meet a limit on the 99th percentile. So at least the tokens of that number
of shortest prompts must be computed by the last arrival plus the limit. For a mean, at least half are within twice the
limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....simulator.batching.kv import KvRules, check_fits, kv_rules, sequence_bytes
from ....simulator.deploy.deployment import Deployment
from ....simulator.frameworks.settings import EngineSettings
from ....simulator.serving.metrics import share_of
from ....workloads.errors import CapacityError
from ....workloads.requests import RequestBlock
from .floors import Least, least_of

F8 = npt.NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Bound:
    """What is known of a candidate before it is simulated.

    Attributes
    ----------
    copies : int or None
        Fewest replicas that may meet the SLO; None if no number does.
    why : str
        What rules out fewer, or all.
    """

    copies: int | None
    why: str


def bound_of(
    deployment: Deployment, settings: EngineSettings, block: RequestBlock, level: Mapping[str, float]
) -> Bound:
    """Return the fewest replicas of a deployment that may meet an SLO for given requests.

    Parameters
    ----------
    block : RequestBlock
        All requests, with their arrivals.
    level : mapping of str to float
        As `service_level.read_level` gives it [s].
    """
    sides = deployment.pools or (deployment,)
    try:
        for side in sides:
            rules = kv_rules(side, settings.cache_for(side))
            check_fits(rules, block.input_tokens, block.output_tokens, block.request_id, deployment.system.name)
    except CapacityError as error:
        return Bound(None, f"memory: {error.reason}")
    least = least_of(deployment)
    if least is None or block.hash_ids is not None or block.turns is not None:
        return Bound(1, "")  # prompts found in a cache are not computed
    lone = _lone(least, block, level)
    if lone:
        return Bound(None, f"roofline: {lone}")
    engines = _engines(deployment, settings, least, rules, block, level)
    copies = max(int(np.ceil(engines / deployment.replicas * (1.0 - ROUNDING))), 1)
    return Bound(copies, f"roofline: needs {engines:.2f} engines at nominal rates")


def served(share: str, count: int) -> tuple[int, float]:
    """Requests of `count` that come within a multiple of a limit on their quantile, or mean.

    Examples
    --------
    >>> served("p99", 201), served("mean", 5)
    ((199, 1.0), (3, 2.0))
    """
    part = share_of(share)
    if part is None:
        return (count + 1) // 2, 2.0
    return int(np.floor(part * (count - 1) + ROUNDING)) + 1, 1.0


def _lone(least: Least, block: RequestBlock, level: Mapping[str, float]) -> str:
    """Which limit requests would miss even one at a time; empty where none is."""
    first = block.input_tokens * least.lone_s / least.stages
    gap = least.pass_s + least.keys_s(block.input_tokens)
    gaps = block.output_tokens - 1
    shortest = {"ttft": first, "tpot": gap[gaps > 0], "e2e": first + gaps * gap}
    for name, most in level.items():
        measure, _, share = name.partition("_")
        lone = shortest.get(measure)
        if lone is None or not len(lone):
            continue
        part = share_of(share)
        figure = float(lone.mean() if part is None else np.quantile(lone, part))
        if figure * (1.0 - ROUNDING) > most:
            return (
                f"{name.replace('_', ' ')} is at least {figure:.4g} s at nominal rates, of one "
                f"request at a time ({most:.4g} s allowed)"
            )
    return ""


def _engines(
    deployment: Deployment, settings: EngineSettings, least: Least, rules: KvRules, block: RequestBlock,
    level: Mapping[str, float],
) -> float:  # fmt: skip
    """Engines whose devices have time enough for what must be done by some moment."""
    n, last = len(block), float(block.arrival_s[-1])
    most = [0.0]
    limits: dict[str, list[tuple[int, float]]] = {}
    for name, limit in level.items():
        measure, _, share = name.partition("_")
        if measure in ("ttft", "e2e"):
            count, times = served(share, n)
            limits.setdefault(measure, []).append((count, times * limit))
        elif measure == "tpot":
            several = int((block.output_tokens > 1).sum())
            count, times = served(share, several) if several else (0, 1.0)
            limits.setdefault(measure, []).append((n - (several - count), times * limit))
    tokens = np.cumsum(np.sort(block.input_tokens)).astype(float)
    for count, limit in limits.get("ttft", []):
        work = float(tokens[count - 1]) * least.token_s / least.stages
        most.append(work / (last + limit))
    ends = list(limits.get("e2e", []))
    longest = float(block.output_tokens.max() - 1)
    for a, first in limits.get("ttft", []):
        ends += [(a + b - n, first + longest * gap) for b, gap in limits.get("tpot", [])]
    work_s = _whole(deployment, settings, least, rules, block)
    most += [float(work_s[count - 1]) / (last + limit) for count, limit in ends if count > 0]
    return max(most)


def _whole(deployment: Deployment, settings: EngineSettings, least: Least, rules: KvRules, block: RequestBlock) -> F8:
    """Device time of the requests that take least of it, all of their tokens: of 1, 2, ... of them [s]."""
    gaps = block.output_tokens - 1
    sizes = sequence_bytes(rules, block.input_tokens) / rules.capacity
    steps = np.maximum(gaps / settings.policy.max_sequences, gaps * sizes) / least.ranks
    products = (block.input_tokens + gaps) * least.token_s
    reads = gaps * least.keys_s(block.input_tokens) / least.ranks
    sums = [np.cumsum(np.sort(series)) for series in (products, steps * least.pass_s, reads)]
    beside = np.maximum(sums[0], sums[1])
    side_by_side = len(deployment.device.processors) > 1 or deployment.run.joint
    total = np.maximum(beside, sums[2]) if side_by_side else beside + sums[2]
    out: F8 = total / least.stages
    return out
