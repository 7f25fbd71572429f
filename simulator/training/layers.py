"""Forward and backward pass of one layer, of the embedding and of the head, on one device.

The times of kernels and exchanges are predicted by the cost models of serving.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...devices.calibrated.libraries import BLACKWELL, CUDNN, HOPPER, generation
from ...devices.collectives.deepep import HYBRID, hybrid_runs
from ...devices.collectives.plans import BY_COST, Topology, cheapest, plan
from ...devices.device import SharedMemoryDevice
from ...devices.hosts.catalog import link_of
from ...devices.link import LinkModel
from ...devices.power.clock import capped_clock
from ...devices.spec import DeviceSpec
from ...workloads.batch import Moments
from ...workloads.layers import LayerKind, RoutedKind, is_routed
from ...workloads.layers.base import elementwise
from ...workloads.model import Layer, embedding_ops
from ...workloads.ops import Loads, Op, about
from ...workloads.training import (
    BIASED,
    FUSED_BACKWARD,
    RepeatedOp,
    along_sequence,
    collective_op,
    idle,
    loss_ops,
    made_anew,
)
from ...workloads.training import forward as forward_work
from ...workloads.training_parts import losses, part_backward, training_ops
from ..deploy.deployment import Deployment
from ..deploy.expert_parts import ExpertPart
from ..deploy.placement import regions
from .activations import input_bytes, layer_bytes, offloaded_bytes, part_bytes
from .layout import TrainingLayout, TrainingOptions
from .memory import Passes
from .states import LOSS_SUMS, LOSSES, BytesPerWeight

SUSTAINED = {(HOPPER, "fp8"): 1.19, (BLACKWELL, "fp8"): 1.17, (BLACKWELL, "fp4"): 0.80}
"""Ratio of a matrix kernel's time in training to its time in serving, by generation and arithmetic. Other formats have the ratio of the 8-bit format;
attention has also the ratios of `CUDNN`. Boards run at their power limit for seconds, and 4-bit products use another library. Blackwell's ratios are a
GB200's; other boards clock as `board_clock` says. Fitted, earlier with `LAUNCH_S` and `SYNC_S`, to NVIDIA-NeMo/Megatron-Bridge@067f987d, performance-summary."""
NOMINAL_W = 480e-15  # of a GB200 at its limit, per nominal 16-bit FLOP/s


def board_clock(spec: DeviceSpec) -> float:
    """Return the clock of a Blackwell board at its rated limit over a GB200's, by the voltage curve of power caps; rates contain the effect of a cap itself."""
    peak = max((p.peak_flops_per_s or {}).get("bf16", 0.0) for p in spec.processors.values()) / spec.clock_share
    return capped_clock((spec.rated_W or spec.limit_W or 0.0) / peak / NOMINAL_W)


def sustained(device: SharedMemoryDevice, op: Op) -> float:
    """Return the factor from a serving kernel's time to the time of the same kernel in a training step."""
    if not about(op.kind).matrix:
        return 1.0
    spec, kin = device.spec, generation(device.spec)
    factor = SUSTAINED.get((kin, op.dtype), SUSTAINED.get((kin, "fp8"), 1.0))
    if about(op.kind).scores and device.measured and kin in CUDNN:
        factor *= CUDNN[kin]["backward" if op.name.endswith("_grad") else "forward", op.shape.get("window", 0.0) > 0]
    return factor if kin != BLACKWELL or spec.limit_W is None else factor / board_clock(spec)


