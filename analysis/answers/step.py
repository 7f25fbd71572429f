"""One step of a deployment, costed op by op: what `roofline`, sweeps of kernels and others start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...simulator.scenario.load import load
from ...simulator.scenario.option import chosen
from ...simulator.scenario.parts import DeployOptions
from ...simulator.scenario.place import deployed
from ...simulator.step.explicit import StageCost, dealt, explicit_stage
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count

MAX_BATCH = 1 << 20
"""More sequences than any device serves at once; keeps a mistyped number from filling memory."""


def step_of(
    model: str | Path | ModelSpec,
    system: str | Path | SystemSpec,
    batch: int,
    context: int,
    prefill: int,
    options: Mapping[str, Any],
) -> tuple[Deployment, StageCost]:
    """Cost one step with expected expert loads; see `roofline`.

    Raises
    ------
    InputError
        As `roofline`.
    """
    batch = check_count(batch, "--batch", 0, MAX_BATCH)
    context = check_count(context, "--context", 0)
    prefill = check_count(prefill, "--prefill", 0)
    how = chosen(DeployOptions, options)
    if batch + prefill == 0:
        raise InputError("--batch 0", "needs --prefill above 0; an empty step has no ops")
    spec, where = load(model, system, how.dtype, how.kv_dtype)
    spec = spec.of_length(max(context + 1, prefill))
    deployment = deployed(spec, where, how)
    return deployment, stage_of(deployment, batch, context, prefill)


def stage_of(d: Deployment, batch: int, context: int, prefill: int) -> StageCost:
    """One step of an engine of the deployment."""
    chunks = [(prefill, 0)] if prefill else []
    batches = dealt(d, -(-batch // d.replicas), context, chunks)
    return explicit_stage(d, batches, expected=True)


def engine_devices(d: Deployment) -> float:
    """Devices of one engine."""
    return d.layout.all_devices / d.replicas


def work_joules(d: Deployment, stage: StageCost) -> float:
    """Dynamic energy of a step of one engine [J]."""
    return d.device.board.work_joules(stage.joules, stage.busy_within(engine_devices(d)))
