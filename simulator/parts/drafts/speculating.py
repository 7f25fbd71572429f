"""Deployment with speculative decoding: the draft model is on the same devices, with the same cost models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....devices.spec import SystemSpec
from ....workloads.adapters import without_adapters
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ....workloads.routing import BY_REQUEST
from ....workloads.speculators import OPTION, RATES, SPECULATORS, DraftChoice, check_rates, read_asked, read_rates
from ...deploy.deployment import Deployment
from ...deploy.expert_parts import expert_parts
from ...deploy.layout import make_layout, shard_model
from ...part import Combination
from ...registry import check_parts, parts_of
from . import SpeculationOptions
from .speculation import Speculation

if TYPE_CHECKING:
    from ....workloads.speculators import DraftChoice
    from ...frameworks.settings import EngineSettings
    from ...scenario.scenario import Scenario

DRAFT_SEED = 0xD2AF7
"""Seed of a draft's expert samples, separate from the model's."""


def speculating(
    deployment: Deployment, asked: DraftChoice, rates: tuple[float, ...] | None, routing: str, seed: int
) -> Deployment:
    """Return the deployment with a drafter; the deployment itself for no drafts.

    Parameters
    ----------
    rates : tuple of float, optional
        Chances of acceptance by position; without them, requests must bring their own.
    routing, seed
        Of the experts of a draft, as of the model's.

    Raises
    ------
    InputError
        A speculator that the model has not, chances that do not fit the drafts, or what speculation is not built for.
    """
    if rates is not None:
        check_rates(asked, rates)
    if not asked.tokens:
        return deployment
    if deployment.pools:
        sides = tuple(speculating(side, asked, rates, routing, seed) for side in deployment.pools)
        return replace(sides[1], system=deployment.system, pools=sides)
    _check(deployment, asked)
    check_parts(parts_of(Combination(deployment)) | {"drafts": f"{OPTION} {asked}"})
    drafter = SPECULATORS[asked.method](without_adapters(deployment.model), asked.argument)
    draft = None
    if drafter.model is not None:
        draft = _beside(deployment, drafter.model, asked, routing, seed ^ DRAFT_SEED)
    speculation = Speculation(asked, rates, drafter.copies, drafter.on_host, draft)
    several = 1 + asked.tokens
    experts = tuple(
        replace(p, router=replace(p.router, tilt=BY_REQUEST * several)) if p.kept else p
        for p in deployment.experts  # requests choose for all tokens that a decode has in a step
    )
    apart = deployment.apart and replace(deployment.apart, holder=replace(deployment.apart.holder, several=several))
    return replace(
        deployment, parts={**deployment.parts, "drafts": speculation}, several=several, experts=experts, apart=apart
    )


def _check(deployment: Deployment, asked: DraftChoice) -> None:
    """Refuse deployments for which speculative decoding is not supported."""
    where = f"{OPTION} {asked}"
    if deployment.model.front is not None:
        raise InputError(where, f"{deployment.model.name} encodes images and generates no tokens; remove it")
    for wrong, what in (
        (deployment.system.mapping.separate, f"processors that are separate devices, {deployment.system.name}"),
        (bool(deployment.kernels), "kernel tables (--kernels), which have one token per decode"),
    ):
        if wrong:
            raise InputError(where, f"is not simulated with {what}")


def _beside(deployment: Deployment, model: ModelSpec, asked: DraftChoice, routing: str, seed: int) -> Deployment:
    """Deploy a draft model on the devices of a deployment, split in the same way as the target model."""
    ep = deployment.layout.ep if model.moe_layers and deployment.experts else None
    system = deployment.system if deployment.layout.pp == 1 else _stage_system(deployment)
    layout = make_layout(model, system, deployment.layout.tp, deployment.layout.dp, ep)
    layout = replace(layout, gather=deployment.layout.gather)
    shard = shard_model(model, layout)
    made = Deployment(
        model=model, shard=shard, stages=(shard,), system=deployment.system, device=deployment.device, layout=layout,
        placement=deployment.placement, run=replace(deployment.run, numerics=model.numerics),
        experts=expert_parts((shard,), layout, routing, seed, False), all_to_all=deployment.all_to_all,
        several=1 + asked.tokens,
    )  # fmt: skip
    if made.ranks != deployment.ranks:
        raise InputError(
            f"{OPTION} {asked}",
            f"needs a draft model with experts on {deployment.ranks} ranks that share experts "
            f"({deployment.layout.degrees}); use mtp, ngram or --dp 1",
        )
    return made


def _stage_system(deployment: Deployment) -> SystemSpec:
    """Return the devices of the last pipeline stage as a system; the draft model runs there."""
    devices, nodes = deployment.system.devices_per_node, deployment.system.nodes
    if devices % deployment.layout.pp == 0:
        size = {"devices_per_node": devices // deployment.layout.pp}
    else:
        size = {"nodes": nodes // deployment.layout.pp}
    return deployment.system.model_copy(update=size)


def rates_needed(asked: DraftChoice) -> InputError:
    """Return the error of speculative decoding without acceptance rates."""
    return InputError(
        RATES,
        f"is needed with {OPTION} {asked}: {asked.tokens} acceptance rate{'s' * (asked.tokens != 1)} from 0 to 1, "
        "comma-separated, from measurements; OpByte cannot predict them",
    )


def with_drafts(deployment: Deployment, scenario: Scenario, settings: EngineSettings) -> Deployment:
    """Return the deployment of a scenario with its drafter."""
    traced = scenario.workload.trace is not None
    options = scenario.parts["drafts"]
    return drafted(deployment, options, scenario.deployment.routing, scenario.seed, settings.speculative, traced)


def drafted(
    deployment: Deployment,
    options: SpeculationOptions,
    routing: str,
    seed: int,
    own: DraftChoice | None = None,
    traced: bool = False,
) -> Deployment:
    """Return the deployment with the drafter of the options, or else of the engine's `own` settings.

    Parameters
    ----------
    traced : bool
        Whether a trace may say how often drafts are accepted.

    Raises
    ------
    InputError
        Drafts without any chance of acceptance, or such a chance without drafts; see `speculating`.
    """
    asked = own if options.speculative is None else read_asked(options.speculative)
    if asked is None:
        if options.acceptance is not None:
            raise InputError(RATES, f"needs {OPTION} too, such as mtp:2")
        return deployment
    rates = None if options.acceptance is None else read_rates(options.acceptance)
    if rates is None and asked.tokens and not traced:
        raise rates_needed(asked)
    return speculating(deployment, asked, rates, routing, seed)