@dataclass(frozen=True, slots=True)
class Prices:
    """Cost model of kernels and exchanges on the devices and links of a deployment."""

    deployment: Deployment

    def op(self, work: RepeatedOp) -> float:
        """Return the time of an op's kernels on the processor that the placement rule chooses [s]."""
        return self.cost(work)[0]

    def cost(self, work: RepeatedOp) -> tuple[float, float]:
        """Return the time [s] and the dynamic energy [J] of an op's kernels on the processor that the placement rule chooses."""
        d, op = self.deployment, work.op
        if idle(op):
            return 0.0, 0.0
        costs = d.device.run(regions([op], d.device, d.placement, True, d.system.mapping.splitter))
        seconds = work.slower * sustained(d.device, op) * sum(region.seconds for region in costs)
        joules = sum(cost.total_joules for region in costs for _, _, cost in region.ops)
        return work.times * seconds, work.times * joules

    def exchange(self, kind: str, message_bytes: float, topology: Topology, algorithm: str = "") -> float:
        """Return the time of a collective: of the named algorithm, as measured within a node, or of the fastest algorithm [s].

        `kind` as in `devices.collectives.plans.ALGORITHMS`; `message_bytes` as in `devices.link.collective` [B].
        """
        n = topology.ranks
        if n < 2 or message_bytes <= 0:
            return 0.0
        if algorithm:
            return plan(kind, algorithm, topology).seconds(message_bytes)
        if topology.outermost == 0:
            op = collective_op(kind, message_bytes, n)
            link = topology.levels[0].link
            return LinkModel(link, n, self.deployment.device.collectives).cost(op).seconds
        return cheapest(kind, topology, message_bytes).seconds(message_bytes)

    def send(self, message_bytes: float, across: bool) -> float:
        """Return the time to send a message from one device to another [s]."""
        system = self.deployment.system
        link = system.device.node_link if across else link_of(system)
        measured = None if across else self.deployment.device.collectives
        return LinkModel(link, 2, measured).cost(collective_op("transfer", message_bytes, 2)).seconds


TENSOR, CONTEXT, EXPERT, HOST = "tensor parallel", "context parallel", "expert parallel", "host"
"""Labels of the time in a pass that devices wait for exchanges, and for their host."""
EXCHANGE_SMS = 32
"""Number of SMs of HybridEP's kernels in NVIDIA's recipes (NVIDIA-NeMo/Megatron-Bridge@067f987, perf_recipes)."""
SPLIT_SHOWN, SPLIT_SMS = 1 / 8, 16
"""Exposed share of an exchange that overlaps with products, in the forward pass, and the number of SMs that it uses. Exposed is the last of four splits of
the reduce-scatter, which is half of the exchange (NVIDIA-NeMo/Megatron-Bridge@067f987, comm_overlap.py)."""
HOST_CALLS, BIAS_CALLS = 10, 11
"""Kernels of a local expert that the host starts one by one, without and for biases. For each of two matrices: a product in the forward and two in the
backward pass, and casts of its input and of its output's gradient (Transformer Engine, module/grouped_linear.py). For biases: two kernels forward and nine of
autograd (see `workloads.training.ADDED`)."""
LAUNCH_S, SYNC_S = 13.6e-6, 1.45e-3
"""Time of a device for each kernel that the host starts in a layer with experts, and for each wait of the host there [s]. Fitted with `SUSTAINED`."""
Seconds = defaultdict[str, float]


