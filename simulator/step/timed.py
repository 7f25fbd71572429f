"""Seconds of one step for the engine's loops; overlap is compiled only where a plan asks for it.

So are micro-batches that go to and fro between devices that attend and devices that hold experts, and what sets the prices of exchanges that go by the kind of step.
"""

from __future__ import annotations

from ...workloads.jit import compiled_given, int64
from ..parts.experts_apart.ping_pong import ping_pong_seconds
from ..parts.overlap.compiled import overlapped_seconds
from .books import Books
from .compiled import serial_seconds
from .drawing import StepBatch
from .lowering import F8, Plan

_step_seconds = compiled_given("plan.apart", compiled_given("plan.streams", serial_seconds)(overlapped_seconds))(
    ping_pong_seconds
)


@compiled_given("plan.modes", _step_seconds)
def step_seconds(plan: Plan, moments: F8, batch: StepBatch, fresh: bool, captured: int, books: Books) -> float:
    """Seconds of one step; see `compiled.serial_seconds`."""
    modes = plan.modes
    with_prompts = int64(batch.num_chunks > 0)
    for i in range(modes.slots.size):
        for j in range(modes.params.shape[2]):
            plan.params[modes.slots[i], 0, j] = modes.params[with_prompts, i, j]
    return _step_seconds(plan, moments, batch, fresh, captured, books)
