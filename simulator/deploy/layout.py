"""Parallel layout: how a model is divided over the devices of a system, and which data they exchange.

Each of `dp` data-parallel ranks has `tp` devices, which split every non-expert layer. Experts are on `ep` groups of
`devices / ep` devices, which split each expert's columns. Ranks of a MoE model run in lock-step, because they share the
experts; ranks of a dense model are replicas. With pipeline parallelism this holds for each of `pp` stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ...devices.collectives.plans import BY_COST, BY_STEP, Level, PlannedLink, Timed, Topology, plan, usual
from ...devices.hosts.catalog import link_of
from ...devices.spec import LinkSpec, SystemSpec
from ...workloads.errors import InputError
from ...workloads.layers import LayerKind, is_routed
from ...workloads.model import Layer, ModelSpec

BY_LAYER = "expert-parallel-by-layer"
"""Mapping rule that distributes the experts of each layer to as many groups as suit that layer."""

MOST_STAGES = 128
"""Largest number of pipeline stages, at most `engine.state.LOG_ROWS`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Parallel degrees; ``tp * dp == ep * expert_tp ==`` devices of one stage.

    Attributes
    ----------
    tp : int
        Devices a non-expert layer is split over.
    dp : int
        Data-parallel ranks.
    ep : int
        Expert groups; the maximum of all layers if layers differ.
    expert_tp : int
        Devices one expert is split over.
    gather : bool
        Ranks share experts by gathering everybody's tokens before them and scattering the sums after them, instead of
        sending each token to its experts' ranks; and a rank's devices gather the logits of the whole vocabulary.
    width : float
        Bytes of a gathered token over the bytes of its activations.
    away : frozenset of str
        Op kinds that run on another device than the rest: their inputs and outputs cross the link.
    pp : int
        Stages that the layers are cut into.
    sent : float
        What ranks send each other of their tokens, over what they would if no expert had copies:
        a copy on a token's own rank saves its way.
    fewer : tuple of float
        Devices, and nodes, that a token's copies reach, over what they would if its router chose from all groups of experts.
    by_layer : bool
        Whether experts of each layer go to as many groups as divide them.
    apart : bool
        Whether the experts are on separate devices, and every token's vectors are sent to them.
    """

    tp: int
    dp: int
    ep: int
    expert_tp: int
    gather: bool = False
    width: float = 1.0
    away: frozenset[str] = frozenset()
    pp: int = 1
    sent: float = 1.0
    fewer: tuple[float, float] = (1.0, 1.0)
    by_layer: bool = False
    apart: bool = False

    def dealt(self, experts: int) -> tuple[int, int]:
        """Return the number of groups for the experts of a layer, and the devices that split each expert."""
        if not self.by_layer:  # with copies of all experts, in training, ep x expert_tp are fewer
            return self.ep, self.expert_tp
        ep = _groups(self.devices, experts)
        return ep, self.devices // ep

    @property
    def sends(self) -> bool:
        """Return whether ranks exchange tokens by an all-to-all, which sends rows only to the ranks of their experts."""
        return self.dp > 1 and not self.gather

    @property
    def devices(self) -> int:
        """Return the devices of a stage; if processors are separate devices, one of each counts as one device."""
        return self.tp * self.dp

    @property
    def all_devices(self) -> int:
        """Return the number of devices in all pipeline stages."""
        return self.devices * self.pp

    @property
    def degrees(self) -> str:
        """Return the degrees of parallelism as text, for messages."""
        stages = f", pp {self.pp}" if self.pp > 1 else ""
        return f"tp {self.tp}, dp {self.dp}, ep {self.ep}{stages}"


def make_layout(
    model: ModelSpec,
    system: SystemSpec,
    tp: int | None = None,
    dp: int | None = None,
    ep: int | None = None,
    pp: int | None = None,
) -> Layout:
    """Choose the degrees that are not given.

    Tensor parallel within a node and data parallel across nodes. Rules of experts: ``expert-parallel`` spreads whole
    experts over as many devices as divide them, ``expert-parallel-by-layer`` does this for each layer,
    ``tensor-parallel`` splits every expert within a node and distributes experts to nodes. The default is one pipeline
    stage, unless the system's mapping is a pipeline.

    Raises
    ------
    InputError
        Degrees that do not multiply to the number of devices or do not divide the model.
    """
    devices = system.groups
    away = _away(system)
    for name, value in (("--tp", tp), ("--dp", dp), ("--ep", ep), ("--pp", pp)):
        if value is not None and not 1 <= value <= devices:
            raise InputError(name, f"must be in [1, {devices}] on {system.name}, not {value}")
    pp = _stages(model, system, pp or _default_pp(model, system))
    devices //= pp
    of = f"the {devices} devices of {system.name}" if pp == 1 else f"the {devices} of each stage"
    if tp is None:
        tp = _default_tp(model, system, devices, dp, of)
    if dp is None:
        dp = devices // tp
    if tp * dp != devices:
        raise InputError("--tp/--dp", f"tp {tp} x dp {dp} must be {of}")
    counts = _experts(model)
    if not counts:
        if ep not in (None, 1):
            raise InputError("--ep", f"{model.name} has no experts")
        return Layout(tp, dp, 1, devices, away=away, pp=pp)
    if ep is None and system.mapping.experts == BY_LAYER and _all_spread(model):
        if away:
            reason = f"cannot be {BY_LAYER} with processors that are separate devices"
            raise InputError(f"mapping.experts of {system.name}", reason)
        ep = max(_groups(devices, count) for count in counts)
        return Layout(tp, dp, ep, devices // ep, pp=pp, by_layer=True)
    if ep is None:
        ep = _default_ep(model, system, devices, math.gcd(*counts))
    if devices % ep:
        raise InputError("--ep", f"{ep} must divide {of}")
    return Layout(tp, dp, ep, devices // ep, away=away, pp=pp)


def _groups(devices: int, experts: int) -> int:
    """Return the largest number of groups that divides both devices and experts."""
    return math.gcd(devices, experts)


def _default_pp(model: ModelSpec, system: SystemSpec) -> int:
    """Return 1, or for a mapping with a pipeline the most stages that divide the devices and have a layer each."""
    if not system.mapping.pipeline:
        return 1
    most = min(system.groups, len(model.layers), MOST_STAGES)
    return max(n for n in range(1, most + 1) if system.groups % n == 0)


def _stages(model: ModelSpec, system: SystemSpec, pp: int) -> int:
    """Check a number of pipeline stages and return it."""
    if pp == 1:
        return pp
    if system.groups % pp:
        raise InputError("--pp", f"{pp} must divide the {system.groups} devices of {system.name}")
    if pp > MOST_STAGES:
        raise InputError("--pp", f"must be at most {MOST_STAGES}, not {pp}")
    if pp > len(model.layers):
        raise InputError("--pp", f"{pp} is more than the {len(model.layers)} layers of {model.name}")
    if system.mapping.separate:
        reason = "cannot be combined with a system whose processors are separate devices"
        raise InputError("--pp", f"{reason}, as on {system.name}")
    return pp


def _away(system: SystemSpec) -> frozenset[str]:
    """Return the kinds of ops that some processor does not run, if processors are separate devices."""
    if not system.mapping.separate:
        return frozenset()
    return frozenset(kind for p in system.device.processors.values() for kind in p.excludes)


def _experts(model: ModelSpec) -> set[int]:
    """Return the expert counts of all parts whose experts are spread over devices."""
    routed_found = [part.routed for layer in model.layers for part in layer.expert_parts]
    return {routed.experts for routed in routed_found if routed.spreads}


def _default_tp(model: ModelSpec, system: SystemSpec, devices: int, dp: int | None, what: str) -> int:
    """Return the largest degree of tensor parallelism that divides the devices and every dense layer."""
    if dp is not None:
        if devices % dp:
            raise InputError("--dp", f"{dp} must divide {what}")
        return devices // dp
    for tp in range(system.groups_per_node, 0, -1):
        if system.groups_per_node % tp == 0 and devices % tp == 0:
            try:
                model.map_layers(partial(_shard_dense, tp=tp))
            except InputError:
                continue
            return tp
    return 1


def _default_ep(model: ModelSpec, system: SystemSpec, devices: int, experts: int) -> int:
    if not _all_spread(model):
        return 1
    widest = system.nodes if system.mapping.experts == "tensor-parallel" else devices
    return max(d for d in range(1, min(widest, experts) + 1) if devices % d == 0 == experts % d)


def _all_spread(model: ModelSpec) -> bool:
    """Return whether the experts of all parts can be spread over devices."""
    return all(part.routed.spreads for layer in model.layers for part in layer.expert_parts)


def _shard_dense(layer: Layer, tp: int) -> Layer:
    return replace(layer, mixer=layer.mixer.shard(tp), ffn=None if layer.ffn is None else layer.ffn.shard(tp))


def shard_model(model: ModelSpec, layout: Layout, copies: Callable[[int], int] | None = None) -> ModelSpec:
    """Return the shard of a model that one device holds and runs.

    Parameters
    ----------
    copies : callable, optional
        Returns the additional experts of a device, from the experts of a layer.

    Raises
    ------
    InputError
        A degree that does not divide heads, columns or experts.
    """

    def shard(layer: Layer) -> Layer:
        layer = _shard_dense(layer, layout.tp)
        ffn = None if layer.ffn is None else spread(layer.ffn)
        return replace(layer, mixer=spread(layer.mixer), ffn=ffn)

    def spread(part: LayerKind) -> LayerKind:
        if not is_routed(part) or not part.routed.spreads:
            return part
        more = copies(part.routed.experts) if copies else 0
        degrees = layout.dealt(part.routed.experts)
        if not more:
            return part.shard_experts(*degrees)
        try:
            return part.shard_experts(*degrees, more)
        except TypeError as error:
            reason = f"are not supported by layers of kind {part.kind} ({error})"
            raise InputError("--redundant-experts", reason) from error

    return model.map_layers(shard)


def stage_models(shard: ModelSpec, pp: int) -> tuple[ModelSpec, ...]:
    """Cut a model's layers into pipeline stages; what lies outside the layers goes to the last.

    Stages have equally many layers; those left over go to one stage each, from the last but one backwards, since the
    last has the head as well: vLLM's rule (``get_pp_indices`` in vllm/distributed/utils.py).

    Examples
    --------
    >>> from opbyte import load_model
    >>> [len(stage.layers) for stage in stage_models(load_model("llama-3-8b"), 5)]
    [6, 6, 7, 7, 6]
    """
    if pp == 1:
        return (shard,)
    layers_each, left = divmod(len(shard.layers), pp)
    sizes = [layers_each + (pp - 1 - left <= s < pp - 1) for s in range(pp)]
    out, start = [], 0
    for s, size in enumerate(sizes):
        extra = shard.extra_weights if s == pp - 1 else 0
        layers = shard.layers[start : start + size]
        out.append(replace(shard, layers=layers, extra_weights=extra))
        start += size
    return tuple(out)


def rank_link(layout: Layout, system: SystemSpec) -> LinkSpec:
    """Return the link of the all-reduce within a rank: the node link if the rank exceeds a node."""
    within = layout.tp <= system.groups_per_node
    return link_of(system) if within else system.device.node_link


def exchange_link(layout: Layout, system: SystemSpec) -> LinkSpec:
    """Return the link between ranks: the node link if ranks are on different nodes."""
    within = layout.all_devices <= system.groups_per_node
    return link_of(system) if within else system.device.node_link


def planned_exchange(
    layout: Layout, system: SystemSpec, algorithm: str, top_k: int = 1, prompts: bool = False,
    timed: Mapping[str, Timed] | None = None, width: float = 1.0,
) -> PlannedLink:  # fmt: skip
    """Plan the all-to-all of tokens among a stage's devices by a named algorithm, or by the cheapest (`BY_COST`).

    Devices of a rank hold the same tokens and share the sending of an op's bytes; a plan's message is
    all of a rank's, which an algorithm that does not know of it sends from every device.

    Parameters
    ----------
    top_k : int
        Experts of a token.
    prompts : bool
        Whether any rank of the step has prompts: names of `BY_STEP` ask.
    timed : mapping of str to Timed, optional
        Measured kernels inside a node, by algorithm.
    width : float
        Bytes of a copy over the bytes of the message, if an algorithm sends fewer.

    Raises
    ------
    InputError
        Unknown algorithm, or ranks that do not fill nodes evenly.
    """
    inside = min(layout.devices, system.groups_per_node)
    if layout.devices % inside:
        raise InputError("--all-to-all", f"{layout.devices} devices do not fill nodes of {inside}")
    outer = Level(system.device.node_link, layout.devices // inside)
    levels = Level(link_of(system), inside), outer
    topology = Topology(levels, layout.tp, top_k, timed or {}, layout.fewer, width)
    names = usual("all_to_all") if algorithm == BY_COST else [algorithm]
    rest = list[str]()
    if algorithm in BY_STEP:
        decoding, mixed = BY_STEP[algorithm]
        names, rest = ([mixed], [decoding]) if prompts else ([decoding], [mixed])
    plans, others = (tuple(plan("all_to_all", name, topology) for name in own) for own in (names, rest))
    return PlannedLink(plans, exchange_link(layout, system), float(layout.tp), others)


def stage_link(layout: Layout, system: SystemSpec, stage: int) -> LinkSpec:
    """Return the link from a pipeline stage to the next: the node link if any rank's stages are on different nodes.

    Devices are numbered as in vLLM: the stages of a rank follow each other, with `tp` devices each.
    """
    size = system.groups_per_node
    firsts = [(rank * layout.pp + stage) * layout.tp for rank in range(layout.dp)]
    within = all(
        device // size == (device + layout.tp) // size for first in firsts for device in range(first, first + layout.tp)
    )
    return link_of(system) if within else system.device.node_link
