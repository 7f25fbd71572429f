"""Read-ME (arXiv 2410.19123): one expert for all layers, chosen before the model runs.

What is known ahead is what is queued: a cache that evicts what the queue needs last, and batches formed
by expert. Both are simulated on uniform, independent accesses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import inf

import numpy as np
import numpy.typing as npt

from opbyte.extend import Batch, Deployment, Loads, ModelSpec, Table, deploy, load_model, load_system, open_requests
from opbyte.extend.models import MixtureOfExperts
from opbyte.extend.systems import CACHE_POLICIES, Chances, ExpertCache, explicit_stage, processors_of

from .published import Prediction, paper


def first_come(experts: Sequence[int], limit: int) -> list[int]:
    """Return the positions of the tokens that have waited longest."""
    return list(range(min(limit, len(experts))))


def longest_queues(experts: Sequence[int], limit: int) -> list[int]:
    """Return the tokens of the longest queues, one queue after another, until the batch is full (Read-ME, algorithm 1).

    Parameters
    ----------
    experts : sequence of int
        Expert of each waiting token, the one that has waited longest first.
    limit : int
        Most tokens of a batch.

    Returns
    -------
    list of int
        Positions of the tokens taken; of equally long queues, the one with the longest waiting token comes first.

    Examples
    --------
    >>> longest_queues([2, 0, 1, 0, 1, 0], 4)
    [1, 3, 5, 2]
    """
    queues: dict[int, list[int]] = {}
    for i, expert in enumerate(experts):
        queues.setdefault(expert, []).append(i)
    order = sorted(queues.values(), key=lambda queue: (-len(queue), queue[0]))
    return [i for queue in order for i in queue][:limit]


def next_uses(steps: Sequence[Collection[int]], look_ahead: float = inf) -> list[dict[int, float]]:
    """Return, after each step, the number of steps until each expert's next use, within `look_ahead` steps.

    Examples
    --------
    >>> next_uses([{0}, {1}, {0}])
    [{1: 1.0, 0: 2.0}, {0: 1.0}, {}]
    """
    out: list[dict[int, float]] = [{} for _ in steps]
    known: dict[int, int] = {}
    for t in range(len(steps) - 1, -1, -1):
        near = sorted((at - t, e) for e, at in known.items())
        out[t] = {e: float(ahead) for ahead, e in near if ahead <= look_ahead}
        known |= dict.fromkeys(steps[t], t)
    return out


def drawn_by(seed: int) -> Chances:
    """Return a function of random numbers for evictions, which depend on a seed and the clock."""

    def chances(clock: int, experts: Sequence[int]) -> list[float]:
        return [float(x) for x in np.random.default_rng([seed, clock]).random(len(experts))]

    return chances


def replay(
    steps: Sequence[Collection[int]], size: int, policy: str, *, look_ahead: float = inf,
    names: Sequence[Collection[int]] | None = None, seed: int = 0, staging: bool = False,
) -> ExpertCache:  # fmt: skip
    """Replay a sequence of steps with an initially empty cache; return the cache with its counts.

    Parameters
    ----------
    steps : sequence of collections of int
        Experts that each step uses.
    size : int
        Slots.
    policy : str
        A name of `CACHE_POLICIES`.
    look_ahead : float
        Steps that are known ahead, for policies that ask.
    names : sequence of collections of int, optional
        Experts that a predictor names for each step.
    staging : bool
        See `ExpertCache`.
    """
    cache = ExpertCache(size, policy, drawn_by(seed), staging=staging)
    looks = CACHE_POLICIES[policy].looks_ahead
    ahead = next_uses(steps, look_ahead) if looks else [{}] * len(steps)
    named: Sequence[Collection[int]] = [()] * len(steps) if names is None else names
    for step, known, name in zip(steps, ahead, named, strict=True):
        cache.touch(step, known, name)
    return cache


def hit_rate(
    steps: Sequence[Collection[int]], size: int, policy: str, *, look_ahead: float = inf,
    names: Sequence[Collection[int]] | None = None, seed: int = 0,
) -> float:  # fmt: skip
    """Return the share of expert uses that hit the cache; see `replay`."""
    cache = replay(steps, size, policy, look_ahead=look_ahead, names=names, seed=seed)
    return cache.hits / max(1, cache.hits + cache.misses)


EXPERTS, WIDTH, SHARED_WIDTH = 6, 5504, 320
"""Half of Llama-2-7B's MLP each, and the small part that always runs: 4.7 billion active weights."""
ACCESSES = 8_000
LOOK_AHEAD = 3
SYSTEM = "a100-80gb-x1"
LIMIT, REQUESTS, CONTEXT = 16, 150, 512
STREAMS = 2 * LIMIT
Former = Callable[[Sequence[int], int], list[int]]
FORMERS: dict[str, Former] = {"fcfs": first_come, "by_expert": longest_queues}


