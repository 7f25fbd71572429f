"""Read-ME's experts: a cache in front of six, and batches formed by expert.

Nothing published of its results is read here. Accesses are uniform and independent: batching removes
what locality a request has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import inf

import numpy as np
import numpy.typing as npt

from opbyte.extend import Batch, Deployment, Loads, ModelSpec, deploy, load_model, load_system, open_requests
from opbyte.extend.models import MixtureOfExperts
from opbyte.extend.systems import explicit_stage, processors_of

from .expert_sequences import hit_rate
from .read_me_batches import first_come, longest_queues

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
    """The sequence of experts that is asked for."""
    return np.random.default_rng([seed, 0x5E]).integers(0, EXPERTS, ACCESSES)


@cache
def rate(policy: str, size: int, seed: int, look_ahead: float = inf) -> float:
    """Hit rate of a cache of `size` experts."""
    steps = [(int(expert),) for expert in accesses(seed)]
    return hit_rate(steps, size, policy, look_ahead=look_ahead, seed=seed)


@lru_cache
def model() -> ModelSpec:
    """Llama-2-7B with its MLP split into experts, one of them for a token in all layers."""
    dense = load_model("llama-2-7b")
    moe = MixtureOfExperts(hidden=dense.hidden, experts=EXPERTS, top_k=1, width=WIDTH, shared_width=SHARED_WIDTH)
    layer = dense.layers[0]
    split = type(layer)(layer.mixer, moe, layer.norms, layer.norm_width)
    return type(dense)(
        "read-me", "built here", dense.hidden, dense.vocab, (split,) * len(dense.layers),
        dense.tied, dense.numerics, dense.extra_weights, dense.max_position, "Read-ME, 3 and 4",
    )  # fmt: skip


class StepTimes:
    """Seconds of a decode step by its tokens and the loads of its experts."""

    def __init__(self) -> None:
        self.d: Deployment = deploy(model(), load_system(SYSTEM))
        self._dense: dict[int, float] = {}
        self._experts: dict[tuple[int, ...], float] = {}

    def seconds(self, loads: Sequence[int]) -> float:
        """A step with so many tokens for each expert, the same in all layers."""
        key = tuple(sorted(loads))
        if key not in self._experts:
            part = self.d.experts[0]
            op = part.spec.expert_op(Loads.drawn(np.array(key)), self.d.run)
            one = processors_of(self.d.device)[0].model.cost(op).seconds
            self._experts[key] = one * len(self.d.experts)
        return self._without_experts(sum(loads)) + self._experts[key]

    def _without_experts(self, tokens: int) -> float:
        if tokens not in self._dense:
            found = explicit_stage(self.d, [Batch.of([CONTEXT] * tokens)], expected=True)
            parts = found.times(lambda placed: placed.op.kind)
            self._dense[tokens] = found.seconds - parts["experts"]
        return self._dense[tokens]


@dataclass(frozen=True, slots=True)
class Served:
    """Requests decoded under one way of forming batches.

    Attributes
    ----------
    distinct : float
        Experts of a batch, mean.
    latencies : float64 array
        Of requests, from their first to their last step [s].
    """

    distinct: float
    latencies: npt.NDArray[np.float64]


def served(former: Former, seed: int, times: StepTimes, streams: int = STREAMS) -> Served:
    """Decode requests of the sample of the library, so many streams at once, `LIMIT` tokens a step.

    A stream has one token waiting at a time, each of an expert of its own, and begins the next request
    as one ends.
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
    return Served(float(np.mean(distinct)), np.array(latencies))
