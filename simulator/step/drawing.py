"""Samples of a step's expert loads."""

from __future__ import annotations

from typing import NamedTuple

from ...workloads.draws import LayerRouting, Scratch, StepTokens, draw_loads, keys_of
from ...workloads.jit import compiled_part
from .lowering import I8, Plan


class StepBatch(NamedTuple):
    """What all ranks run in a step.

    Attributes
    ----------
    step : int
        Counter of the samples.
    decodes : int
        Tokens of decodes.
    chunks : int64 array, shape (2, most)
        Tokens of each chunk of a prompt, and its request.
    num_chunks : int
        How many there are.
    """

    step: int
    decodes: int
    chunks: I8
    num_chunks: int


@compiled_part
def draw_part(plan: Plan, part: int, batch: StepBatch, ahead: int, scratch: Scratch, loads: I8) -> None:
    """Sample the loads of `part` for a step, or for the same batch `ahead` steps later."""
    experts, work = plan.experts[part], plan.expert_work[part]
    draw_loads(
        keys_of(plan.seed, plan.replica, batch.step + ahead),
        experts.key,
        StepTokens(batch.decodes, batch.chunks, batch.num_chunks),
        LayerRouting(
            experts.count, experts.top_k, experts.uniform > 0, plan.router[part], work.tilt, work.persist, experts.pool
        ),
        scratch,
        loads,
    )
