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

from ....devices.calibrated.model import CalibratedModel
from ....devices.cost import Roofline
from ....devices.dram.model import DerivedRoofline
from ....simulator.deploy.deployment import Deployment
from ....simulator.deploy.placement import alone_in_cache
from ....simulator.engine.kv import KvRules, check_fits, kv_rules, sequence_bytes
from ....simulator.frameworks.settings import EngineSettings
from ....simulator.step.sections import sections_of
from ....workloads.batch import Batch
from ....workloads.errors import CapacityError
from ....workloads.latencies import latency_of, share_of
from ....workloads.layers import Attention, FeedForward, LatentAttention, MixtureOfExperts
from ....workloads.ops import Loads, Op
from ....workloads.requests import RequestBlock

I8 = npt.NDArray[np.int64]

SCALES = 0.99
"""Share of an op's bytes in the bound. It excludes the scales of 128 x 128 blocks (0.2 % of the weights), which the fitted
models' least traffic does not include."""
KINDS = (Attention, LatentAttention, FeedForward, MixtureOfExperts)
"""Layer kinds in which every token does all products, with `top_k` experts each."""
MODELS = (Roofline, CalibratedModel, DerivedRoofline)
"""Cost models that never exceed nominal rates. Measured tables, fitted lines and user-defined kinds may."""


@dataclass(frozen=True, slots=True)
class Least:
    """Lower bounds on the times of an engine's work [s].

    Attributes
    ----------
    token_s : float
        Matmuls of one token in all stages, evenly distributed over the engine's devices.
    lone_s : float
        The same if one rank has all tokens and the others none.
    pass_s : float
        Reading the weights of all layers once, including the experts of one token.
    key_s : mapping of int to float
        Attention window [tokens] (0 = none) -> a decode's time to read one cached token in all layers with this window.
    ranks, stages : int
        Data-parallel ranks and pipeline stages of the engine.
    """

    token_s: float
    lone_s: float
    pass_s: float
    key_s: Mapping[int, float]
    ranks: int
    stages: int

    def keys_s(self, context: I8) -> F8:
        """Return the least time of a decode to read its KV cache [s], by context length [tokens]; shape as `context`."""
        out = np.zeros(context.shape)
        for window, per_key_s in self.key_s.items():
            out = out + per_key_s * (np.minimum(context, window) if window else context)
        return out


def least_of(deployment: Deployment) -> Least | None:
    """Return the lower bounds of a deployment; None if its simulated times may be below them.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from opbyte.devices.catalog import load_system
    >>> from opbyte.simulator.deploy.deployment import deploy
    >>> from opbyte.workloads.catalog import load_model
    >>> plain = deploy(load_model("llama-3-8b"), load_system("h100-x1"))
    >>> least_of(replace(plain, several=2)), least_of(replace(plain, pools=(plain, plain)))
    (None, None)
    """
    device = deployment.device
    if not all(type(part) in KINDS for layer in deployment.shard.layers for part in layer.parts):
        return None
    if deployment.kernels or deployment.pools or device.spec.lines or deployment.system.mapping.separate:
        return None
    if (
        deployment.several > 1 or deployment.parts.get("expert-copies") is not None
    ):  # several tokens per step, or redundant experts
        return None
    if not all(isinstance(p.model, MODELS) for p in device.processors.values()):
        return None
    rate = _Rates(deployment)
    decode, prompt = (_layer_ops(deployment, b) for b in (Batch.of([0]), Batch.of([], [(1, 0)])))
    flop_s = min(sum(rate.flop_s(op) * layers for op, layers in ops if op.product) for ops in (decode, prompt))
    read_s = sum(rate.read_s(op.weight_bytes) * n for op, n in decode if op.product)
    keys: dict[int, float] = {}
    for op, layers in decode:
        if alone_in_cache(op):
            window = int(op.shape.get("window", 0))
            keys[window] = keys.get(window, 0.0) + rate.read_s(op.kv_read_bytes) * layers
    dealt = lone = 0.0
    for part in deployment.experts:
        routed = part.spec.routed
        op = part.spec.expert_op(Loads(np.ones(1), np.array([float(routed.top_k)])), deployment.run)
        flop_s_each = rate.flop_s(op) * part.layers / part.ep
        dealt += flop_s_each if routed.spreads else flop_s_each / deployment.ranks
        lone += flop_s_each if routed.spreads else flop_s_each / deployment.ranks
        read = rate.read_s(op.weight_bytes) * part.layers / part.ep
        read_s += read if routed.spreads else 0.0
    return Least(flop_s / deployment.ranks + dealt, flop_s + lone, read_s, keys, deployment.ranks, deployment.layout.pp)


