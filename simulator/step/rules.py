"""Placement rules in compiled code: the functions of `deploy.placement`, compiled by Numba.

A built-in rule is a number, so one compiled engine serves all built-in rules. A user-defined rule has its own type, so
the engine is compiled again for it.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import types

from ...workloads.jit import compiled_from_outside, compiled_given, compiled_part
from ...workloads.records import Records
from ..deploy import placement
from ..deploy.placement import BUILT_IN, PLACEMENTS, Option

Custom = Callable[[Option], float] | None

XPU_ONLY, OP_PER_BYTE, FASTEST = (BUILT_IN.index(name) for name in ("xpu-only", "op-per-byte", "fastest"))
FROM_OUTSIDE = -1

_xpu_only = compiled_part(placement.xpu_only)
_op_per_byte = compiled_part(placement.op_per_byte)
_fastest = compiled_part(placement.fastest)
_paper = compiled_part(placement.paper)  # also the score of co-process, which differs only in sharing work


def rule_code(name: str) -> int:
    """Return the number of a built-in rule; `FROM_OUTSIDE` for user-defined rules."""
    return BUILT_IN.index(name) if name in BUILT_IN else FROM_OUTSIDE


def custom_rule(name: str) -> Custom:
    """Return a compiled user-defined rule; None for rules of the library.

    Raises
    ------
    InputError
        Numba cannot compile it.
    """
    if name in BUILT_IN:
        return None
    fields = (types.int64, types.boolean, *(types.float64,) * 4, types.int64, types.int64, types.float64)
    return compiled_from_outside(PLACEMENTS[name].score, Option, fields, f"--placement {name}")


@compiled_part
def built_in_score(custom: None, rule: int, option: Option) -> float:
    """Return the score of an option under a built-in rule."""
    if rule == XPU_ONLY:
        return _xpu_only(option)
    if rule == OP_PER_BYTE:
        return _op_per_byte(option)
    if rule == FASTEST:
        return _fastest(option)
    return _paper(option)


@compiled_given("custom", otherwise=built_in_score)
def score(custom: Callable[[Option], float], rule: int, option: Option) -> float:
    """Return the score of an option under a rule; `custom` is a user-defined rule or None."""
    return custom(option)


@compiled_part
def attained(params: Records, flops: float, size: float) -> float:
    """Return the FLOP/s that a processor's nominal roofline allows for an op; 0 if it moves no bytes."""
    return float(min(params.peak, flops / size * params.bandwidth)) if size else 0.0


@compiled_part
def energy(params: Records, flops: float, stream: float, act: float) -> float:
    """Return the dynamic joules of an op that is not a collective."""
    return float(stream * params.j_stream + act * params.j_act + flops * params.j_flop)
