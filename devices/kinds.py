"""Kinds of processors by name, with their cost models.

The library's plain kinds use the roofline of their description; GPU-class ones ("xpu") use fitted kernel models if
there are some (`devices.device`). Published systems' (`devices.published`; single papers' in `opbyte.kinds`) and
user-defined kinds have separate cost models.

Includes a check that both forms of a cost model agree: the cost of one op, and the row for any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..workloads.batch import Batch, Moments
from ..workloads.errors import InputError, reason_of
from ..workloads.layers import Attention, FeedForward, MixtureOfExperts, Run
from ..workloads.numerics import Numerics
from ..workloads.ops import Loads, Op
from ..workloads.registry import Registry, first_line
from .cost import CostModel, Roofline, roofline_seconds
from .prices import PriceRow, Probe

RUN = Run(Numerics("bf16"))
LAYERS = (Attention(1024, 8, 2, 128), FeedForward(1024, 4096))
EXPERTS = MixtureOfExperts(1024, 8, 2, 512)
BATCHES = (Batch.of([5]), Batch.of([700, 3, 90]), Batch.of([9000], [(37, 0), (5, 60)]))
"""Batches on which the cost model of a new kind is checked."""
COUNTS = 64
"""Number of tokens for which the check tabulates curves; no batch above has more."""


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
    """Compare cost and row on the ops of one layer, whose rows are computed from unit moments."""
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
    """Compare seconds and joules of one op in both forms."""
    if row.formula is not None:
        return
    cost, p = model.cost(op), row.params
    curve = row.curve
    seconds = roofline_seconds(op, p.flops, p.bytes) + p.fixed if curve is None else float(curve.seconds[int(count)])
    joules = op.stream_bytes * p.j_stream + op.act_bytes * p.j_act + op.flops * p.j_flop
    for what, mine, other in (("s", cost.seconds, seconds), ("J", cost.total_joules, float(joules))):
        if not np.isclose(mine, other, rtol=1e-9, atol=0.0):
            raise InputError(
                "its cost model",
                f"is inconsistent for {op.name}: {mine:.6g} {what} by `cost`, {other:.6g} {what} by `row`",
            )


@dataclass(frozen=True, slots=True)
class Described:
    """The description of a processor, as input of its kind's cost model.

    Attributes
    ----------
    name, device : str
        Key of the processor in its device's description, and the device's name.
    base : Roofline
        Peaks, bandwidth, efficiencies and energies of the description.
    parameters : mapping of str to float
        What the kind needs besides (`Kind.parameters`), in SI units.
    stacks : int
        Memory stacks of the device.
    """

    name: str
    device: str
    base: Roofline
    parameters: Mapping[str, float] = field(default_factory=dict)
    stacks: int = 1
    cores: int | None = None
    clock_Hz: float | None = None


ModelOf = Callable[[Described], CostModel]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of processor: its cost model, and the parameters that it needs.

    Attributes
    ----------
    model_of : callable
        ``model_of(described)``: its cost model.
    parameters : tuple of str
        Numbers that ``parameters`` of its description must give, each with a source; names in SI
        units (``overhead_us`` in a file is ``overhead_s`` here).
    """

    model_of: ModelOf
    parameters: tuple[str, ...] = ()


SAMPLE = Roofline(
    peak={"bf16": 1e14, "fp16": 1e14}, bandwidth=1e12, compute_efficiency=0.8,
    memory_efficiency=0.9, fixed_s=1e-6, stream_J_per_byte=3e-11, act_J_per_byte=2e-11,
    J_per_flop={"bf16": 2e-13, "fp16": 2e-13},
)  # fmt: skip
"""A fictitious processor on which the cost model of a new kind is checked."""


def _try(kind: Kind) -> None:
    """Refuse a kind whose cost model lacks a method, or whose two forms of a cost differ."""
    given = dict.fromkeys(kind.parameters, 1.0)
    model = kind.model_of(Described("sample", "sample", SAMPLE, given, 1, 100, 1e9))
    lacking = [name for name in ("cost", "row", "evidence", "roof") if not hasattr(model, name)]
    if lacking:
        raise TypeError(f"its cost model lacks {', '.join(lacking)}")
    check_rows(model)


PROCESSOR_KINDS: Registry[Kind] = Registry(
    "processor kind", described=True, home=f"{__package__}.published", group="opbyte.kinds"
)


def processor_kind(name: str, *, parameters: Sequence[str] = ()) -> Callable[[ModelOf], ModelOf]:
    """Register a function that makes the cost model of a kind of processor; see `Kind`.

    Raises
    ------
    InputError
        The function has no docstring, or its model's `cost` and `row` differ.
    """

    def add(model_of: ModelOf) -> ModelOf:
        kind = Kind(model_of, tuple(parameters))
        try:
            _try(kind)
        except Exception as error:
            reason = f"cannot be registered: {reason_of(error)}"
            raise InputError(f"processor kind {name!r}", reason) from error
        PROCESSOR_KINDS.register(name, first_line(model_of))(kind)
        return model_of

    return add


def as_described(described: Described) -> CostModel:
    """Return the roofline of the description: the cost model of the library's plain kinds."""
    return described.base


for _name, _title in (
    ("xpu", "main processor (GPU, TPU, CPU), by fitted kernel models where there are some"),
    ("logic-pim", "processor on the logic dies of the memory stacks (Duplex)"),
    ("bank-pim", "units at every DRAM bank"),
    ("bank-group-pim", "units at every group of DRAM banks"),
    ("fpga", "FPGA design, whose engine is simulated by compare and frames"),
):
    PROCESSOR_KINDS.register(_name, _title)(Kind(as_described))
