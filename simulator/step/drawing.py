"""Sampling of a step's expert loads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.draws import LayerRouting, SampleKeys, Scratch, StepTokens, draw_loads, keys_of, pool_place
from ...workloads.jit import compiled_part, int64
from ...workloads.routing import POOL
from .lowering import I8, LoweredModel


class StepBatch(NamedTuple):
    """Tokens that all ranks compute in a step; the samples of expert loads depend on nothing else of the step.

    Attributes
    ----------
    step : int
        Counter of the samples.
    decodes : int
        Number of decode tokens.
    chunks : int64 array, shape (2, most)
        Tokens and request of each prompt chunk, in the first `num_chunks` columns.
    num_chunks : int
        Number of prompt chunks.
    """

    step: int
    decodes: int
    chunks: I8
    num_chunks: int


@compiled_part
def draw_part(plan: LoweredModel, part: int, batch: StepBatch, ahead: int, scratch: Scratch, loads: I8) -> None:
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


@compiled_part
def mark_of(plan: LoweredModel, part: int, batch: StepBatch, keys: SampleKeys) -> np.uint64:
    """Return the key under which costs at a part's loads are cached; 0 if the loads are not from a pool."""
    experts, tilt, tokens = plan.experts[part], plan.expert_work[part].tilt, int64(batch.decodes)
    if tilt < 0.0 or (tilt > 0.0 and batch.num_chunks > 0):
        return np.uint64(0)
    for c in range(batch.num_chunks):
        tokens += batch.chunks[0, c]
    mixed = int64(batch.num_chunks > 0)
    which = np.uint64(((tokens * plan.experts.shape[0] + experts.alike) * 2 + mixed) * POOL)
    return which + pool_place(keys, experts.key, experts.pool)
