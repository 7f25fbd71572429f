"""Cost model of fitted lines as papers publish them: seconds = alpha + beta n for each kind of op.

A device's description has the lines (``lines:``), each with its source; other ops use their usual cost model.

Field types that the schemas of descriptions share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from ..workloads.ops import Op
from ..workloads.specfile import Spec
from .cost import DESCRIPTION, Cost, CostModel, Evidence, Roof
from .prices import ROOFLINE, PriceRow, Probe

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0, lt=2**31)]


class ErrorSpec(Spec):
    """How far predictions are from measurements: fractions of the measured time.

    `median_bias` is the median of predicted / measured - 1.
    """

    rows: Count
    median_ape: NonNegative
    p90_ape: NonNegative
    median_bias: Annotated[float, Field(gt=-1)]


class BoundsSpec(Spec):
    """Largest errors that ``opbyte validate kernels`` accepts."""

    median_ape: Positive
    p90_ape: Positive
    median_bias: Positive


class FamilyFitSpec(Spec):
    """Fitted parameters of one kernel family, and how well they predict.

    `frameworks` scales the whole time ("time") or single parameters for each serving framework; `kernels` are separate
    parameters of a framework's kernels, mostly by number format; `errors` are errors of the fit and of cross-validation
    ("by_shape": three folds over distinct shapes; "by_source": each framework left out in turn).
    """

    rows: Count
    date: str
    tables: tuple[str, ...]
    parameters: Annotated[dict[str, Positive], Field(min_length=1)]
    frameworks: dict[str, dict[str, Positive]] = Field(default_factory=dict)
    kernels: dict[str, dict[str, dict[str, Positive]]] = Field(default_factory=dict)
    errors: dict[Literal["fit", "by_shape", "by_source"], ErrorSpec]
    bounds: BoundsSpec


class TierSpec(Spec):
    """A memory below a device's own: what one device has of it, and the rate of its link to it."""

    capacity_bytes: Positive
    bandwidth_bytes_per_s: Positive
    latency_s: NonNegative


EXCHANGES = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce", "transfer")
LINES = ("gemm", "attention", *EXCHANGES)
"""Names of lines: matmuls (including experts), attention, and exchanges by kind."""

FLOP_PER = {"multiply-add": 2.0, "FLOP": 1.0}


class LineSpec(Spec):
    """One line: seconds of `alpha_s` and of `beta_s` for each of what it is `per`.

    An element of an exchange has `element_bytes`.
    """

    alpha_s: NonNegative
    beta_s: Positive
    per: Literal["multiply-add", "FLOP", "element", "byte"]
    element_bytes: Count = 1

    def count(self, op: Op) -> float:
        """Return the quantity of an op that the line counts."""
        flop = FLOP_PER.get(self.per)
        return op.act_bytes / self.element_bytes if flop is None else op.flops / flop


def line_name(op: Op, lines: Mapping[str, LineSpec]) -> str | None:
    """Return the name of an op's line; None if there is none.

    Attention without a separate line uses the matmuls' line.
    """
    if op.kind in ("gemm", "experts"):
        name = "gemm"
    elif op.kind.startswith("attention"):
        name = "attention" if "attention" in lines else "gemm"
    else:
        name = op.kind
    return name if name in lines else None


def launches(op: Op) -> float:
    """Return how often a line's alpha is added: once per matrix of an expert's grouped matmuls."""
    return op.shape.get("matrices", 1.0) if op.routed else 1.0


@dataclass(frozen=True, slots=True)
class LineModel:
    """A kernel model of fitted lines.

    Attributes
    ----------
    lines : mapping of str to LineSpec
    base : CostModel
        Cost model of all other ops, and of the energy of all.
    """

    lines: Mapping[str, LineSpec]
    base: CostModel

    def knows(self, op: Op) -> bool:
        """Return whether a line predicts the op's seconds."""
        return line_name(op, self.lines) is not None

    def cost(self, op: Op) -> Cost:
        name = line_name(op, self.lines)
        if name is None:
            return self.base.cost(op)
        line = self.lines[name]
        fixed, slope = launches(op) * line.alpha_s, line.beta_s * line.count(op)
        exchange = name in EXCHANGES
        joules = {} if exchange else self.base.cost(op).joules
        compute, memory = (0.0, slope) if line.per not in FLOP_PER else (slope, 0.0)
        return Cost.of(fixed + slope, compute, memory, fixed, joules)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        name = line_name(op, self.lines)
        if name is None:
            return self.base.row(op, probe)
        line = self.lines[name]
        exchange = name in EXCHANGES
        params = np.zeros(1, ROOFLINE)[0] if exchange else self.base.row(op, probe).params.copy()
        flop = FLOP_PER.get(line.per)
        params.flops = np.inf if flop is None else flop / line.beta_s
        params.bytes = line.element_bytes / line.beta_s if flop is None else np.inf
        params.fixed = launches(op) * line.alpha_s
        return PriceRow(params)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        known = [op for op in ops if self.knows(op)]
        rest = [op for op in ops if not self.knows(op)]
        names = ", ".join(dict.fromkeys(line_name(op, self.lines) or "" for op in known))
        evidence_own = [Evidence("fitted lines", names, DESCRIPTION)] if known else []
        return [*evidence_own, *(self.base.evidence(rest) if rest else [])]

    def roof(self, dtype: str) -> Roof:
        return self.base.roof(dtype)


def check_lines(lines: dict[str, LineSpec]) -> dict[str, LineSpec]:
    """Refuse a line with an unknown name, or one that counts a quantity which its ops do not have.

    Raises
    ------
    ValueError
        Names the line and what would be right.
    """
    for name, line in lines.items():
        if name not in LINES:
            raise ValueError(f"{name!r} is not a line; known: {', '.join(LINES)}")
        wanted = ("element", "byte") if name in EXCHANGES else tuple(FLOP_PER)
        if line.per not in wanted:
            raise ValueError(f"{name} is per {' or '.join(wanted)}, not per {line.per}")
    return lines


Lines = Annotated[dict[str, LineSpec], AfterValidator(check_lines)]
"""Fitted lines of a device by name."""
