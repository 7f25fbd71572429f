"""The compiled path: the time of one step from its moments, with running totals for each op.

It evaluates the formulas of `explicit`, `deploy.placement` and `devices.cost` on the arrays of `lowering.LoweredModel`.
Experts are in `experts`, running totals in `step_totals`.
"""

from __future__ import annotations

import numpy as np

from ...workloads.batch import TOKENS, batch_tokens
from ...workloads.jit import compiled_inside, compiled_part, int64
from ...workloads.records import Records
from ..deploy.placement import CLEARLY, Option
from . import step_totals as columns
from .drawing import StepBatch
from .experts import experts_step
from .lowering import F8, Form, LoweredModel, Role
from .prices import op_outside, op_price
from .rules import attained, energy, score
from .step_totals import StepTotals
from .unequal import graph_batch

_batch_tokens = compiled_part(batch_tokens)


@compiled_part
def cost_slot(plan: LoweredModel, slot: int, moments: F8, cell: Records) -> None:
    """Place and cost one op of one rank at `moments`; write the result to `cell`."""
    forms, last = plan.forms[slot], moments.size
    flops, stream, act = 0.0, forms[Form.STREAM, last], 0.0
    for j in range(last):
        flops += forms[Form.FLOPS, j] * moments[j]
        stream += forms[Form.STREAM, j] * moments[j]
        act += forms[Form.ACT, j] * moments[j]
    if flops <= 0.0 and act <= 0.0:
        cell.processor = -1.0
        cell.wall = 0.0
        return
    flops += forms[Form.FLOPS, last]
    act += forms[Form.ACT, last]
    p = first_able(plan, slot)
    if plan.slots[slot].several:
        p = choose_slot(plan, slot, moments, flops, stream, act)
    seconds, limit = op_price(plan.kernels, plan.params[slot, p], slot, p, moments, flops, stream + act)
    cell.wall, cell.processor, cell.busy = seconds, p, seconds
    cell.flops, cell.stream, cell.act = flops, stream, act
    cell.outside = op_outside(plan.kernels, slot, p, moments)
    cell.bound = limit


@compiled_part
def first_able(plan: LoweredModel, slot: int) -> int:
    """Return the first processor that can run an op."""
    p = int64(0)
    while not plan.can[slot, p]:
        p += 1
    return p


@compiled_part
def choose_slot(plan: LoweredModel, slot: int, moments: F8, flops: float, stream: float, act: float) -> int:
    """Return the processor of an op that several can run: the lowest score, the first among equal scores."""
    role = plan.slots[slot].role
    decode, size = role == Role.PAIR_DECODE or role == Role.DECODE, stream + act
    first, paid = np.inf, 0.0
    kind, phase = plan.slots[slot].kind, plan.slots[slot].phase
    best, least = int64(0), np.inf
    for p in range(plan.can.shape[1]):
        if not plan.can[slot, p]:
            continue
        params, seconds, joules = plan.params[slot, p], 0.0, 0.0
        if plan.priced or decode:
            paid, _ = op_price(plan.kernels, params, slot, p, moments, flops, size)
            first = paid if first == np.inf else first
        if plan.priced:
            seconds, joules = paid, energy(params, flops, stream, act)
        near, rate = decode and paid < first * CLEARLY, attained(params, flops, size)
        ratio = flops / size if size else 0.0
        o = Option(p, near, seconds, joules, rate, ratio, kind, phase, moments[TOKENS])
        value = score(plan.custom, plan.rule, o)
        if value < least:
            best, least = p, value
    return best


@compiled_inside
def cost_cell(plan: LoweredModel, slot: int, moments: F8, fresh: bool, cells: Records) -> None:
    """Cost an op of one rank, if its cost may have changed.

    Unless the batch is `fresh`, only ops that depend on the decodes' contexts are costed again.
    """
    cell = cells[slot]
    if fresh or plan.slots[slot].varies:
        cost_slot(plan, slot, moments, cell)
        paired = plan.slots[slot].role == Role.PAIR_DECODE and plan.spaces > 1
        if plan.shares and paired:
            before = cells[slot - 1]  # decode attention runs in parallel with the prefill attention before it
            if before.processor >= 0.0 and before.processor != cell.processor:
                cell.wall = max(cell.wall - before.busy, 0.0)