def accesses(seed: int) -> npt.NDArray[np.int64]:
    """Return the sequence of experts that are accessed."""
    return np.random.default_rng([seed, 0x5E]).integers(0, EXPERTS, ACCESSES)


@cache
def rate(policy: str, size: int, seed: int, look_ahead: float = inf) -> float:
    """Return the hit rate of a cache of `size` experts."""
    steps = [(int(expert),) for expert in accesses(seed)]
    return hit_rate(steps, size, policy, look_ahead=look_ahead, seed=seed)


@lru_cache
def model() -> ModelSpec:
    """Return Llama-2-7B with its MLP split into experts; a token uses one expert, the same in all layers."""
    dense = load_model("llama-2-7b")
    moe = MixtureOfExperts(hidden=dense.hidden, experts=EXPERTS, top_k=1, width=WIDTH, shared_width=SHARED_WIDTH)
    layer = dense.layers[0]
    split = type(layer)(layer.mixer, moe, layer.norms, layer.norm_width)
    return type(dense)(
        "read-me", "built here", dense.hidden, dense.vocab, (split,) * len(dense.layers),
        dense.tied, dense.numerics, dense.extra_weights, dense.max_position, "Read-ME, 3 and 4",
    )  # fmt: skip


class StepTimes:
    """Predicted times of decode steps, cached by the number of tokens and the loads of experts."""

    def __init__(self) -> None:
        self.d: Deployment = deploy(model(), load_system(SYSTEM))
        self._dense: dict[int, float] = {}
        self._experts: dict[tuple[int, ...], float] = {}

    def seconds(self, loads: Sequence[int]) -> float:
        """Return the time of a step with the given tokens for each expert, the same in all layers."""
        key = tuple(sorted(loads))
        if key not in self._experts:
            part = self.d.experts[0]
            op = part.spec.expert_op(Loads.drawn(np.array(key)), self.d.run)
            one = processors_of(self.d.device)[0].model.cost(op).seconds
            self._experts[key] = one * len(self.d.experts)
        return self._without_experts(sum(loads)) + self._experts[key]

    def _without_experts(self, tokens: int) -> float:
        if tokens not in self._dense:
            stage = explicit_stage(self.d, [Batch.of([CONTEXT] * tokens)], expected=True)
            parts = stage.times(lambda placed: placed.op.kind)
            self._dense[tokens] = stage.seconds - parts["experts"]
        return self._dense[tokens]


@dataclass(frozen=True, slots=True)
class RunState:
    """Statistics of decoded requests under one rule for forming batches.

    Attributes
    ----------
    distinct : float
        Experts of a batch, mean.
    latencies : float64 array
        Of requests, from their first to their last step [s].
    """

    distinct: float
    latencies: npt.NDArray[np.float64]


def served(former: Former, seed: int, times: StepTimes, streams: int = STREAMS) -> RunState:
    """Serve decode requests of the library's sample with `streams` streams at once, `LIMIT` tokens a step.

    A stream has one waiting token at a time, each with its own expert, and begins the next request when one ends.
    """
    lengths = np.concatenate([block.output_tokens for block in open_requests(None, limit=REQUESTS, seed=seed)])
    rng = np.random.default_rng([seed, 0xA])
    left = [int(n) for n in lengths[:streams]]
    began, nexts = [0.0] * streams, streams
    queue = [(stream, int(rng.integers(EXPERTS))) for stream in range(streams)]
    now, distinct, latencies = 0.0, [], []
    while queue:
        chosen = former([expert for _, expert in queue], LIMIT)
        loads = np.bincount([queue[i][1] for i in chosen], minlength=EXPERTS)
        now += times.seconds([int(n) for n in loads])
        if nexts < len(lengths):  # while all streams are busy
            distinct.append(int((loads > 0).sum()))
        ran = [queue[i][0] for i in chosen]
        taken = set(chosen)
        queue = [token for i, token in enumerate(queue) if i not in taken]
        for stream in sorted(ran):
            left[stream] -= 1
            if left[stream] == 0:
                latencies.append(now - began[stream])
                if nexts == len(lengths):
                    continue
                left[stream], began[stream], nexts = int(lengths[nexts]), now, nexts + 1
            queue.append((stream, int(rng.integers(EXPERTS))))
    return RunState(float(np.mean(distinct)), np.array(latencies))


