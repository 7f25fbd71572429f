"""Field types that the schemas of descriptions share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..workloads.specfile import Spec

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
