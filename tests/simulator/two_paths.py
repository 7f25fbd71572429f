"""Steps on both paths: the explicit one (`simulator.step.explicit`) is the definition, the compiled one agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.simulator.step.lowering import F8, I8, LoweredModel, lower
from opbyte.simulator.step.step_totals import T_FLOPS, T_JOULES, StepTotals, new_step_totals, totals
from opbyte.simulator.step.timed import Costs, Lowered, cost_step, costs_of
from opbyte.simulator.step.unequal import added_seconds
from opbyte.workloads.batch import PREFILL, Batch, Moments
from opbyte.workloads.jit import compiled


@compiled
def one_step(costs: Costs, moments: F8, step: int, decodes: int, chunks: I8, fresh: bool, captured: int) -> float:
    """`cost_step` for a caller outside compiled code: what engines call, so that both are compiled once."""
    return cost_step(costs, moments, step, decodes, chunks, chunks.shape[1], fresh, captured)


def compiled_step(
    model: Lowered, batches: Sequence[Batch], moments: Sequence[Moments],
    step: int = 0, fresh: bool = True, captured: int = 0,
) -> float:  # fmt: skip
    """One step of the compiled path, from a batch and its moments for every rank."""
    prefill = np.concatenate([b.phase == PREFILL for b in batches])
    chunks = np.stack([np.concatenate([getattr(b, name) for b in batches])[prefill] for name in ("q_len", "seq_id")])
    values = np.stack(
        [
            np.append(m.values, added_seconds(model.plan.uneven, b, captured))
            for m, b in zip(moments, batches, strict=True)
        ]
    )
    decodes = int((~prefill).sum())
    seconds: float = one_step(costs_of(model), values, step, decodes, chunks, fresh, captured)
    return seconds


def some_work(batches: list[Batch]) -> list[Batch]:
    """Batches of ranks, of which one is not empty."""
    return batches if any(len(b.q_len) for b in batches) else [Batch.of([7]), *batches[1:]]


def with_next(batches: list[Batch]) -> list[list[Batch]]:
    """A step, and the one after it where all decode: every context grows by one."""
    if any((b.phase == PREFILL).any() for b in batches):
        return [batches]
    return [batches, [Batch.of((b.context + 1).tolist()) for b in batches]]


class Compared(NamedTuple):
    plan: LoweredModel
    step_totals: StepTotals
    stages: list[Any]
    """The explicit path's, one a step."""


def check_paths(
    deployment: Deployment, steps: Sequence[list[Batch]], step: int = 0, replica: int = 0, captured: int = 0,
    plan: LoweredModel | None = None,
) -> Compared:  # fmt: skip
    """Compare seconds, joules and FLOPs of steps: those of one stretch, the first fresh, the others costed in part.

    The ops' shares of the clock add up to the steps too.
    """
    plan = lower(deployment, replica)[0] if plan is None else plan
    step_totals, joules, flops, wall, stages = new_step_totals(plan), 0.0, 0.0, 0.0, []
    sides = [(plan, step_totals)]
    if plan.apart is not None:
        sides.append((plan.apart.plan, step_totals.aside.step_totals))
    for i, batches in enumerate(steps):
        moments = [b.moments(deployment.shard.windows) for b in batches]
        seconds = compiled_step(Lowered(plan, step_totals), batches, moments, step + i, i == 0, captured)
        stage = explicit_stage(deployment, batches, step=step + i, replica=replica, captured=captured)
        assert seconds == pytest.approx(stage.seconds, rel=1e-9)
        assert step_totals.stages == pytest.approx(np.array(stage.stages), rel=1e-9)
        stages.append(stage)
        joules += stage.joules
        wall += stage.seconds
        flops += sum(p.op.flops * p.count * p.devices for p in stage.ops)
        whole = [totals(part, kept.tally) for part, kept in sides]
        assert sum(t[:, :, T_JOULES].sum() for t in whole) == pytest.approx(joules, rel=1e-8)
        assert sum(t[:, :, T_FLOPS].sum() for t in whole) == pytest.approx(flops, rel=1e-9)
        assert step_totals.wall.sum() == pytest.approx(wall, rel=1e-9)
    return Compared(plan, step_totals, stages)
