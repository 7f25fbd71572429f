"""The cost model of a calibrated device: fitted families, a roofline for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...workloads.ops import Op
from ..cost import Cost, Formula, Roofline
from ..spec import DeviceSpec
from .family import F8, Family, families
from .hardware import hardware
from .kernel_sets import TYPICAL, shared_parameters
from .rules import Parameters

INCLUDED = {"combine": "experts"}
"""Ops that another kind's measured kernels include (MoE layers permute and combine): they keep
the bare time of their traffic."""


@dataclass(frozen=True, slots=True)
class Model:
    """One family ready for use on a device.

    Attributes
    ----------
    family : Family
    known : Parameters
        Parameters, where they come from and how well they predict.
    h : float64 array
        Device constants.
    """

    family: Family
    known: Parameters
    h: F8

    def seconds(self, x: F8) -> F8:
        """Seconds of rows of quantities, never below the device's roofline."""
        predicted = self.family.seconds(self.known.fit.values, self.h, x)
        return np.maximum(predicted, self.family.roofline(self.h, x))

    def of(self, label: str) -> Model:
        """The model with one framework's kernels in place of the base of all."""
        fit = replace(self.known.fit, values=self.known.fit.single(self.family, label), scales={})
        return replace(self, known=replace(self.known, fit=fit))


@dataclass(frozen=True, slots=True)
class CalibratedModel:
    """Seconds from the fitted families; joules, and kinds without a fit, from the roofline.

    Attributes
    ----------
    base : Roofline
        The device's specification.
    models : mapping of str to Model
        By kind of op.
    """

    base: Roofline
    models: Mapping[str, Model]

    def with_framework(self, kind: str, label: str) -> CalibratedModel:
        """Cost one kind of op by one framework's kernels; see `kernel_tables.framework`."""
        return replace(self, models={**self.models, kind: self.models[kind].of(label)})

    def cost(self, op: Op) -> Cost:
        spec = self.base.cost(op)
        x = self.quantities(op)
        if x is None:
            return spec
        seconds = float(self.seconds(op, x[None, :])[0])
        compute = op.flops / self.base.peak[op.dtype]
        memory = op.bytes / self.base.bandwidth
        fixed = max(seconds - compute - memory, 0.0)
        bound = "compute" if compute > memory else "memory"
        if fixed > 0.5 * seconds:
            bound = "latency"
        return Cost(seconds, compute, memory, fixed, spec.joules, bound)

    def lower(self, kind: str, dtype: str) -> npt.NDArray[np.float64]:
        """Parameters of the roofline, which the energy comes from."""
        return self.base.lower(kind, dtype)

    def quantities(self, op: Op) -> F8 | None:
        model = self.models.get(op.kind)
        if INCLUDED.get(op.name) in self.models:
            return np.array([op.bytes])
        return None if model is None else model.family.from_op(op)

    def seconds(self, op: Op, x: F8) -> F8:
        if op.name in INCLUDED:
            return x[:, 0] / self.base.bandwidth
        return self.models[op.kind].seconds(x)

    def formula(self, op: Op) -> Formula | None:
        from .scalar import CODES, WIDTH

        model, x = self.models.get(op.kind), self.quantities(op)
        if model is None or x is None or op.kind not in CODES:
            return None
        p = np.zeros(WIDTH)
        p[: len(model.known.fit.values)] = model.known.fit.values
        return Formula(CODES[op.kind], p, np.pad(x, (0, WIDTH - len(x))), op.shape.get("window", 0))


def calibrated_model(spec: DeviceSpec, base: Roofline, framework: str = TYPICAL) -> CalibratedModel:
    """Cost model of a device's xPU, every family fitted or transferred from similar devices.

    Parameters
    ----------
    spec : DeviceSpec
    base : Roofline
    framework : str
        Whose kernels, of `kernel_sets.FRAMEWORKS`; for every kind of op.
    """
    h = hardware(spec)
    found: dict[str, Model] = {}
    for family in families().values():
        if family.kinds:
            model = Model(family, shared_parameters(spec, family, framework), h)
            found.update(dict.fromkeys(family.kinds, model))
    return CalibratedModel(base, found)


def can_calibrate(spec: DeviceSpec) -> bool:
    """Whether a device is one GPU-class processor with known cores and clock."""
    only = list(spec.processors.values())
    return len(only) == 1 and only[0].kind == "xpu" and None not in (
        only[0].cores, only[0].clock_Hz
    )  # fmt: skip
