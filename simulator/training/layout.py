"""Layout of a training step on devices: parallel degrees, micro-batches, ZeRO, recomputation.

Devices are numbered as in Megatron-LM: tensor-parallel devices are neighbours, followed by the data-parallel ranks of a
pipeline stage, and then by the next stage. Experts are distributed to `ep` groups of `expert_tp` neighbours within a stage;
these blocks are replicated.

`training_deployment` deploys a model for training, with the cost models of serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from math import gcd
from types import MappingProxyType

from ...devices.collectives.plans import BY_COST, Level, Topology, plan
from ...devices.hosts.catalog import link_of
from ...devices.spec import SystemSpec
from ...workloads.errors import InputError
from ...workloads.layers import Run
from ...workloads.model import ModelSpec
from ...workloads.training import check_recompute
from ...workloads.training_parts import ALONE
from ..deploy.checks import check_choices, checked_device
from ..deploy.deployment import Deployment
from ..deploy.expert_parts import expert_parts
from ..deploy.layout import Layout, make_layout, shard_model
from .pipeline import pipeline_chunks
from .states import LOSSES

ZERO_STAGES = (0, 1, 2, 3)
"""States that data-parallel ranks share: none; the optimizer's state; gradients too; weights too."""


DUAL = "dualpipe"
SCHEDULES = ("1f1b", "zero-bubble", DUAL)
"""Pipeline schedules.

``1f1b`` alternates forward and backward passes. ``zero-bubble`` also computes gradients of weights in idle time (ZB-H1, arXiv
2401.10241). ``dualpipe`` feeds the pipeline from both ends, with two stages on each rank (`pipeline.dual_order`).
"""

GRAPHS = ("auto", "none", "partial", "full")
"""CUDA graphs of layers with experts: none, all but the experts, or the whole pass; "auto" is partial on Blackwell, else none."""


OFFLOADS = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", "expert_fc1", "moe_act", "fused_group_mlp")
"""Modules whose inputs Megatron can offload (NVIDIA/Megatron-LM@002526d, transformer_config.py, `offload_modules`)."""
MOMENT_BITS, GRADIENT_BITS = (8, 16, 32), (16, 32)
"""Bits of each of Adam's two moments (Megatron's precision-aware optimizer), and of summed gradients (its
`grad_reduce_in_fp32`).
"""
CP_EXCHANGES = ("ring", "all-gather", "all-to-all")
"""How context-parallel ranks exchange keys and values: Megatron's `cp_comm_type` p2p, all_gather and a2a (Ulysses)."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Batch, parallel and memory options of a training step.

    Attributes
    ----------
    batch, seq : int
        Sequences of a step over all devices, and tokens of each sequence.
    micro_batch : int
        Sequences of a micro-batch on one rank.
    zero : int
        One of `ZERO_STAGES`.
    recompute : str
        Activations that the backward pass recomputes: "none", "auto" (as few as fit), "selective" (scores that attention
        writes), "full" (whole layers), "full:N" (N layers of each stage), or a comma-separated list of modules of
        `workloads.training.MODULES`.
    sequence_parallel : bool
        Whether tensor-parallel devices split the tensors between their matmuls along the sequence.
    interleave : int
        Parts of the model on each pipeline stage (virtual stages).
    dropout : bool
        Whether the model drops activations, so that masks are stored.
    cp : int
        Context parallel: ranks that share each sequence.
    pipeline_layout : str
        Megatron's layout string; if empty, layers are split evenly, see `pipeline.pipeline_chunks`.
    overlap_experts : bool
        Whether exchanges of experts' tokens overlap with the passes of another micro-batch.
    overlap_tp : bool, optional
        Whether exchanges of tensor-parallel devices overlap with adjacent products. By default as in recipes: in dense
        models with sequence parallelism, except in NVFP4.
    graphs : str
        One of `GRAPHS`: the part of a layer with experts that the host does not start kernel by kernel.
    schedule : str
        One of `SCHEDULES`.
    replicas : int
        Groups of ranks with the same weights; ZeRO shares states within each group (hybrid sharding).
    offload : int
        Layers of each stage whose activations are moved to host memory.
    offload_optimizer : bool
        Whether the optimizer's states are in host memory between updates.
    offload_modules : str
        Some of `OFFLOADS`, comma-separated: the inputs of these modules are moved to host memory.
    cp_exchange : str
        One of `CP_EXCHANGES`.
    moment_bits, gradient_bits : int
        One of `MOMENT_BITS`, and of `GRADIENT_BITS`.
    loss : str
        One of `states.LOSSES`: the implementation of the loss.
    bf16_first, bf16_last : int
        Layers at the start and at the end of the model whose products stay in 16 bits; MTP layers do not count.
    """

    batch: int
    seq: int
    micro_batch: int = 1
    zero: int = 1
    recompute: str = "auto"
    sequence_parallel: bool = True
    interleave: int = 1
    dropout: bool = False
    cp: int = 1
    pipeline_layout: str = ""
    overlap_experts: bool = False
    overlap_tp: bool | None = None
    graphs: str = "auto"
    offload: int = 0
    offload_optimizer: bool = False
    schedule: str = "1f1b"
    replicas: int = 1
    offload_modules: str = ""
    cp_exchange: str = "ring"
    moment_bits: int = 32
    gradient_bits: int = 16
    loss: str = "fused"
    bf16_first: int = 0
    bf16_last: int = 0


