"""Check that both forms of a cost model agree: the readable cost of one op, and the row for any batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..workloads.batch import Batch, Moments
from ..workloads.errors import InputError
from ..workloads.layers import Attention, FeedForward, MixtureOfExperts, Run
from ..workloads.numerics import Numerics
from ..workloads.ops import Loads, Op
from .cost import CostModel, roofline_seconds
from .prices import PriceRow, Probe

RUN = Run(Numerics("bf16"))
LAYERS = (Attention(1024, 8, 2, 128), FeedForward(1024, 4096))
EXPERTS = MixtureOfExperts(1024, 8, 2, 512)
BATCHES = (Batch.of([5]), Batch.of([700, 3, 90]), Batch.of([9000], [(37, 0), (5, 60)]))
"""Steps of small layers that a cost model is tried with."""
COUNTS = 64
"""Tokens up to which curves are asked for; no batch above has more."""


def check_rows(model: CostModel) -> None:
    """Compare `cost` with `row` on the ops of a few steps.

    Formulas of the kernel families are skipped: only compiled code evaluates them.

    Raises
    ------
    InputError
        If row and cost differ, so that simulations would differ from `opbyte roofline`.
    """
    for layer in LAYERS:

        def ops(moments: Moments, layer: Attention | FeedForward = layer) -> list[Op]:
            return layer.ops(moments, RUN, None)

        _check_section(model, ops)
    for loads in (Loads.drawn(np.array([1.0, 40.0, 3.0])), Loads.drawn(np.array([2.0]))):
        op = EXPERTS.expert_op(loads, RUN)
        _compare(model, op, model.row(EXPERTS.expert_op(Loads(np.ones(1), np.ones(1)), RUN), Probe((), COUNTS)), 0.0)


def _check_section(model: CostModel, ops: Callable[[Moments], list[Op]]) -> None:
    """Compare on the ops of one layer, whose rows follow from unit moments."""
    size = len(BATCHES[0].moments((0,)).values)
    base = ops(Moments((0,), np.ones(size)))
    raised = [ops(Moments((0,), np.ones(size) + np.eye(size)[j])) for j in range(size)]
    rows = [model.row(op, Probe(tuple(r[i] for r in raised), COUNTS)) for i, op in enumerate(base)]
    for batch in BATCHES:
        m = batch.moments((0,))
        for op, row in zip(ops(m), rows, strict=True):
            if op.bytes:  # else the step has no such op
                count = m.values[row.curve.moment] if row.curve is not None else 0.0
                _compare(model, op, row, float(count))


def _compare(model: CostModel, op: Op, row: PriceRow, count: float) -> None:
    """Compare seconds and joules of one op."""
    if row.formula is not None:
        return
    cost, p = model.cost(op), row.params
    curve = row.curve
    seconds = roofline_seconds(op, p.flops, p.bytes) + p.fixed if curve is None else float(curve.seconds[int(count)])
    joules = op.stream_bytes * p.j_stream + op.act_bytes * p.j_act + op.flops * p.j_flop
    for what, mine, other in (("s", cost.seconds, seconds), ("J", cost.total_joules, float(joules))):
        if not np.isclose(mine, other, rtol=1e-9, atol=0.0):
            raise InputError(
                "its cost model", f"prices {op.name} at {mine:.6g} {what} by cost and {other:.6g} {what} by row"
            )
