"""A model on a system: everything a step's cost depends on, chosen and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ...devices.collectives.deepep import WIDTHS
from ...devices.collectives.deepep import kernels as exchange_kernels
from ...devices.collectives.plans import PlannedLink, Timed
from ...devices.device import SharedMemoryDevice
from ...devices.hosts.catalog import link_of
from ...devices.link import LinkModel
from ...devices.peaks import lacking
from ...devices.spec import LinkSpec, SystemSpec
from ...workloads.errors import InputError
from ...workloads.layers import Run
from ...workloads.model import ModelSpec
from ...workloads.numerics import BITS
from ...workloads.ops import Op
from ...workloads.routing import check_routing
from ...workloads.sampling import NONE, parse_sampling
from ..part import Combination
from ..registry import PARTS, check_parts, hooks_at, parts_of
from .checks import Memory, check_choices, checked_device, device_memory
from .expert_parts import ExpertPart, expert_parts, fewer_reached, sent_share
from .layout import (
    Layout,
    exchange_link,
    make_layout,
    planned_exchange,
    rank_link,
    shard_model,
    stage_link,
    stage_models,
)
from .programs import LOGITS, QUANTISED, TO_AND_FRO

AnyLink = LinkModel | PlannedLink
"""A cost model of a collective: measured, all messages at once, or a named algorithm."""


@dataclass(frozen=True, slots=True)
class ExpertsApart:
    """Separate devices of the routed experts; see `parts.experts_apart.holders`.

    Attributes
    ----------
    holder : Deployment
        The model on the expert devices; only its routed experts are used.
    link : LinkSpec
        Link between expert and attention devices; its rate is of one device in one direction [B/s].
    batches : int
        Micro-batches of a step, which alternate between both groups.
    freed_bytes : tuple of float
        Bytes of the experts that a device of each attention stage does not have to store [B].
    """

    holder: Deployment
    link: LinkSpec
    batches: int
    freed_bytes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A sharded model on a system under a layout, a placement rule and a routing.

    Attributes
    ----------
    model, shard : ModelSpec
        The whole model, and the shard of one device (with pipeline parallelism, of all stages together).
    stages : tuple of ModelSpec
        What one device of each pipeline stage holds.
    run : Run
        Number formats and attention algorithm.
    experts : tuple of ExpertPart
        Every expert part in order of execution.
    kernels : tuple of str
        Measured kernel tables in use.
    all_to_all : str
        Algorithm of the exchange between ranks; empty: one message time for any number of ranks.
    sender : str
        Framework whose calls of that algorithm were timed; of all where it has none.
    pools : tuple of Deployment
        Of a split system: the prefill devices and the decode devices. All other fields describe the latter, except
        `system`, which is the whole.
    several : int
        Most tokens of a decode in a step, of the model and of what drafts: captured graphs hold multiples of it.
    parts : mapping of str to object
        What parts are set to, by their names.
    apart : ExpertsApart, optional
        Devices of the routed experts; all other fields, including `system` and `layout`, describe the attention
        devices.
    """

    model: ModelSpec
    shard: ModelSpec
    stages: tuple[ModelSpec, ...]
    system: SystemSpec
    device: SharedMemoryDevice
    layout: Layout
    placement: str
    run: Run
    experts: tuple[ExpertPart, ...]
    kernels: tuple[str, ...] = ()
    all_to_all: str = ""
    sender: str = ""
    pools: tuple[Deployment, ...] = ()
    parts: Mapping[str, Any] = field(default_factory=dict)
    several: int = 1
    apart: ExpertsApart | None = None

    def __repr__(self) -> str:
        return f"<Deployment: {self.model.name} on {self.system.name}, {self.layout}>"

    @property
    def lockstep(self) -> bool:
        """Return whether data-parallel ranks run in lock-step, because experts serve all ranks."""
        return self.layout.dp > 1 and any(e.spec.routed.spreads for e in self.experts)

    @property
    def has_experts(self) -> bool:
        """Return whether a router sends tokens to experts; adapters chosen by requests do not count."""
        return any(not part.spec.routed.by_request for part in self.experts)

    @property
    def ranks(self) -> int:
        """Return the data-parallel ranks of one engine; 1 if ranks are independent replicas."""
        return self.layout.dp if self.lockstep else 1

    @property
    def replicas(self) -> int:
        """Return the number of independent engines."""
        return self.layout.dp // self.ranks

    @property
    def exchanges(self) -> bool:
        """Return whether devices that work on the same layers exchange anything."""
        return self.layout.tp > 1 or self.lockstep or self.apart is not None

    def link(self, op: Op, prompts: bool = False) -> AnyLink:
        """Return the cost model of a collective: measured within a node, latency and bandwidth between nodes.

        A transfer between the devices of a group runs over the link within a node.

        Parameters
        ----------
        prompts : bool
            Whether any rank of the step has prompts.
        """
        if self.apart is not None and TO_AND_FRO in op.shape:
            return LinkModel(self.apart.link, 2)
        if op.kind == "all_to_all" and self.all_to_all:
            top_k, back = int(op.shape["top_k"]), op.brings_back
            timed: dict[str, Timed] = {}
            if self.device.collectives is not None:
                timed = exchange_kernels(self.system.device, link_of(self.system), self.sender, back=back)
            width = 1.0 if back else WIDTHS.get(self.run.numerics.weight_format("experts"), 1.0)
            return planned_exchange(self.layout, self.system, self.all_to_all, top_k, prompts, timed, width)
        if "stage" in op.shape:
            spec, ranks = stage_link(self.layout, self.system, int(op.shape["stage"])), 2
        elif op.kind == "all_reduce" or op.name == f"{LOGITS}_all_gather":
            spec, ranks = rank_link(self.layout, self.system), self.layout.tp
        elif op.kind == "transfer":
            spec, ranks = link_of(self.system), self.system.group
        else:
            spec, ranks = exchange_link(self.layout, self.system), self.layout.dp
        inside = spec is not self.system.device.node_link
        return LinkModel(spec, ranks, self.device.collectives if inside else None)

    def memory(self, usable_bytes: float | None = None) -> Memory:
        """Return the memory of one device, for the pipeline stage with most weights; see `memories`."""
        return max(self.memories(usable_bytes), key=lambda memory: memory.weights)

    def memories(self, usable_bytes: float | None = None) -> tuple[Memory, ...]:
        """Return the memory of one device of each pipeline stage; refuse a model that does not fit.

        Parameters
        ----------
        usable_bytes : float, optional
            For weights and KV cache, instead of the description's usable fraction.
        """
        return tuple(
            device_memory(
                stage_held, self.layout, self.system, usable_bytes, stage, self.elsewhere(stage),
                self.added(stage),
            )
            for stage, stage_held in enumerate(self.stages)
        )  # fmt: skip

    def elsewhere(self, stage: int) -> float:
        """Return the bytes of a stage's weights that are not stored on its devices (in the host's memory, for example)."""
        if self.apart is not None:
            return self.apart.freed_bytes[stage]
        return float(sum(hook(value, self, stage) for hook, value in hooks_at("elsewhere_bytes", self.parts)))

    def added(self, stage: int) -> float:
        """Return the bytes of additional weights that parts store on each device of a stage."""
        return float(sum(hook(value, self, stage) for hook, value in hooks_at("added_bytes", self.parts)))

    def without(self, name: str) -> Deployment:
        """Return this deployment without one of its parts."""
        return replace(self, parts={other: value for other, value in self.parts.items() if other != name})