SIZES = (2, 3, 4, 5)
CLOSE = 0.03
"""Tolerance for equal random and LRU."""


def predictions(seeds: Sequence[int] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """Return all rows, simulated. Accesses are uniform for any routing: this is the paper's assumption."""
    yield from _hits(seeds)
    yield from _batches(seeds)


def mean_rate(policy: str, size: int, seeds: Sequence[int], look_ahead: float = inf) -> float:
    """Return the hit rate of a cache as the mean over seeds."""
    return float(np.mean([rate(policy, size, seed, look_ahead) for seed in seeds]))


def _hits(seeds: Sequence[int]) -> Iterator[Prediction]:
    near = {"random": inf, "lru": inf, "belady": float(LOOK_AHEAD)}
    rates = {(policy, size): mean_rate(policy, size, seeds, ahead) for policy, ahead in near.items() for size in SIZES}
    for (policy, size), value in rates.items():
        yield Prediction(f"read-me.hit.{policy}.c{size}", value)
    ordered = all(rates["belady", size] > max(rates["lru", size], rates["random", size]) for size in SIZES)
    equal = all(abs(rates["lru", size] - rates["random", size]) <= CLOSE for size in SIZES)
    yield Prediction("read-me.hit.order", float(ordered))
    yield Prediction("read-me.lru_equals_random", float(equal))


def _batches(seeds: Sequence[int]) -> Iterator[Prediction]:
    times = StepTimes()
    runs = {name: [served(former, seed, times) for seed in seeds] for name, former in FORMERS.items()}
    for name, batched in runs.items():
        yield Prediction(f"read-me.batch.distinct.{name}", float(np.mean([run.distinct for run in batched])))
    took = {name: np.concatenate([run.latencies for run in batched]) for name, batched in runs.items()}
    for name, value in (
        ("mean", {k: float(x.mean()) for k, x in took.items()}),
        ("p95", {k: float(np.quantile(x, 0.95)) for k, x in took.items()}),
    ):
        yield Prediction(f"read-me.latency.{name}_change", value["by_expert"] / value["fcfs"] - 1)


def batch_table(seeds: Sequence[int], _: str = "") -> Table:
    """Compare experts per batch and request latencies of both batching rules by the number of streams."""
    times, rows = StepTimes(), []
    for streams in (LIMIT, 3 * LIMIT // 2, 2 * LIMIT, 3 * LIMIT):
        runs = {name: served(former, seeds[0], times, streams) for name, former in FORMERS.items()}
        row: dict[str, float] = {"streams": streams}
        row |= {f"experts, {name}": run.distinct for name, run in runs.items()}
        first, ours = runs["fcfs"].latencies, runs["by_expert"].latencies
        row["mean latency change"] = float(ours.mean() / first.mean() - 1)
        row["p95 latency change"] = float(np.quantile(ours, 0.95) / np.quantile(first, 0.95) - 1)
        rows.append(row)
    note = f"{LIMIT} tokens a step; with as many streams there is nothing to choose"
    return Table("batches", "Batches by expert against first come", rows, note)


def hit_table(seeds: Sequence[int], _: str = "") -> Table:
    """Compare hit rates by cache policy, look-ahead and cache size."""
    policies = {"random": ("random", inf), "lru": ("lru", inf), "lfu": ("lfu", inf),
                "belady:1": ("belady", 1.0), "belady:2": ("belady", 2.0),
                "belady:3": ("belady", 3.0), "belady, all ahead": ("belady", inf)}  # fmt: skip
    rows = [
        {"batch": 1, "slots": size}
        | {name: mean_rate(policy, size, seeds, ahead) for name, (policy, ahead) in policies.items()}
        for size in (1, *SIZES, EXPERTS)
    ]
    note = "one access a step; belady:N knows N accesses ahead"
    return Table("hits", f"Hit rates of {EXPERTS} experts by policy", rows, note)


paper(
    "read-me", "Read-ME: hit rates of caches that know the queue, and batches formed by expert.", predictions,
    seeded=True, tables=(hit_table, batch_table), drawn={"hit_rates": hit_table},
)  # fmt: skip
