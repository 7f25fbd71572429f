"""One step of a deployment, costed op by op; `roofline` and sweeps of kernels are based on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...simulator.option import chosen, options_of
from ...simulator.parts.drafts import SpeculationOptions
from ...simulator.parts.drafts.explicit import speculative_stage
from ...simulator.parts.drafts.left import StepGain
from ...simulator.parts.drafts.speculating import drafted
from ...simulator.parts.encoders.asked import PLAIN, tower_of
from ...simulator.parts.overlap.chunked import timelines_of
from ...simulator.scenario.load import load
from ...simulator.scenario.options import DeployOptions
from ...simulator.scenario.place import deployed, refuse_unused
from ...simulator.step.explicit import StageCost, dealt, explicit_stage
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec, with_tower
from ...workloads.requests.options import check_count
from ...workloads.tower import read_size
from .step_timeline import Bar, bars_of
from .usual import kernels_as_usual

SPECULATIVE = frozenset(p.name for p in options_of(SpeculationOptions))
MAX_BATCH = 1 << 20
"""Maximum number of sequences. No device serves more at the same time; the limit stops a typing error from filling memory."""


def step_of(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, batch: int, context: int,
    prefill: int, options: Mapping[str, Any], images: int = 0, image_size: str | None = None,
) -> tuple[Deployment, StageCost]:  # fmt: skip
    """Cost one step with expected expert loads; see `roofline`. `prefill` has the tokens of the images in it.

    Raises
    ------
    InputError
        As `roofline`.
    """
    batch = check_count(batch, "--batch", 0, MAX_BATCH)
    context = check_count(context, "--context", 0)
    prefill = check_count(prefill, "--prefill", 0)
    speculative = {n: options[n] for n in options if n in SPECULATIVE}
    how = chosen(DeployOptions, {n: x for n, x in options.items() if n not in speculative})
    if batch + prefill == 0:
        raise InputError("--batch 0", "needs --prefill above 0; an empty step has no ops")
    spec, where = load(model, system, how.dtype, how.kv_dtype)
    spec = spec.of_length(max(context + 1, prefill))
    if images:
        size = read_size(image_size) if image_size is not None else PLAIN
        share = image_tokens(spec, images, image_size) / prefill
        spec = with_tower(spec, size, min(1.0, share), images)
    deployment = deployed(spec, where, kernels_as_usual(how, where))
    refuse_unused(how, deployment)
    speculation = chosen(SpeculationOptions, speculative)
    deployment = drafted(deployment, speculation, how.routing, 0)
    return deployment, stage_of(deployment, batch, context, prefill)


def image_tokens(model: ModelSpec, images: int, image_size: str | None) -> int:
    """Return the number of tokens of a prompt's images.

    Raises
    ------
    InputError
        If the model has no image tower, or if it needs `image_size` to count tokens and none is given.
    """
    tower = tower_of(model)
    if image_size is None and (tower.tiles or not tower.fixed):
        raise InputError("--images", f"needs --image-size WxH too, for tokens of {model.name}'s images")
    return images * tower.tokens(PLAIN if image_size is None else read_size(image_size))


def stage_of(deployment: Deployment, batch: int, context: int, prefill: int) -> StageCost:
    """Return the cost of one step of one of the deployment's engines."""
    batches = _batches(deployment, batch, context, prefill)
    if deployment.parts.get("drafts") is not None:
        return speculative_stage(deployment, batches, expected=True).whole
    return explicit_stage(deployment, batches, expected=True)


def bars_of_step(deployment: Deployment, batch: int, context: int, prefill: int) -> tuple[Bar, ...]:
    """Return the bars of one step: when and where each op runs.

    Raises
    ------
    InputError
        With speculative decoding or fetched experts, whose times within the step are not modelled.
    """
    if deployment.parts.get("drafts") is not None:
        raise InputError("--timeline", "does not support speculative decoding; remove --speculative")
    return bars_of(timelines_of(deployment, _batches(deployment, batch, context, prefill), expected=True))


def _batches(deployment: Deployment, batch: int, context: int, prefill: int) -> list[Batch]:
    """Return one batch for each rank of one engine."""
    chunks = [(prefill, 0)] if prefill else []
    return dealt(deployment, -(-batch // deployment.replicas), context, chunks)


def gain_of(deployment: Deployment, batch: int, context: int, prefill: int) -> StepGain | None:
    """Return the effect of speculation on the step that `stage_of` costs; None without speculation."""
    if deployment.parts.get("drafts") is None:
        return None
    speculated = speculative_stage(deployment, _batches(deployment, batch, context, prefill), expected=True)
    plain = replace(deployment.without("drafts"), several=1)
    plain_s = stage_of(plain, batch, context, prefill).seconds
    return StepGain(speculated.verify_s, speculated.draft_s, plain_s)


def engine_devices(deployment: Deployment) -> float:
    """Return the number of devices of one engine."""
    return deployment.layout.all_devices / deployment.replicas


def work_joules(deployment: Deployment, stage: StageCost) -> float:
    """Return the dynamic energy of a step of one engine [J]."""
    return deployment.device.board.work_joules(stage.joules, stage.busy_within(engine_devices(deployment)))
