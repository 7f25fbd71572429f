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
from ...frameworks.sharing import NOTHING
from ...registry import check_parts
from ...scenario.links import kv_link
from ...scenario.load import load
from ...scenario.options import DeployOptions
from ...scenario.place import deployed
from ...scenario.scenario import Scenario
from ...step.explicit import StageCost
from ..overlap.chunked import quickest_step  # noqa: F401  # a hook of this part too
from . import OPTION, check_experts_on
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


BATCHES = 3
"""Default number of micro-batches of a step.

Three fill a round trip if both groups take about the same time and the link takes up to half of that time.
"""


def deployed_beside(model: ModelSpec, system: SystemSpec, scenario: Scenario, settings: EngineSettings) -> Deployment:
    """Return the deployment of a model on an attention system and an expert system.

    Raises
    ------
    InputError
        A model, system or option that does not fit or is not supported.
    CapacityError
        Experts that do not fit into memory.
    """
    options_own = scenario.parts["experts-apart"]
    _check_options(scenario, settings)
    _, experts = load(model, str(options_own.experts_on))
    bare = replace(settings, ep=None, sharing=NOTHING)
    placing = {
        name: scenario.deployment.option(name) or getattr(settings.sharing, name)
        for name in ("expert_placement", "redundant_experts", "expert_dispatch")
    }
    options = scenario.deployment.changed(**placing)
    batches = options_own.micro_batches or BATCHES
    made = apart_of(model, system, experts, options, options_own.experts_link, scenario.seed, bare, batches)
    if any(not part.routed.spreads for layer in model.layers for part in layer.expert_parts):
        raise InputError(OPTION, f"{model.name} has experts that cannot be distributed over devices; remove the option")
    return made


def _check_options(scenario: Scenario, settings: EngineSettings) -> None:
    """Reject options that cannot be combined with disaggregated experts."""
    options, how = scenario.parts["experts-apart"], scenario.deployment
    check_experts_on(options.experts_on, options.micro_batches, options.experts_link)
    shared = settings.sharing
    given = {
        "overlap": ("--overlap", (how.option("overlap") or shared.overlap or "none") != "none"),
        "resident-experts": ("--experts-resident", how.option("experts_resident") is not None),
        "experts-apart": (OPTION, True),
    }
    check_parts({part: flag for part, (flag, there) in given.items() if there})
    for flag, there in {
        "--ep": how.ep is not None,
        "--all-to-all": (how.all_to_all or shared.all_to_all) is not None,
    }.items():
        if there:
            raise InputError(flag, f"cannot be combined with {OPTION}; remove one")
