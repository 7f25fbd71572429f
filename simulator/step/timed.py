"""Seconds of one step for the engine's loops; overlap is compiled only where a plan asks for it."""

from __future__ import annotations

from ...workloads.jit import compiled_given
from .books import Books
from .compiled import serial_seconds
from .lowering import F8, I8, Plan
from .overlapped import overlapped_seconds


@compiled_given("plan.streams", serial_seconds)
def step_seconds(
    plan: Plan, moments: F8, step: int, decodes: int, chunks: I8, num_chunks: int, fresh: bool,
    captured: int, books: Books,
) -> float:  # fmt: skip
    """Seconds of one step; see `compiled.serial_seconds`."""
    return overlapped_seconds(
        plan, plan.streams, books.lanes, moments, step, decodes, chunks, num_chunks, fresh, captured,
        books,
    )  # fmt: skip
