"""Hecate (arXiv 2502.02581): experts sharded over all devices, the most loaded copied in every layer.

Routing is not published; the power law's exponent was chosen after seeing the gains of cluster A on 16 devices. So
those two rows are a consistency check, and the other clusters are the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from statistics import fmean

import numpy as np
import numpy.typing as npt

from opbyte.extend import Deployment, Loads, ModelSpec, Op, Table, load_system
from opbyte.extend.models import layer_ops, model_from_keys
from opbyte.extend.streams import COMPUTE, NODE_LINK, Builder, Timeline, run
from opbyte.extend.systems import Dispatch, ExpertPart, ExpertPlacing, flows, sites_of
from opbyte.extend.training import (
    NOTHING,
    BytesPerWeight,
    LayerPrices,
    RepeatedOp,
    TrainingOptions,
    backward,
    training_deployment,
    training_layout,
    whole_sequences,
)

from .published import Prediction, paper

F8 = npt.NDArray[np.float64]

VOCABULARY, HEAD = 50_257, 64
"""Assumed: GPT-2's vocabulary and width of a head; neither is printed."""
HELD = 5.73
"""Weights of experts on a device as a multiple of expert parallelism's; an input, the paper's section 5.3."""
REMATERIALISED = 0.098
"""Share of the additional weights that remains in memory if layers are gathered again; an input."""
EP, HECATE = "expert parallel", "Hecate"


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of the paper's Table 1, and the sequences per device (assumed: not printed)."""

    name: str
    hidden: int
    length: int
    layers: int
    sequences: int