def _layer_ops(deployment: Deployment, batch: Batch) -> list[tuple[Op, int]]:
    """Return the ops of all layers for a rank's batch, without experts, each with its number of layers."""
    m = batch.moments(deployment.shard.windows)
    return [
        (op, section.layers)
        for section in sections_of(deployment)
        if section.layer is not None  # excludes the embedding, the head and transfers
        for op in section.build(m)
    ]


class _Rates:
    """All processors of a device together, at nominal rates."""

    def __init__(self, deployment: Deployment) -> None:
        self.processors = list(deployment.device.processors.values())
        self.bandwidth = sum(p.bandwidth for p in self.processors)

    def flop_s(self, op: Op) -> float:
        return op.flops / sum(p.peak.get(op.dtype, 0.0) for p in self.processors)

    def read_s(self, size: float) -> float:
        return SCALES * size / self.bandwidth


F8 = npt.NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Bound:
    """Lower bound on a candidate's replicas, known before it is simulated.

    Attributes
    ----------
    copies : int or None
        Fewest replicas that may meet the SLO; None if no number does.
    why : str
        Reason why fewer replicas fail, or all.
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
        As `loads.read_level` gives it [s].
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
        return Bound(1, "")  # with a prefix cache, cached prompt tokens are not computed
    lone = _lone(least, block, level)
    if lone:
        return Bound(None, f"roofline: {lone}")
    engines = _engines(deployment, settings, least, rules, block, level)
    copies = max(int(np.ceil(engines / deployment.replicas * (1.0 - ROUNDING))), 1)
    return Bound(copies, f"roofline: needs {engines:.2f} engines at nominal rates")


def served(share: str, count: int) -> tuple[int, float]:
    """Return how many of `count` requests must be within a multiple of a limit on a quantile or mean, and the multiple.

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
    """Return the limit that even requests served one at a time exceed, as text; empty if there is none.

    Examples
    --------
    >>> one, least = RequestBlock(*np.array([[0], [0], [100], [2]])), Least(0.0, 1e-3, 0.0, {}, 1, 1)
    >>> _lone(least, one, {"ttft_p99": 0.1})
    ''
    >>> _lone(least, one, {"ttft_p99": 0.09})
    'ttft p99 is at least 0.1 s at nominal rates, of one request at a time (0.09 s allowed)'
    >>> _lone(Least(0.0, 1e-3, 0.02, {}, 1, 1), one, {"e2e_p99": 0.11})
    'e2e p99 is at least 0.12 s at nominal rates, of one request at a time (0.11 s allowed)'
    """
    first = block.input_tokens * least.lone_s / least.stages
    gap = least.pass_s + least.keys_s(block.input_tokens)
    gaps = block.output_tokens - 1
    shortest = {"ttft": first, "tpot": gap[gaps > 0], "e2e": first + gaps * gap}
    for name, most in level.items():
        latency = latency_of(name)
        lone = None if latency is None else shortest.get(latency.measure)
        if latency is None or lone is None or not len(lone):
            continue
        part = latency.share
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
    """Return the least number of engines, not rounded, that have time for the work due at every deadline."""
    n, last = len(block), float(block.arrival_s[-1])
    most = [0.0]
    limits: dict[str, list[tuple[int, float]]] = {}
    for name, limit in level.items():
        measure, share, *_ = latency_of(name) or ("", "")
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
    """Return the least device time of 1, 2, ... n whole requests, shape (n,) [s]."""
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