@dataclass
class LayerPrices:
    """Cost model of the layers of a training step, with the results so far.

    Attributes
    ----------
    deployment : Deployment
        The sharded model on its system.
    layout, options : TrainingLayout, TrainingOptions
    m : Moments
        Sums of a micro-batch.
    """

    deployment: Deployment
    layout: TrainingLayout
    options: TrainingOptions
    m: Moments
    bytes_each: BytesPerWeight
    _known: dict[tuple[Layer, tuple[int, ...], bool], Passes] = field(default_factory=dict)

    @property
    def prices(self) -> Prices:
        return Prices(self.deployment)

    @property
    def overlaps(self) -> bool:
        """Whether exchanges between tensor-parallel devices overlap with products."""
        o, narrow = self.options, self.deployment.run.numerics.weight_format("ffn") == "nvfp4"
        usual = o.sequence_parallel and not self.deployment.experts and not narrow
        return usual if o.overlap_tp is None else o.overlap_tp

    def layer(self, layer: Layer, uncut: Layer, experts: Sequence[ExpertPart], again: bool = False) -> Passes:
        """Return the passes of one layer; equal layers with equal loads are predicted once.

        Parameters
        ----------
        layer, uncut : Layer
            The layer on one device, and the whole layer.
        experts : sequence of ExpertPart
            Its expert parts.
        again : bool
            Whether the backward pass recomputes the whole layer.
        """
        skewed = any(np.ptp(e.router.inclusion[e.row]) > 0 for e in experts)
        key = layer, tuple(e.row for e in experts) if skewed else (), again
        if key not in self._known:
            self._known[key] = self._layer(layer, uncut, experts, again)
        return self._known[key]

    def _layer(self, layer: Layer, uncut_layer: Layer, experts: Sequence[ExpertPart], again: bool) -> Passes:
        """Predict both passes of one layer on one device; with `again` the layer is recomputed before its backward pass."""
        run, m, o = self.deployment.run, self.m, self.options
        expert_parts = iter(experts)
        tp, hidden = self.layout.tp, layer.mixer.hidden
        forward, behind, joules, weights_s = Seconds(float), Seconds(float), Seconds(float), 0.0
        every: list[list[Op]] = []
        for part, ops, uncut in zip(
            layer.parts, training_ops(layer, m, run), training_ops(uncut_layer, m, run), strict=True
        ):
            device_ops = [self._shared(op, old, hidden) for op, old in zip(ops, uncut, strict=True)]
            if is_routed(part):
                slowest = self._experts(part, next(expert_parts))
                if self._biased(part):
                    slowest = replace(slowest, shape={**slowest.shape, BIASED: 1.0})
                device_ops = [slowest if op.routed else op for op in device_ops]
                exchange = self._exchange(part, slowest.shape["hidden"])
                forward[EXPERT] += exchange
                behind[EXPERT] += exchange * (2 if "moe" in o.recompute.split(",") else 1)
            last = part is layer.parts[-1]
            if tp > 1 and (last or not layer.parallel) and self._sums(part, device_ops):
                seconds = self._all_reduce(hidden)
                forward[TENSOR] += seconds * self._shown(SPLIT_SHOWN)
                behind[TENSOR] += seconds * self._shown(0.0)
            weights_s += self._price(device_ops, forward, behind, joules, "again" if again else self.options.recompute)
            if self.layout.cp > 1:
                self._context(device_ops, forward, behind)
            # Stored tensors are counted before the sequence is split, see `SavedTensor.whole`.
            every.append([new if new.kind == "experts" else old for new, old in zip(device_ops, ops, strict=True)])
        self._overlap(forward, behind)
        plain = [op for ops in every for op in ops if not (op.routed or idle(op))]
        works = len(plain) + len(part_backward(plain, run, 0.0))
        for way, waits in zip((forward, behind), self._host(works, [e for e in experts if not e.kept]), strict=True):
            way[HOST] += waits
        if again:
            for name, took in forward.items():
                behind[name] += took
        all_kept = layer_bytes(every, m.tokens, hidden, run, o, tp, layer.parallel)
        if not again:
            moved = sum(offloaded_bytes(ops, hidden, run, o, tp) for ops in every) if o.offload_modules else 0.0
            return Passes(forward, behind, all_kept, weights_s=weights_s, moved_bytes=moved, joules=joules)
        kept = input_bytes(m.tokens, hidden, run, o, tp)
        return Passes(forward, behind, kept, all_kept, weights_s, joules=joules)

    def _price(
        self, ops: Sequence[Op], forward: Seconds, behind: Seconds, joules: Seconds, recompute: str = "none"
    ) -> float:
        """Add the kernels of both passes, and the forward kernels that the backward pass recomputes.

        Return the time of the gradients of weights [s]. With "again" (a whole layer), `_layer` adds the recomputed time.
        """
        run, price, weights_s = self.deployment.run, self.prices.cost, 0.0
        for op in ops:
            took = [(work.op, *price(work)) for work in forward_work(op, run)]
            forward[op.layer] += sum(seconds for _, seconds, _ in took)
            for kernel, work_s, work_J in took:
                redone = max(made_anew(of, run, recompute) for of in (op, kernel))
                behind[op.layer] += redone * work_s
                joules[op.layer] += work_J * (2.0 if recompute == "again" else 1.0 + redone)
        for work in part_backward(ops, run, self.bytes_each.gradients):
            work_s, work_J = price(work)
            behind[work.op.layer] += work_s
            joules[work.op.layer] += work_J
            weights_s += work_s * work.late
        return weights_s

    def _context(self, ops: Sequence[Op], forward: Seconds, behind: Seconds) -> None:
        """Add the exposed exchange of keys and values among context-parallel ranks.

        A ring sends them, and their gradients, during attention to the previous ones. An all-to-all exchanges tokens for heads and back (`cp_comm_type`).
        """
        la, price = self.layout, self.prices.exchange
        group = la.group(self.deployment.system, la.cp, la.tp)
        for op in ops:
            if not op.kv_write_bytes and not about(op.kind).scores:
                continue
            keys = op.act_bytes / 2 if op.kind == "mla_prefill" else op.kv_write_bytes
            if self.options.cp_exchange == "ring":
                sent = (la.cp - 1) * self.prices.send(keys, la.cp * la.tp > la.per_node)
                took = (1 - 1 / la.cp) * self.prices.op(RepeatedOp(op))
                waits = max(sent - took, 0.0), max(2 * sent - FUSED_BACKWARD * took, 0.0)
            elif self.options.cp_exchange == "all-gather":
                gathered = price("all_gather", keys * la.cp, group)
                waits = gathered, gathered + price("reduce_scatter", keys * la.cp, group)
            else:
                waits = (price("all_to_all", op.act_bytes + op.kv_write_bytes, group),) * 2
            forward[CONTEXT] += waits[0]
            behind[CONTEXT] += waits[1]

    def _shown(self, share: float) -> float:
        """Return the exposed share of an exchange between tensor-parallel devices; overlap with products uses their SMs."""
        return share + (1.0 - share) * self._taken(SPLIT_SMS) if self.overlaps else 1.0

    def _taken(self, sms: float) -> float:
        """Return the share of a device's cores in `sms`; 0 if their number is unknown, as for TPUs, whose exchanges use none."""
        cores = [p.cores for p in self.deployment.system.device.processors.values() if p.kind == "xpu" and p.cores]
        return min(sms / cores[0], 1.0) if cores else 0.0

    def _host(self, works: int, experts: Sequence[ExpertPart]) -> tuple[float, float]:
        """Return the time that a device waits for its host to start the kernels of a layer with experts, in each pass [s].

        The host needs the number of tokens of its experts, so it cannot run ahead of the device. The kernels of a dense layer are
        started in advance. The host also waits whenever the activation of biased experts runs, because it copies an offset to the
        device (`weighted_bias_quick_geglu_impl`, NVIDIA/Megatron-LM, fused_bias_geglu.py). What is recomputed waits again; `_layer` adds whole layers.
        """
        graphs = self.options.graphs
        if graphs == "auto":  # as in recipes
            graphs = "partial" if generation(self.deployment.system.device) == BLACKWELL else "none"
        if graphs == "full" or not experts:
            return 0.0, 0.0
        held, modules = sum(part.held for part in experts), self.options.recompute.split(",")
        biased = any(self._biased(part.spec) for part in experts)
        started = LAUNCH_S * (HOST_CALLS + BIAS_CALLS * biased) * held / 2
        waits = started + SYNC_S * (1 + biased)  # of one forward pass
        again = waits if "moe" in modules else SYNC_S * (biased and "moe_act" in modules)
        others = LAUNCH_S * works / 2 * (graphs == "none")
        return waits + others, started + others + again

    def _overlap(self, forward: Seconds, behind: Seconds) -> None:
        """Shorten expert exchanges that overlap with another micro-batch's passes (Megatron's combined 1F1B).

        The first forward and the last backward pass overlap with nothing. Of the others, the part beyond the computation is exposed; they use its SMs.
        """
        if not self.options.overlap_experts or not forward[EXPERT]:
            return
        exchanged = forward[EXPERT] + behind[EXPERT]
        work = sum(forward.values()) + sum(behind.values()) - exchanged
        shown = max(exchanged - work, exchanged * self._taken(EXCHANGE_SMS))
        exposed = 1 - (1 - shown / exchanged) * (1 - 1 / self.layout.microbatches)
        for way in (forward, behind):
            way[EXPERT] *= exposed

    def _shared(self, op: Op, uncut: Op, hidden: int) -> Op:
        """Return the op on a device's part of the sequence, if all tensor-parallel devices would compute the same."""
        if self.layout.tp == 1 or not self.options.sequence_parallel:
            return op
        alike = op.product and op.shape == uncut.shape
        alike |= op.kind == "elementwise" and op.shape["cols"] == hidden
        return along_sequence(op, 1 / self.layout.tp) if alike else op

    def _biased(self, part: RoutedKind) -> bool:
        """Return whether Megatron adds the biases of gated experts by separate kernels, which a full graph does not contain."""
        gated = getattr(part, "matrices", 2) > 2
        return bool(getattr(part, "expert_bias", False)) and gated and self.options.graphs != "full"

    def _sums(self, part: LayerKind, ops: Sequence[Op]) -> bool:
        """Return whether tensor-parallel devices sum a part's output; they do not if each device has its own tokens."""
        if not (is_routed(part) and part.routed.spreads and self.options.sequence_parallel):
            return True
        return any(op.product and not op.name.startswith("router") for op in ops)

    def _all_reduce(self, hidden: int, value_bytes: float = 0.0) -> float:
        """Return the time to sum a part's outputs [s], by default activations; sequence parallelism gathers and scatters instead, in the same time."""
        moved = self.m.tokens * hidden * (value_bytes or self.deployment.run.numerics.act_bytes)
        return self.prices.exchange("all_reduce", moved, self.layout.group(self.deployment.system, self.layout.tp, 1))

    def _exchange(self, part: RoutedKind, sent: float) -> float:
        """Return the time of all-to-alls between tokens and their experts, and of gathers over an expert's devices [s]."""
        la = self.layout
        if not part.routed.spreads:
            return 0.0
        run, system = self.deployment.run, self.deployment.system
        pairs = self.m.tokens * part.routed.top_k / la.tp
        moved = pairs * sent * run.numerics.act_bytes
        group = replace(la.group(system, la.ep, la.expert_tp), copies=part.routed.top_k)
        plain = self.deployment.all_to_all == BY_COST
        algorithm = "" if plain else self.deployment.all_to_all or (HYBRID if hybrid_runs(system.device) else "")
        seconds = 2 * self.prices.exchange("all_to_all", moved, group, algorithm)
        if plain and la.ep > 1:
            # Sorted by rank before, and by expert after it (Megatron-LM, token_dispatcher.py, `sort_input_by_local_experts`).
            seconds += 2 * self.prices.op(RepeatedOp(elementwise("permute", EXPERT, pairs * la.tp, int(sent), 2, run)))
        if la.expert_tp > 1:
            slices = la.group(system, la.expert_tp, 1)
            for kind in ("all_gather", "reduce_scatter"):
                seconds += self.prices.exchange(kind, moved * la.expert_tp, slices)
        return seconds

    def _experts(self, part: RoutedKind, expert_part: ExpertPart) -> Op:
        """Return the expert op of the group of devices that takes longest."""
        la, run = self.layout, self.deployment.run
        ep = la.ep if part.routed.spreads else 1
        ranks = la.expert_block / la.tp if part.routed.spreads else 1.0
        loads = expert_part.router.expected(expert_part.row, self.m.tokens * ranks)
        group_size = len(loads.tokens) // ep
        groups = [
            part.expert_op(Loads(loads.tokens[g : g + group_size], loads.experts[g : g + group_size]), run)
            for g in range(0, group_size * ep, group_size)
        ]
        if np.ptp(loads.tokens) == 0.0:
            return groups[0]
        return max(groups, key=lambda op: self.prices.op(RepeatedOp(op)))

    def embedding(self) -> Passes:
        """Predict both passes of the embedding, with its sum over the devices that share the vocabulary."""
        d, forward, behind, joules = self.deployment, Seconds(float), Seconds(float), Seconds(float)
        ops = embedding_ops(d.shard, self.m, d.run)
        self._price(ops, forward, behind, joules)
        if self.layout.tp > 1 and d.shard.vocab:
            forward[TENSOR] += self._all_reduce(d.shard.hidden)
        mask_bytes = self.m.tokens * d.shard.hidden * self.options.dropout
        mask_bytes /= self.layout.tp if self.options.sequence_parallel else 1
        return Passes(forward, behind, mask_bytes, joules=joules)

    def head(self) -> Passes:
        """Predict both passes of final norm, logits and loss, including those of each multi-token-prediction head."""
        d, forward, behind, joules = self.deployment, Seconds(float), Seconds(float), Seconds(float)
        times = losses(d.model)
        ops = loss_ops(d.shard, self.m, d.run, self.layout.tp)
        self._price(ops * times, forward, behind, joules)
        if self.layout.tp > 1 and d.shard.vocab:
            forward[TENSOR] += times * self._all_reduce(d.shard.hidden)  # the gathered input
            forward[TENSOR] += times * LOSS_SUMS * self._all_reduce(1, 4.0)
            behind[TENSOR] += times * self._all_reduce(d.shard.hidden)
        saved_bytes = times * part_bytes(ops, d.shard.hidden, d.run, self.options, self.layout.tp)
        logits = self.m.tokens * d.shard.vocab / self.layout.tp
        kept, working, outputs = (size * logits for size in LOSSES[self.options.loss])
        kept += outputs * self.layout.microbatches * (self.layout.pp > 1)
        return Passes(forward, behind, saved_bytes + times * kept, working, joules=joules)
