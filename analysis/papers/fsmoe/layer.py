"""One MoE layer as FSMoE cuts it over a testbed: its ops, and what lines say they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from opbyte.extend import Batch, Cost, Loads, Op, Run, load_device
from opbyte.extend.devices import LinkModel, SharedMemoryDevice, build_device
from opbyte.extend.models import Attention, MixtureOfExperts, Numerics
from opbyte.extend.systems import Layout, all_reduce, all_to_all, gather_tokens

F8 = npt.NDArray[np.float64]

RUN = Run(Numerics("fp32"), "unfused")
"""The fits are of 32-bit elements; scores of attention are whole matrices."""
TOP_K = 2
SIMPLE, MIXTRAL = 2, 3
"""Matrices of an expert."""

NAMES = ("dispatch", "gather", "experts", "scatter", "attention", "mp_gather", "mp_scatter", "gradient")
"""Ops of a layer."""


@dataclass(frozen=True, slots=True)
class Testbed:
    """Nodes of equal devices: data parallel between them, all else within one.

    Attributes
    ----------
    device : str
        Catalog name, with the lines in use.
    nodes, per_node : int
    lengths : tuple of int
        Of the sequences of its layers [tokens].
    """

    device: str
    nodes: int
    per_node: int
    lengths: tuple[int, ...]

    @property
    def layout(self) -> Layout:
        """One expert a node, cut over its devices, as attention is."""
        return Layout(self.per_node, self.nodes, self.nodes, self.per_node)


@dataclass(frozen=True, slots=True)
class Size:
    """A layer, and what it works on.

    Attributes
    ----------
    batch : int
        Sequences a node.
    length : int
    hidden, width : int
        Of the model, and of an expert.
    capacity : float
        Tokens that an expert takes, over its even share.
    matrices : int
        `SIMPLE` or `MIXTRAL`, which has a quarter of the key and value heads too.
    heads : int
    """

    batch: int
    length: int
    hidden: int
    width: int
    capacity: float
    matrices: int
    heads: int


def layers(testbed: Testbed) -> list[Size]:
    """The 1,458 layers of the paper's Table 4; capacity 1 where no token is dropped."""
    return [
        Size(batch, length, hidden, times * hidden, capacity, matrices, heads)
        for batch, heads, length, hidden, times, capacity, matrices in product(
            (1, 2, 4), (8, 16, 32), testbed.lengths, (1024, 2048, 4096), (2, 3, 4), (1.2, 2.4, 1.0), (SIMPLE, MIXTRAL)
        )
    ]


def ops_of(size: Size, layout: Layout) -> dict[str, Op]:
    """Forward ops of one device by name; the gradient is of the dense part, once a backward pass."""
    tokens, hidden, tp = float(size.batch * size.length), size.hidden, layout.tp
    routed = TOP_K * size.capacity * tokens
    experts = MixtureOfExperts(hidden, layout.ep, TOP_K, size.width, size.matrices)
    shards = experts.shard_experts(layout.ep, layout.expert_tp)
    kv_heads = size.heads // 4 if size.matrices == MIXTRAL else size.heads
    dense = Attention(hidden, size.heads, kv_heads, hidden // size.heads)
    values = sum(w.total for w in dense.weights()) / tp
    esp, mp = (routed / tp, hidden, tp, RUN), (tokens / tp, hidden, tp, RUN)
    return {
        "dispatch": all_to_all("dispatch", size.capacity * tokens, hidden, TOP_K, 1, layout.dp, RUN),
        "gather": gather_tokens("all_gather", "esp", *esp),
        "experts": shards.expert_op(Loads(np.array([routed]), np.ones(1)), RUN),
        "scatter": gather_tokens("reduce_scatter", "esp", *esp),
        "attention": _attention(size, tp),
        "mp_gather": gather_tokens("all_gather", "mp", *mp),
        "mp_scatter": gather_tokens("reduce_scatter", "mp", *mp),
        "gradient": all_reduce("gradient", values / hidden, hidden, layout.dp, RUN),
    }


def _attention(size: Size, tp: int) -> Op:
    """Projections and scores as the one op that is timed, all four projections counted whole."""
    spec = Attention(size.hidden, size.heads, size.heads, size.hidden // size.heads)
    m = Batch.of([], [(size.length, 0)] * size.batch).moments((0,))
    flops = sum(op.flops for op in spec.ops(m, RUN, None) if op.product or op.kind.startswith("attention"))
    return Op("attention", "attention", "attention", "prefill", {}, RUN.numerics.default, flops / tp)


@cache
def built(device: str) -> SharedMemoryDevice:
    """A device with its lines."""
    return build_device(load_device(device)[0], calibrated=True)


def price(op: Op, testbed: Testbed) -> Cost:
    """What the lines of a testbed say of an op."""
    device = built(testbed.device)
    if op.exchange:
        return LinkModel(device.spec.link, int(op.shape["ranks"]), device.collectives).cost(op)
    return device.processors["xpu"].model.cost(op)


@dataclass(frozen=True, slots=True)
class Times:
    """Forward seconds of many layers: ``alpha + beta n / chunks`` of every op.

    Attributes
    ----------
    alpha, slope : mapping of str to float64 array, shape (n,)
        By op name.
    """

    alpha: Mapping[str, F8]
    slope: Mapping[str, F8]

    def of(self, name: str, chunks: int = 1) -> F8:
        """Seconds of an op of one chunk."""
        return self.alpha[name] + self.slope[name] / chunks


def times_of(sizes: Sequence[Size], testbed: Testbed) -> Times:
    """Return the times of the ops of every layer."""
    costs = [{name: price(op, testbed) for name, op in ops_of(size, testbed.layout).items()} for size in sizes]
    alpha = {name: np.array([cost[name].fixed_s for cost in costs]) for name in NAMES}
    seconds = {name: np.array([cost[name].seconds for cost in costs]) for name in NAMES}
    return Times(alpha, {name: seconds[name] - alpha[name] for name in NAMES})
