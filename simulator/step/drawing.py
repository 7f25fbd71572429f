"""Keys and samples of a step's expert loads, which runs of one load can share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from ...workloads.draws import GOLDEN, PROMPT_SEED, U8, LayerRouting, Scratch, StepTokens, draw_loads, mix, step_key
from ...workloads.jit import compiled_given, compiled_part
from ...workloads.jit_held import held
from .lowering import I8, Plan

STEPS = 1 << 15
"""Steps of a run whose loads are kept, the first ones."""


@held
class Drawn(NamedTuple):
    """N steps, X expert parts, E experts."""

    batches: U8  # [N] digest of the batch whose loads are kept
    loads: Any  # int32 [N, X, E]


_kept: ContextVar[dict[bytes, Drawn] | None] = ContextVar("kept", default=None)


@contextmanager
def drawn_once() -> Iterator[None]:
    """Runs in this block share equal samples; each gets the values that it would have sampled."""
    before = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(before)


def drawn_of(plan: Plan) -> Drawn | None:
    """Return the stored samples of a plan; None outside of `drawn_once` and without experts."""
    stored = _kept.get()
    if stored is None or plan.moe is None:
        return None
    drawn_by = [plan.experts[name] for name in ("count", "top_k", "key")]
    of = plan.router, *drawn_by, plan.expert_work.tilt, plan.expert_work.persist
    key = b"".join([np.array([plan.seed, plan.replica]).tobytes(), *(each.tobytes() for each in of)])
    if key not in stored:
        shape = STEPS, len(plan.experts), plan.router.shape[2]
        stored[key] = Drawn(np.zeros(STEPS, dtype=np.uint64), np.zeros(shape, dtype=np.int32))
    return stored[key]


@compiled_given("plan.drawn", lambda plan, batch: False)
def is_drawn(plan: Plan, batch: StepBatch) -> bool:
    """Whether the loads of a step's batch are kept; where not, the loads of this batch will be."""
    digest = mix(np.uint64(batch.decodes) + GOLDEN)
    for c in range(batch.num_chunks):
        for chunk in batch.chunks[:, c]:
            digest = mix(digest ^ (np.uint64(chunk) + GOLDEN))
    if batch.step >= STEPS:
        return False
    known = plan.drawn.batches[batch.step] == digest
    plan.drawn.batches[batch.step] = digest
    return bool(known)


@compiled_given("plan.drawn", lambda plan, batch, x, known, loads: None)
def exchange(plan: Plan, batch: StepBatch, part: int, known: bool, loads: I8) -> None:
    """Take the loads of `part` in a step where they are known, else keep them."""
    if batch.step < STEPS:
        stored = plan.drawn.loads[batch.step, part]
        for e in range(plan.experts[part].count):
            if known:
                loads[e] = stored[e]
            else:
                stored[e] = loads[e]


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
        step_key(plan.seed, plan.replica, batch.step + ahead),
        step_key(plan.seed ^ PROMPT_SEED, plan.replica, plan.replica),
        experts.key,
        StepTokens(batch.decodes, batch.chunks, batch.num_chunks),
        LayerRouting(experts.count, experts.top_k, experts.uniform > 0, plan.router[part], work.tilt, work.persist),
        scratch,
        loads,
    )
