"""A model on two groups of devices, one for attention and one for routed experts.

The attention devices run norms, attention, gates, shared experts, dense layers, embedding and head, and store the KV
cache. The expert devices store and run only routed experts. For each token and each of its experts, one vector is sent
over the link to the expert, and one vector is sent back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....devices.spec import LinkSpec, SystemSpec
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ...deploy.deployment import Deployment
from ...deploy.programs import TO_AND_FRO
from ...scenario.links import kv_link
from ...scenario.options import DeployOptions
from ...scenario.place import deployed
from ...step.explicit import StageCost
from ..overlap.chunked import quickest_step  # noqa: F401  # a hook of this part too
from . import OPTION
from .holders import devices_of, held_bytes, runs_on, with_experts_on

if TYPE_CHECKING:
    from ...frameworks.settings import EngineSettings


def _check(attend: Deployment, hold: Deployment) -> None:
    """Reject a model whose attention and routed experts cannot be on separate devices.

    Raises
    ------
    InputError
        The model has experts in its attention, or no experts.
    """
    if any(r and not r.by_request for r in (la.mixer.routed for la in attend.model.layers)):
        raise InputError(
            "MODEL",
            f"{attend.model.name} has experts in its attention layers; only experts of FFN layers can be on other devices",
        )
    if not hold.experts:
        raise InputError(
            "MODEL", f"{hold.model.name} has no experts that could be on other devices; remove --experts-on"
        )


def spent(deployment: Deployment, stage: StageCost, group: Deployment) -> tuple[float, float]:
    """Return the energy of one group of devices in a step, and the static part of this energy [J]."""
    placed = [p for p in stage.ops if runs_on(deployment, p.op) is group and TO_AND_FRO not in p.op.shape]
    board, busy = group.device.board, sum(p.cost.seconds * p.count * p.devices for p in placed)
    work = board.work_joules(sum(p.cost.total_joules * p.count * p.devices for p in placed), busy)
    static = board.idle_joules(stage.seconds * devices_of(group))
    return static + work + board.busy_joules(busy), static


def apart_of(
    model: ModelSpec, attention: SystemSpec, experts: SystemSpec, options: DeployOptions,
    link: str | None = None, seed: int = 0, settings: EngineSettings | None = None, batches: int = 1,
) -> Deployment:  # fmt: skip
    """Return a deployment of a model on two systems; its steps alternate micro-batches between them.

    Parameters
    ----------
    options : DeployOptions
        Parallel degrees apply to the attention devices; expert placement and redundant experts to the expert devices.
    link : str, optional
        Link between both, in the form of ``--kv-link``; see `links.kv_link`.
    seed : int
        Seed of the expert samples.
    settings : EngineSettings, optional
        Settings of the engine on the attention devices.
    batches : int
        Micro-batches of a step.

    Raises
    ------
    InputError
        A value that is not supported, under the option's name; see `_check`.
    CapacityError
        Experts that do not fit into memory.
    """
    for system in (attention, experts):
        mapping = system.mapping
        if mapping.prefill_share is not None or mapping.separate or mapping.pipeline:
            raise InputError(
                OPTION,
                f"{system.name} has its own mapping of ops to processors; use a system without one, such as h200-x8",
            )
    counts = {part.routed.experts for layer in model.layers for part in layer.expert_parts if part.routed.spreads}
    stages = options.pp or (None if settings is None else settings.pp) or 1
    for count in counts:
        if experts.groups % stages or count % (experts.groups // stages):
            of = "" if stages == 1 else f" of each of {stages} stages"
            raise InputError(
                OPTION, f"{experts.name}: its {experts.groups // stages} devices{of} must divide the "
                f"{count} experts of a layer",
            )  # fmt: skip
    bare = options.parts.having("overlap")
    plain = replace(options, all_to_all=None, ep=None, parts=bare.having("expert-copies"))
    attend = deployed(model, attention, plain, settings, seed)
    hold = deployed(
        model, experts,
        replace(options, tp=1, dp=None, pp=stages, ep=experts.groups // stages if counts else None,
                all_to_all=None, placement=None, parts=bare.having("adapters")),
        seed=seed,
    )  # fmt: skip
    try:
        wire = kv_link(link, None, attention, experts)
    except InputError as error:
        raise InputError(error.subject.replace("--kv-link", "--experts-link"), error.reason) from None
    _check(attend, hold)
    held_bytes(hold)  # raises an error if the experts do not fit
    between = LinkSpec(name="link to experts", bandwidth_bytes_per_s=1.0, latency_s=wire.latency_s)
    between = between.model_copy(update={"bandwidth_bytes_per_s": wire.bandwidth_bytes_per_s})  # may be infinite
    return with_experts_on(attend, hold, between, batches)