SHAPES = (
    Shape("GPT-MoE-S", 768, 2048, 12, 4),
    Shape("GPT-MoE-L", 1536, 2048, 12, 4),
    Shape("BERT-MoE", 1024, 512, 12, 16),
    Shape("BERT-MoE-Deep", 1024, 512, 24, 16),
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, and the number of experts per layer that the paper uses on it."""

    name: str
    system: str
    experts: int


CLUSTERS = (Cluster("A16", "hecate-a-2x8", 32), Cluster("A32", "hecate-a-4x8", 64), Cluster("B32", "hecate-b-4x8", 64))


def model_of(shape: Shape, experts: int) -> ModelSpec:
    """Return a model with experts in every layer, each of two matrices (d x 2d)."""
    keys = {
        "architectures": ["DeepSpeedMoE"], "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.hidden // HEAD,
        "intermediate_size": 2 * shape.hidden, "num_experts": experts, "num_experts_per_tok": 2,
        "moe_layer_freq": 1, "vocab_size": VOCABULARY, "max_position_embeddings": shape.length,
        "tie_word_embeddings": True, "torch_dtype": "float16",
    }  # fmt: skip
    return model_from_keys(keys, name=shape.name, where="Hecate, Table 1")


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of a layer's tasks: dense part and experts in both passes, exchanges, gathers and scatters."""

    dense: float
    dense_back: float
    experts: float
    experts_back: float
    exchange: float
    gather: float = 0.0
    scatter: float = 0.0


@dataclass(frozen=True, slots=True)
class Iteration:
    """One training iteration: its timeline, its layers' times and its copied experts.

    Attributes
    ----------
    timeline : Timeline
    layers : tuple of LayerTimes
    copies : tuple of int
        Experts of each layer that are copied to every device.
    """

    timeline: Timeline
    layers: tuple[LayerTimes, ...]
    copies: tuple[int, ...]

    @property
    def seconds(self) -> float:
        return self.timeline.makespan


class Trained:
    """Training of a model on a cluster, by expert parallelism and by Hecate with the same cost models."""

    def __init__(self, shape: Shape, cluster: Cluster, routing: str) -> None:
        model, system = model_of(shape, cluster.experts), load_system(cluster.system)
        devices = system.groups
        options = TrainingOptions(
            shape.sequences * devices, shape.length, micro_batch=shape.sequences, zero=0, recompute="none"
        )
        self.layout = training_layout(model, system, options, tp=1, ep=devices)
        self.deployment: Deployment = training_deployment(model, system, self.layout, routing=routing, costs="roofline")
        self.each = BytesPerWeight.adam(model.numerics.act_bytes)
        m = whole_sequences(shape.sequences, shape.length, model.windows)
        self.bench = LayerPrices(self.deployment, self.layout, options, m, self.each)
        self.tokens = m.tokens * devices
        self.nic = system.device.node_link.bandwidth_bytes_per_s * system.groups_per_node
        self.nvlink = system.device.link.bandwidth_bytes_per_s

    def priced(self, op: Op) -> tuple[float, float]:
        """Return the seconds of an op's forward pass and of its backward pass."""
        price, numerics = self.bench.prices.op, self.deployment.run
        behind = backward(op, numerics, self.each.gradients)
        return price(RepeatedOp(op)), sum(price(work) for work in behind)

    @cached_property
    def dense(self) -> tuple[float, float]:
        """Seconds of a layer without its experts, forward and backward; all layers are equal."""
        layer = self.deployment.shard.layers[0]
        ops = [op for part in layer_ops(layer, self.bench.m, self.deployment.run, NOTHING)
               for op in part if not op.routed]  # fmt: skip
        forward, behind = zip(*map(self.priced, ops), strict=True)
        return sum(forward), sum(behind)

    def hidden_experts(self, part: ExpertPart, dense_s: float) -> int:
        """Return the number of experts that a node receives during the dense part, limited by its memory.

        The paper's overlap degree: seconds x bandwidth between nodes / bytes of an expert.
        """
        local = part.spec.routed.experts // part.ep
        room = int(HELD * local) - local
        return min(int(dense_s * self.nic / part.expert_bytes(self.deployment.run)), room)

    def experts(self, part: ExpertPart, placed: Dispatch) -> tuple[float, float]:
        """Return the seconds of the slowest device's experts, forward and backward."""
        popular = part.router.inclusion[part.row] * self.tokens
        tokens = popular[placed.experts] * placed.share.reshape(-1)
        slots = tokens.reshape(part.ep, -1)
        most = slots[slots.sum(axis=1).argmax()]  # rooflines grow with tokens
        return self.priced(part.spec.expert_op(Loads(most, np.ones(len(most))), self.deployment.run))

    def exchange(self, part: ExpertPart, placed: Dispatch) -> float:
        """Return the time of an all-to-all: the busiest network card or, inside a node, the busiest links [s]."""
        popular = part.router.inclusion[part.row] * self.tokens
        size = self.deployment.shard.hidden * self.deployment.run.numerics.act_bytes
        sent = flows(placed.map, placed.rule, popular) * size
        node = placed.map.sites.nodes
        inside = node[:, None] == node[None, :]
        between = np.where(inside, 0.0, sent)
        crossing = max(
            float(between[node == n].sum()) for n in np.unique(node)
        ), max(float(between[:, node == n].sum()) for n in np.unique(node))  # fmt: skip
        local = np.where(inside & ~np.eye(len(node), dtype=bool), sent, 0.0)
        near = max(float(local.sum(axis=0).max()), float(local.sum(axis=1).max()))
        link = self.deployment.system.device.node_link.latency_s
        return link + max(max(crossing) / self.nic, near / self.nvlink)

    def copied(self, part: ExpertPart, placed: Dispatch, hot: int) -> float:
        """Return the time of copying the hottest experts to all nodes, or of summing their gradients [s].

        A node gets each once and spreads it over NVLink; gradients are summed in the node first.
        """
        if not hot:
            return 0.0
        order = np.argsort(-part.router.inclusion[part.row], kind="stable")[:hot]
        sites = placed.map.sites
        owner = {int(e): g for g, row in enumerate(placed.map.slots[:, : sites.own]) for e in row}
        home = sites.nodes[[owner[int(e)] for e in order]]
        nodes = np.unique(sites.nodes)
        got = max(int((home != n).sum()) for n in nodes)
        given = max(int((home == n).sum()) for n in nodes) * (len(nodes) - 1)
        size = part.expert_bytes(self.deployment.run)
        return max(got, given) * size / self.nic if len(nodes) > 1 else 0.0

    def layer(self, part: ExpertPart, hecate: bool) -> tuple[LayerTimes, int]:
        """Return the times of one layer, and the number of experts that it copies."""
        hot = self.hidden_experts(part, self.dense[0]) if hecate else 0
        copies, rule = hot * part.ep, "local" if hecate else "any"
        placing = ExpertPlacing("fssdp" if hecate else "even", copies, rule)
        sites = sites_of(part, placing, self.layout.serving, self.deployment.system)
        placed = placing.placed(part.router.inclusion[part.row], sites, part.row)
        moved = self.copied(part, placed, hot)
        experts = self.experts(part, placed)
        return LayerTimes(*self.dense, *experts, self.exchange(part, placed), moved, moved), hot

    def iteration(self, way: str) -> Iteration:
        """Simulate one training iteration, `way` being `EP` or `HECATE`."""
        layers_found = [self.layer(part, way == HECATE) for part in self.deployment.experts]
        layers = tuple(times for times, _ in layers_found)
        ends = [self.bench.embedding(), self.bench.head()]
        graph = tasks(layers, sum(e.forward_s for e in ends), sum(e.backward_s for e in ends))
        return Iteration(run(graph.graph()), layers, tuple(hot for _, hot in layers_found))


def tasks(layers: Sequence[LayerTimes], ends: float, ends_back: float) -> Builder:
    """Return the iteration as tasks: copies in parallel with dense parts, exchanges around experts.

    The weights of a layer's copies arrive while its dense part computes; in the backward pass while the layer above
    computes, and gradients leave during their own layer.
    """
    b = Builder()
    last = -1
    for i, t in enumerate(layers):
        before = [last] if last >= 0 else []
        dense = b.add("dense", COMPUTE, t.dense, before, chunk=i)
        copy = b.add("gather", NODE_LINK, t.gather, before, chunk=i)
        sent = b.add("exchange", NODE_LINK, t.exchange, [dense], chunk=i)
        experts = b.add("experts", COMPUTE, t.experts, [sent, copy], chunk=i)
        last = b.add("exchange", NODE_LINK, t.exchange, [experts], chunk=i)
    last = b.add("head", COMPUTE, ends + ends_back, [last])
    ready = b.add("gather", NODE_LINK, layers[-1].gather, [], chunk=len(layers) - 1)
    for i in range(len(layers) - 1, -1, -1):
        t = layers[i]
        sent = b.add("exchange", NODE_LINK, t.exchange, [last], chunk=i)
        experts = b.add("experts", COMPUTE, t.experts_back, [sent, ready], chunk=i)
        back = b.add("exchange", NODE_LINK, t.exchange, [experts], chunk=i)
        if i:
            ready = b.add("gather", NODE_LINK, layers[i - 1].gather, [back], chunk=i - 1)
        b.add("scatter", NODE_LINK, t.scatter, [experts], chunk=i)
        last = b.add("dense", COMPUTE, t.dense_back, [back], chunk=i)
    return b


@cache
def trained(shape: Shape, cluster: Cluster, routing: str) -> Trained:
    """Return the training of a model on a cluster, cached because it is used often."""
    return Trained(shape, cluster, routing)


@cache
def both(shape: Shape, cluster: Cluster, routing: str) -> dict[str, Iteration]:
    """Simulate one iteration by expert parallelism and one by Hecate."""
    run = trained(shape, cluster, routing)
    return {way: run.iteration(way) for way in (EP, HECATE)}


def gain(shape: Shape, cluster: Cluster, routing: str) -> float:
    """Return the time of expert parallelism over Hecate's time."""
    times = both(shape, cluster, routing)
    return times[EP].seconds / times[HECATE].seconds


def memory_over_ep(multiple: float) -> float:
    """Return the bytes of an expert's states with `multiple` times the weights, over expert parallelism."""
    bytes_each = BytesPerWeight.adam(2.0)
    more = replace(bytes_each, weights=multiple * bytes_each.weights)
    total = bytes_each.weights + bytes_each.gradients + bytes_each.optimizer
    return (more.weights + more.gradients + more.optimizer) / total


EXPONENTS = (0.0, 0.3, 0.6, 0.9)
ASSUMED = 0.6
"""Exponent of the rows; assumed."""


def routing_of(exponent: float) -> str:
    """Return the name of the power-law routing with an exponent."""
    return f"power_law:{exponent:g}"


def predictions() -> Iterator[Prediction]:
    """Predict all rows from the models, the placement of experts and the schedule of tasks."""
    for cluster in CLUSTERS:
        gains = [gain(shape, cluster, routing_of(ASSUMED)) for shape in SHAPES]
        for name, value in (("low", min(gains)), ("high", max(gains))):
            yield Prediction(f"hecate.{cluster.name}.gain.{name}", value)
    yield from _skew()
    yield Prediction("hecate.memory.over_ep", memory_over_ep(HELD))
    yield Prediction("hecate.memory.rematerialised_over_ep", memory_over_ep(1.0 + REMATERIALISED * (HELD - 1.0)))


def _skew() -> Iterator[Prediction]:
    """Predict the gain without skew, and check that it grows with skew."""
    gains = [[gain(shape, cluster, routing_of(e)) for e in EXPONENTS] for cluster in CLUSTERS for shape in SHAPES]
    mean_gain = fmean(row[0] for row in gains[: len(SHAPES)])
    note = f"{mean_gain:.3f} only on A16: copies that do not balance loads still save the transfer of their tokens"
    yield Prediction("hecate.gain_at_no_skew", fmean(row[0] for row in gains), note)
    grows = all(a < b for row in gains for a, b in pairwise(row))
    yield Prediction("hecate.gain_grows_with_skew", float(grows))


def _sweep() -> Table:
    """Return the gains by exponent of the power-law routing."""
    rows = [
        {"cluster": cluster.name, "model": shape.name,
         **{f"{e:g}": gain(shape, cluster, routing_of(e)) for e in EXPONENTS}}
        for cluster in CLUSTERS for shape in SHAPES
    ]  # fmt: skip
    return Table("gains", "Gain over expert parallelism by exponent of the power law", rows)


def _parts() -> Table:
    """Return the exposed time of an iteration by kind of task, for expert parallelism and Hecate."""
    rows = []
    for shape in SHAPES:
        times = both(shape, CLUSTERS[0], routing_of(ASSUMED))
        rows += [{"case": f"{shape.name}, {way}", **_exposed(times[way])} for way in (EP, HECATE)]
    return Table("parts", f"An iteration on {CLUSTERS[0].name}, exponent {ASSUMED:g} (ms)", rows)


def _exposed(iteration: Iteration) -> dict[str, float]:
    """Return the exposed milliseconds of each kind of task; head and embedding count as dense."""
    out = dict.fromkeys(("dense", "experts", "exchange", "gather", "scatter"), 0.0)
    line = iteration.timeline
    for task, seconds in zip(line.graph.tasks, line.exposed(), strict=True):
        out["dense" if task.label == "head" else task.label] += seconds * 1e3
    return out


paper(
    "hecate", "Compare Hecate's sharded experts with expert parallelism in training, on V100 and A100.", predictions,
    tables=(_sweep, _parts), drawn={"skew": _sweep, "iteration": _parts},
    runs=len(CLUSTERS) * len(SHAPES) * len(EXPONENTS),
)  # fmt: skip