@dataclass(frozen=True, slots=True)
class TrainingLayout:
    """Parallel degrees of a training step on ``tp * cp * dp * pp`` devices.

    Attributes
    ----------
    tp, dp, pp, cp : int
        Tensor, data, pipeline and context parallel.
    ep, expert_tp : int
        Groups to which experts are distributed, and devices that share one expert.
    microbatches : int
        Micro-batches of each rank, which run one after another.
    per_node : int
        Devices of a node.
    chunks : tuple of int
        Layers of each part of each stage, in the order of the model.
    """

    tp: int
    dp: int
    pp: int
    ep: int
    expert_tp: int
    microbatches: int
    per_node: int
    cp: int = 1
    chunks: tuple[int, ...] = ()
    replicas: int = 1

    @property
    def sharing(self) -> tuple[int, int]:
        """Number of ranks over which ZeRO shares dense weights, and experts."""
        return self.copies // self.replicas, max(self.expert_dp // self.replicas, 1)

    @property
    def devices(self) -> int:
        return self.tp * self.copies * self.pp

    @property
    def copies(self) -> int:
        """Number of ranks with the same dense weights: data times context parallel."""
        return self.dp * self.cp

    @property
    def expert_block(self) -> int:
        """Number of devices that store every expert once."""
        return self.ep * self.expert_tp

    @property
    def expert_dp(self) -> int:
        """Number of replicas of the experts."""
        return self.tp * self.copies // self.expert_block

    def numbers(self, stage: int) -> list[int]:
        """Return the places in the model of a stage's layers."""
        starts = [*accumulate(self.chunks, initial=0)]
        return [n for k in range(stage, len(self.chunks), self.pp) for n in range(starts[k], starts[k + 1])]

    @property
    def serving(self) -> Layout:
        """The parallel degrees as a serving layout, which shards the model."""
        return Layout(self.tp, self.copies, self.ep, self.expert_tp, pp=self.pp)

    def group(self, system: SystemSpec, size: int, stride: int) -> Topology:
        """Return the topology of `size` devices whose numbers differ by `stride`."""
        inside = max(1, min(size, self.per_node // stride))
        while size % inside:
            inside -= 1
        outer = Level(system.device.node_link, size // inside)
        return Topology((Level(link_of(system), inside), outer))


def training_layout(
    model: ModelSpec,
    system: SystemSpec,
    options: TrainingOptions,
    *,
    tp: int | None = None,
    dp: int | None = None,
    ep: int | None = None,
    pp: int | None = None,
) -> TrainingLayout:
    """Choose the degrees that are not given, and check that all of them divide.

    Defaults are tensor parallel within a node, one stage, and data parallel over the rest. Experts are distributed to as many
    devices of a node as divide them.

    Raises
    ------
    InputError
        Degrees, batches or choices that do not fit; names the option and valid values.
    """
    _check_choices(options)
    cp = options.cp
    base = make_layout(model, system, tp, dp and dp * cp, None, pp)
    tp, copies, pp = base.tp, base.dp, base.pp
    if copies % cp or options.seq % (2 * cp if cp > 1 else 1):
        raise InputError(
            f"--cp {cp}",
            f"must divide the {copies} devices of a stage with the same weights, and 2 x --cp must divide --seq",
        )
    dp = copies // cp
    experts = _experts(model)
    if experts is None:
        if ep not in (None, 1):
            raise InputError("--ep", f"{model.name} has no experts")
        ep, expert_tp = 1, tp
    else:
        ep, expert_tp = _expert_degrees(experts, ep, tp, copies, min(system.devices_per_node, tp * copies))
    per_rank = options.micro_batch * dp
    if options.batch % per_rank:
        raise InputError(
            f"--batch {options.batch}",
            f"must be a multiple of {per_rank}: {dp} data-parallel ranks x --micro-batch {options.micro_batch}",
        )
    micro = options.batch // per_rank
    _check_pipeline(options, pp, micro)
    extra = model.mtp_heads * len(model.mtp)  # as `training_model` appends them
    chunks = pipeline_chunks(
        len(model.layers) - extra, model.mtp_heads, pp, options.interleave, options.pipeline_layout
    )
    chunks = (*chunks[:-1], chunks[-1] + extra - model.mtp_heads)
    if options.bf16_first + options.bf16_last > len(model.layers) - extra:
        raise InputError("--bf16-first plus --bf16-last", f"must be at most the {len(model.layers) - extra} layers")
    if copies % options.replicas:
        raise InputError(
            f"--replicas {options.replicas}",
            f"must be a divisor of the {copies} data-parallel ranks, which have the same weights",
        )
    return TrainingLayout(tp, dp, pp, ep, expert_tp, micro, system.devices_per_node, cp, chunks, options.replicas)


def _check_choices(options: TrainingOptions) -> None:
    for name, value, known in (
        ("graphs", options.graphs, GRAPHS), ("schedule", options.schedule, SCHEDULES), ("cp-exchange", options.cp_exchange, CP_EXCHANGES),
        ("zero", options.zero, ZERO_STAGES), ("moment-bits", options.moment_bits, MOMENT_BITS),
        ("gradient-bits", options.gradient_bits, GRADIENT_BITS), ("loss", options.loss, tuple(LOSSES)),
    ):  # fmt: skip
        if value not in known:
            raise InputError(f"--{name}", f"must be {', '.join(map(str, known[:-1]))} or {known[-1]}, not {value!r}")
    if options.offload_modules and not set(options.offload_modules.split(",")) <= set(OFFLOADS):
        raise InputError(f"--offload-modules {options.offload_modules}", f"must be some of {', '.join(OFFLOADS)}")
    if options.offload and options.offload_modules:
        raise InputError("--offload-modules", "cannot be combined with --offload, which moves whole layers; remove one")
    check_recompute(options.recompute)


def _experts(model: ModelSpec) -> int | None:
    """Return the greatest common divisor of the numbers of experts that are distributed; None without such experts."""
    expert_counts = [p.routed.experts for la in model.layers for p in la.expert_parts if p.routed.spreads]
    return gcd(*expert_counts) if expert_counts else None


def _expert_degrees(experts: int, ep: int | None, tp: int, dp: int, node: int) -> tuple[int, int]:
    """Return the groups of experts, and the fewest devices of each that keep tensor-parallel neighbours together."""
    if ep is None:
        ep = max(d for d in range(1, node + 1) if experts % d == 0 == (tp * dp) % d)
    if experts % ep or (tp * dp) % ep:
        raise InputError(f"--ep {ep}", f"must divide the {experts} experts and the {tp * dp} devices of a stage")
    expert_tp = tp // gcd(ep, tp)
    if (tp * dp) % (ep * expert_tp):
        raise InputError(
            f"--ep {ep}", f"times {expert_tp} devices per expert must divide the {tp * dp} devices of a stage"
        )
    return ep, expert_tp


def _check_pipeline(options: TrainingOptions, pp: int, micro: int) -> None:
    """Reject schedules that Megatron's interleaving or DualPipe does not support."""
    parts = options.interleave
    if options.schedule == DUAL and (pp % 2 or micro % 2 or micro < 2 * pp):
        raise InputError(
            f"--schedule {DUAL}", f"needs an even --pp, not {pp}, and an even number of micro-batches of a rank, {2 * pp} at least, not {micro}"
        )  # fmt: skip
    if parts == 1:
        return
    if options.schedule != "1f1b":
        raise InputError(
            f"--schedule {options.schedule}", "has one part of the model on each stage; remove --interleave"
        )
    if pp == 1:
        raise InputError(f"--interleave {parts}", "needs pipeline stages: --pp above 1")
    if micro % pp:
        raise InputError(
            f"--interleave {parts}",
            f"needs a multiple of the {pp} pipeline stages as micro-batches per rank, not {micro}; change --batch",
        )


def training_deployment(
    model: ModelSpec,
    system: SystemSpec,
    layout: TrainingLayout,
    *,
    placement: str | None = None,
    attention: str | None = None,
    routing: str = "uniform",
    all_to_all: str | None = None,
    costs: str = "auto",
    memory: str = "flat",
    frameworks: Mapping[str, str] = MappingProxyType({}),
) -> Deployment:
    """Deploy a model on a system as `deploy.deployment.deploy`, with the degrees of a training layout.

    Weights are stored in the format of the activations, not in a serving format.
    """
    if system.mapping.separate or system.mapping.prefill_share is not None:
        raise InputError(system.name, "has different devices for parts of serving; training needs devices of one kind")
    if system.device.fabric is not None:
        raise InputError(system.name, "is an FPGA, whose designs run only forward passes")
    if all_to_all not in (None, BY_COST):
        plan("all_to_all", all_to_all, layout.group(system, layout.ep, layout.expert_tp))
    check_choices(system, {"--placement": placement, "--attention": attention, "--costs": costs, "--memory": memory})
    cut = layout.serving
    shard = shard_model(model, cut)
    stages = stages_of(shard, layout)
    chosen = system.mapping.attention if attention is None else attention
    device = checked_device(model, system, costs, memory, (), frameworks, chosen)
    return Deployment(
        model=model, shard=shard, stages=stages, system=system, device=device, layout=cut,
        placement=system.mapping.placement if placement is None else placement,
        run=Run(model.numerics, chosen, alone=ALONE),
        experts=expert_parts(stages, cut, routing, 0, shared=False), all_to_all=all_to_all or "",
    )  # fmt: skip


def training_model(model: ModelSpec, dtype: str | None, heads: int | None = None) -> ModelSpec:
    """Return the model for training: matmuls in `dtype` or in the activations' format, MTP layers after the other layers.

    Parameters
    ----------
    heads : int, optional
        Multi-token-prediction heads; by default the number in the model's file.

    Raises
    ------
    InputError
        The model's file describes no such heads.
    """
    heads = model.mtp_heads if heads is None else heads
    if heads and not model.mtp:
        raise InputError(f"--mtp {heads}", f"{model.name} has no multi-token-prediction layers")
    plain = replace(model.numerics, weights=(), kv=model.numerics.default)
    layers = model.layers + model.mtp * heads
    return replace(model, layers=layers, mtp_heads=heads, numerics=plain.with_formats(dtype, None))


def stages_of(shard: ModelSpec, layout: TrainingLayout) -> tuple[ModelSpec, ...]:
    """Return the layers of one device in each pipeline stage, part by part; other weights are in the last stage."""
    starts = [sum(layout.chunks[:i]) for i in range(len(layout.chunks))]
    out = []
    for s in range(layout.pp):
        chosen = zip(starts[s :: layout.pp], layout.chunks[s :: layout.pp], strict=True)
        layers = tuple(layer for start, size in chosen for layer in shard.layers[start : start + size])
        out.append(replace(shard, layers=layers, extra_weights=shard.extra_weights * (s == layout.pp - 1)))
    return tuple(out)
