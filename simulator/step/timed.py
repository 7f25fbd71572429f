"""Step times as engine loops call them: `plain_seconds`, or the function of a part that the plan contains; cache of lowered deployments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from ...workloads.jit import compiled_by, compiled_code, compiled_given, compiled_part, int64
from ...workloads.jit_address import address_of, by_address, code_at, seconds_at, type_of_value
from ..deploy.deployment import Deployment
from .compiled import constant_seconds, serial_seconds
from .drawing import StepBatch
from .lowering import F8, LoweredModel, Slots, lower
from .step_totals import StepTotals, spent


@compiled_part
def plain_seconds(
    plan: LoweredModel, moments: F8, batch: StepBatch, fresh: bool, captured: int, step_totals: StepTotals
) -> float:
    """Return `serial_seconds`; for a fresh batch also store a lower bound of its step times."""
    seconds = serial_seconds(plan, moments, batch, fresh, captured, step_totals)
    if fresh:
        step_totals.least[0] = constant_seconds(plan, step_totals.cells[0])
    return float(seconds)


by_streams = compiled_by("plan.streams", "streamed_seconds")(plain_seconds)
seconds_by_part = compiled_by("plan.apart", "apart_seconds")(by_streams)


@compiled_given("plan.modes", seconds_by_part)
def step_seconds(
    plan: LoweredModel, moments: F8, batch: StepBatch, fresh: bool, captured: int, step_totals: StepTotals
) -> float:
    """Return the seconds of one step, after choosing exchange algorithms by the kind of step (`serial_seconds`)."""
    modes = plan.modes
    with_prompts = int64(batch.num_chunks > 0)
    for i in range(modes.slots.size):
        plan.params[modes.slots[i], 0] = modes.params[with_prompts, i]
    return seconds_by_part(plan, moments, batch, fresh, captured, step_totals)


@by_address
class Lowered(NamedTuple):
    """A lowered deployment with its running totals, from which steps are costed."""

    plan: LoweredModel
    step_totals: StepTotals


@by_address
class Costs(NamedTuple):
    """Addresses of the cost functions of a lowered deployment: one type for engines of all deployments."""

    seconds: int  # address of the code of `lowered_seconds`
    spent: int  # address of the code of `lowered_spent`
    model: int  # address of the `Lowered`; 0: none
    windows: npt.NDArray[np.int64]  # [W] attention windows
    stages: F8  # [pp] seconds of the latest step on each pipeline stage
    busy: F8  # `StepTotals.busy`
    least: F8  # `StepTotals.least`


@compiled_code
def lowered_seconds(
    model: Lowered,
    moments: F8,
    step: int,
    decodes: int,
    chunks: npt.NDArray[np.int64],
    count: int,
    fresh: bool,
    captured: int,
) -> float:
    """Return `step_seconds` of a lowered deployment; called by address."""
    return step_seconds(
        model.plan, moments, StepBatch(step, decodes, chunks, count), fresh, captured, model.step_totals
    )


@compiled_code
def lowered_spent(model: Lowered) -> float:
    """Return the energy of all work so far at the nominal clock [J]; called by address."""
    return spent(model.plan, model.step_totals.tally)


@compiled_part
def cost_step(
    costs: Costs,
    moments: F8,
    step: int,
    decodes: int,
    chunks: npt.NDArray[np.int64],
    count: int,
    fresh: bool,
    captured: int,
) -> float:
    """Return the seconds of a step with given moments on every rank, see `compiled.serial_seconds`."""
    return float(seconds_at(costs.seconds, costs.model, (moments, step, decodes, chunks, count, fresh, captured)))


@compiled_part
def joules_of(costs: Costs) -> float:
    """Return the energy of all work so far at the nominal clock [J]."""
    return float(seconds_at(costs.spent, costs.model, ()))


def costs_of(model: Lowered | None) -> Costs:
    """Return the cost functions of a lowered deployment, which must outlive them."""
    if model is None:
        return Costs(0, 0, 0, np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((2, 0)), np.zeros(1))
    matrix, i = type_of_value(np.zeros((1, 1))), types.int64
    kind, rows = type_of_value(model), type_of_value(np.zeros((1, 1), dtype=np.int64))
    seconds = code_at(lowered_seconds, (kind, matrix, i, i, rows, i, types.boolean, i), types.float64)
    spent_code = code_at(lowered_spent, (kind,), types.float64)
    step_totals = model.step_totals
    return Costs(
        seconds,
        spent_code,
        address_of(model),
        model.plan.windows,
        step_totals.stages,
        step_totals.busy,
        step_totals.least,
    )


KEPT = 64
"""Number of deployments whose lowering is cached."""
_lowered: dict[int, tuple[Deployment, int, LoweredModel, Slots]] = {}


def lowered(deployment: Deployment, replica: int, counts: int) -> tuple[LoweredModel, Slots]:
    """Return the lowered deployment of `lower`, from the cache if it was lowered recently.

    Runs can share a plan: they write only its `memo`, whose entries are equal for all runs.
    """
    known = _lowered.pop(id(deployment), None)
    if known is not None and known[1] == counts and deployment.apart is None:  # else the replica is in further arrays
        plan, slots = known[2]._replace(replica=replica), known[3]
    else:
        plan, slots = lower(deployment, replica, counts)
    _lowered[id(deployment)] = deployment, counts, plan, slots  # the reference keeps its id unique
    while len(_lowered) > KEPT:
        del _lowered[next(iter(_lowered))]
    return plan, slots