@compiled_inside
def book_cell(plan: LoweredModel, slot: int, processor: int, times: int, cell: Records, tally: F8, busy: F8) -> None:
    """Add `times` runs of an op on `processor` to the running totals."""
    row = tally[slot, processor]
    row[int(cell.bound)] += cell.busy * times
    track = busy.size - 1 if plan.slots[slot].role == Role.LINK else processor
    busy[track] += cell.busy * times
    row[columns.T_FLOPS] += cell.flops * times
    row[columns.T_STREAM] += cell.stream * times
    row[columns.T_ACT] += cell.act * times
    row[columns.T_RUNS] += times
    row[columns.T_OUTSIDE] += cell.outside * times


@compiled_part
def rank_seconds(plan: LoweredModel, g: int, moments: F8, fresh: bool, cells: Records, tally: F8, busy: F8) -> float:
    """Return the seconds of one layer of section `g` on one rank; add all its layers to the totals."""
    section, total = plan.sections[g], 0.0
    times = section.layers * plan.tp
    for s in range(section.start, section.stop):
        cost_cell(plan, s, moments, fresh, cells)
        cell = cells[s]
        p = int(cell.processor)
        if p >= 0:
            total += cell.wall
            book_cell(plan, s, p, times, cell, tally, busy)
    return total


@compiled_part
def section_seconds(
    plan: LoweredModel, g: int, moments: F8, fresh: bool, cells: Records, tally: F8, wall: F8, busy: F8
) -> float:
    """Return the seconds of one layer of section `g` on the slowest rank; add all its layers to the totals."""
    section = plan.sections[g]
    layers = section.layers
    slowest, longest = 0, -1.0
    for r in range(moments.shape[0]):
        seconds = rank_seconds(plan, g, moments[r], fresh, cells[r], tally, busy)
        if seconds > longest:
            slowest, longest = r, seconds
    for s in range(section.start, section.stop):
        wall[s] += cells[slowest, s].wall * layers
    return longest


@compiled_part
def constant_seconds(plan: LoweredModel, cells: Records) -> float:
    """Return the seconds of a rank's non-expert ops that do not depend on the decodes' contexts."""
    total = 0.0
    for g in range(plan.sections.shape[0]):
        for s in range(plan.sections[g].start, plan.sections[g].stop):
            if not plan.slots[s].varies:
                total += cells[s].wall * plan.sections[g].layers
    return total


@compiled_part
def serial_seconds(
    plan: LoweredModel, moments: F8, batch: StepBatch, fresh: bool, captured: int, step_totals: StepTotals
) -> float:
    """Return the seconds of one step over all pipeline stages; `step_totals.stages` gets the time of each stage.

    Parameters
    ----------
    moments : float64 array, shape (ranks, moments)
        Sums over each rank's batch.
    batch : StepBatch
        Key of the expert samples.
    fresh : bool
        Whether the batch differs from the last call's in more than the decodes' contexts.
    captured : int
        Largest batch with a captured CUDA graph; smaller batches are padded to the next captured size.
    step_totals : StepTotals
        Running totals, to which the step is added.
    """
    total = 0.0
    stages = step_totals.stages
    for s in range(stages.size):
        stages[s] = 0.0
    for r in range(moments.shape[0]):
        moments[r, TOKENS] = graph_batch(int(moments[r, TOKENS]), captured)
    for g in range(plan.sections.shape[0]):
        longest = section_seconds(
            plan, g, moments, fresh, step_totals.cells, step_totals.tally, step_totals.wall, step_totals.busy[0]
        )
        layers = plan.sections[g].layers
        total += longest * layers
        stages[plan.sections[g].stage] += longest * layers
    for r in range(moments.shape[0]):
        moments[r, TOKENS] = _batch_tokens(moments[r], plan.windows.size)
    return total + experts_step(plan, batch, step_totals)