def deploy(
    model: ModelSpec,
    system: SystemSpec,
    *,
    tp: int | None = None,
    dp: int | None = None,
    ep: int | None = None,
    pp: int | None = None,
    placement: str | None = None,
    attention: str | None = None,
    routing: str = "uniform",
    seed: int = 0,
    draws: str = "layer",
    costs: str = "auto",
    memory: str = "flat",
    kernels: Sequence[str] = (),
    frameworks: Mapping[str, str] = MappingProxyType({}),
    exchange: str = "all_to_all",
    all_to_all: str | None = None,
    sampling: str = NONE,
    joint: bool = False,
    short_dense: bool = False,
    alone: tuple[str, ...] = (),
    **parts: Any,
) -> Deployment:
    """Put a model on a system.

    Parameters
    ----------
    tp, dp, ep, pp, placement, attention, routing, costs, memory, sampling, all_to_all : optional
        See `scenario.options.DeployOptions`; fitted kernel models include their measured efficiency for any `memory`.
    seed : int
        Seed of the expert samples.
    draws : str
        "layer": every layer samples its expert loads in every step. "step": one sample per step is used for all equal
        layers, which keeps the mean step time and widens its spread; much faster for models of many layers.
    kernels : sequence of str
        Measured kernel tables of the device, which come before any model.
    frameworks : mapping of str to str
        Kind of op -> whose kernels run it, where measurements tell; see `frameworks.kernels.kernels_of`.
    exchange : str
        How devices exchange tokens and logits: "all_to_all" (of tokens to their experts), or
        "gather"; see `Layout.gather`.
    joint : bool
        Whether one kernel serves the attention of a step's prompts and decodes.
    short_dense : bool
        Whether sparse attention computes short prompts without choosing keys.
    alone : tuple of str
        Small ops that the engine starts a kernel for.
    **parts
        What parts are set to: ``overlap="two-batch"``, ``resident_experts=ExpertStore(4)``, ``adapters=Tenants(...)``,
        ``expert_copies=ExpertPlacing(...)``.

    Raises
    ------
    InputError
        Degrees, placement or routing that do not fit the model or system; a system of FPGAs.
    """
    check_choices(system, {"--placement": placement, "--attention": attention, "--costs": costs,
                            "--memory": memory, "draws": draws, "exchange": exchange})  # fmt: skip
    check_routing(routing)
    parse_sampling(sampling)
    given = {name.replace("_", "-"): value for name, value in parts.items() if value is not None}
    if system.mapping.prefill_share is not None:
        _check_pools(system, pp)
        sides = tuple(deploy(
                model, side, tp=tp, dp=dp, ep=ep, placement=placement, attention=attention,
                routing=routing, seed=seed, draws=draws, costs=costs, memory=memory, kernels=kernels,
                frameworks=frameworks, exchange=exchange, all_to_all=all_to_all, sampling=sampling,
                joint=joint, short_dense=short_dense, alone=alone, **parts,
            ) for side in system.pools())  # fmt: skip
        return replace(sides[1], system=system, pools=sides)
    model = replace(model, numerics=replace(model.numerics, lacks=lacking(system.device)))
    model, popularity = _adapted(model, given)
    sender = frameworks.get("all_to_all", "").partition("@")[0]
    layout = _laid_out(make_layout(model, system, tp, dp, ep, pp), model, system, exchange, all_to_all, sender)
    given = _configured(given, model, system, layout)
    copies = [hook(value, layout, system) for hook, value in hooks_at("expert_copies", given)]
    shard = shard_model(model, layout, *copies)
    stages = stage_models(shard, layout.pp)
    experts = expert_parts(stages, layout, routing, seed, draws == "step", popularity)
    for hook, value in hooks_at("place_experts", given):
        experts = hook(value, experts, layout, system)
    chosen = system.mapping.attention if attention is None else attention
    device = checked_device(model, system, costs, memory, kernels, frameworks, chosen)
    return _checked(Deployment(
        model=model, shard=shard, stages=stages, system=system, device=device, experts=experts,
        layout=replace(layout, sent=sent_share(experts), fewer=fewer_reached(experts, layout, system)),
        placement=placement or system.mapping.placement, kernels=tuple(kernels), parts=given,
        run=Run(model.numerics, chosen, sampling, joint, short_dense, layout.sends, layout.tp == 1, alone), all_to_all=all_to_all or "",
        sender=sender,
    ))  # fmt: skip


