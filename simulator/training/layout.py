"""How a training step lies on devices: parallel degrees, micro-batches, ZeRO, recomputation.

Devices are numbered as Megatron-LM numbers them: tensor-parallel ones are neighbours, then come the
data-parallel ranks of a pipeline stage, and stages follow each other. Experts lie on `ep` groups of
`expert_tp` neighbours within a stage; the blocks of these are copies of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from ...devices.collectives.plans import Level, Topology
from ...devices.hosts.catalog import link_of
from ...devices.spec import SystemSpec
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ..deploy.layout import Layout, make_layout

ZERO_STAGES = (0, 1, 2, 3)
"""What data-parallel ranks share: nothing; the optimiser's state; gradients too; weights too."""

RECOMPUTE = ("none", "selective", "full")
"""What the backward pass makes anew: nothing, the scores of attention, or whole layers."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a step is of and how it runs.

    Attributes
    ----------
    batch, seq : int
        Sequences of a step over all devices, and tokens of each.
    micro_batch : int
        Sequences that a rank works on at once.
    zero : int
        One of `ZERO_STAGES`.
    recompute : str
        One of `RECOMPUTE`.
    sequence_parallel : bool
        Tensor-parallel devices split what lies between their matmuls along the sequence.
    interleave : int
        Parts of the model on each pipeline stage, one after another.
    dropout : bool
        Whether the model drops activations, whose masks are kept.
    """

    batch: int
    seq: int
    micro_batch: int = 1
    zero: int = 1
    recompute: str = "selective"
    sequence_parallel: bool = True
    interleave: int = 1
    dropout: bool = False


@dataclass(frozen=True, slots=True)
class TrainingLayout:
    """Degrees of a training step; ``tp * dp * pp`` devices.

    Attributes
    ----------
    tp, dp, pp : int
        Tensor, data and pipeline parallel.
    ep, expert_tp : int
        Groups that experts are dealt to, and devices that split one.
    microbatches : int
        That each rank runs, one after another.
    per_node : int
        Devices of a node.
    """

    tp: int
    dp: int
    pp: int
    ep: int
    expert_tp: int
    microbatches: int
    per_node: int

    @property
    def devices(self) -> int:
        return self.tp * self.dp * self.pp

    @property
    def expert_block(self) -> int:
        """Devices that hold every expert once."""
        return self.ep * self.expert_tp

    @property
    def expert_dp(self) -> int:
        """Copies of the experts."""
        return self.tp * self.dp // self.expert_block

    @property
    def serving(self) -> Layout:
        """The same degrees for what cuts models."""
        return Layout(self.tp, self.dp, self.ep, self.expert_tp, pp=self.pp)

    def group(self, system: SystemSpec, size: int, stride: int) -> Topology:
        """Topology of `size` devices, `stride` apart."""
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
    """Choose the degrees that are not given, and check that everything divides.

    Tensor parallel within a node, one stage, data parallel over the rest. Experts are dealt to as many
    devices of a node as divide them.

    Raises
    ------
    InputError
        Degrees, batches or choices that do not fit; names the option and what would be right.
    """
    _check_choices(options)
    base = make_layout(model, system, tp, dp, None, pp)
    tp, dp, pp = base.tp, base.dp, base.pp
    experts = _experts(model)
    if experts is None:
        if ep not in (None, 1):
            raise InputError("--ep", f"{model.name} has no experts")
        ep, expert_tp = 1, tp
    else:
        ep, expert_tp = _expert_degrees(experts, ep, tp, dp, min(system.devices_per_node, tp * dp))
    per_rank = options.micro_batch * dp
    if options.batch % per_rank:
        raise InputError(
            f"--batch {options.batch}",
            f"must be a multiple of {per_rank}: {dp} data-parallel ranks x --micro-batch {options.micro_batch}",
        )
    micro = options.batch // per_rank
    _check_pipeline(model, options, pp, micro)
    return TrainingLayout(tp, dp, pp, ep, expert_tp, micro, system.devices_per_node)


def _check_choices(options: TrainingOptions) -> None:
    if options.zero not in ZERO_STAGES:
        raise InputError(f"--zero {options.zero}", "must be 0, 1, 2 or 3")
    if options.recompute not in RECOMPUTE:
        raise InputError("--recompute", f"must be none, selective or full, not {options.recompute!r}")


def _experts(model: ModelSpec) -> int | None:
    """Greatest common divisor of the experts that spread; None without any."""
    found = [p.routed.experts for la in model.layers for p in la.expert_parts if p.routed.spreads]
    return gcd(*found) if found else None


def _expert_degrees(experts: int, ep: int | None, tp: int, dp: int, node: int) -> tuple[int, int]:
    """Groups of experts, and devices of each: as few as keep tensor-parallel neighbours together."""
    if ep is None:
        ep = max(d for d in range(1, node + 1) if experts % d == 0 == (tp * dp) % d)
    if experts % ep or (tp * dp) % ep:
        raise InputError(f"--ep {ep}", f"must divide the {experts} experts and the {tp * dp} devices of a stage")
    expert_tp = tp // gcd(ep, tp)
    if (tp * dp) % (ep * expert_tp):
        raise InputError(f"--ep {ep}", f"x {expert_tp} devices an expert must divide the {tp * dp} of a stage")
    return ep, expert_tp


def _check_pipeline(model: ModelSpec, options: TrainingOptions, pp: int, micro: int) -> None:
    parts = options.interleave
    if parts == 1:
        return
    if pp == 1:
        raise InputError(f"--interleave {parts}", "needs pipeline stages: --pp above 1")
    if len(model.layers) % (pp * parts):
        raise InputError(
            f"--interleave {parts}", f"x {pp} stages must divide the {len(model.layers)} layers of {model.name}"
        )
    if micro % pp:
        raise InputError(
            f"--interleave {parts}", f"needs micro-batches of a rank, {micro}, to be a multiple of the {pp} stages"
        )