def _adapted(model: ModelSpec, given: Mapping[str, Any]) -> tuple[ModelSpec, str]:
    """Return the model as changed by parts, and the popularity of adapters among requests."""
    popularity = "uniform"
    for hook, value in hooks_at("adapt_model", given):
        model, popularity = hook(value, model)
    return model, popularity


def _checked(deployment: Deployment) -> Deployment:
    """Refuse parts that cannot be combined, and deployments that a part does not support."""
    check_parts(parts_of(Combination(deployment)))
    for hook, value in hooks_at("check", deployment.parts):
        hook(value, deployment)
    return deployment


def _configured(given: Mapping[str, Any], model: ModelSpec, system: SystemSpec, layout: Layout) -> dict[str, Any]:
    """Return the settings of parts after their checks; parts without effect are left out."""
    configured = {name: (PARTS[name].hook("configure"), value) for name, value in given.items()}
    made = {name: hook(value, model, system, layout) if hook else value for name, (hook, value) in configured.items()}
    return {name: value for name, value in made.items() if value is not None}


def _check_pools(system: SystemSpec, pp: int | None) -> None:
    if pp not in (None, 1):
        raise InputError("--pp", f"cannot be combined with the two pools of {system.name}")


def _laid_out(
    layout: Layout, model: ModelSpec, system: SystemSpec, exchange: str, all_to_all: str | None, sender: str
) -> Layout:
    """Return the layout with its exchange of expert tokens; refuse an exchange that the system cannot run."""
    bits = model.numerics.weight_format("experts")
    width = BITS[bits] / 16.0 if sender == "trtllm" and bits in QUANTISED else 1.0
    layout = replace(layout, gather=exchange == "gather", width=width)
    if all_to_all is not None:
        planned_exchange(layout, system, all_to_all)
    return layout
