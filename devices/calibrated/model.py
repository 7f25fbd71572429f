"""Cost model of a calibrated processor: fitted kernel families, and a roofline for all other ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from ...workloads.ops import Op
from ...workloads.records import Records
from ..cost import BOUNDS, Cost, Evidence, Roof, Roofline
from ..power.cap import held_processor
from ..prices import Along, ByCount, KernelFormula, PriceRow, Probe, affine_sums
from ..ratios import Ratios
from ..spec import DeviceSpec, ProcessorSpec
from .behind import ANY, behind, formats_of
from .family import F8, Family, families
from .fit import Fit
from .hardware import hardware
from .kernel_sets import TYPICAL, asked_for, layer_parameters, shared_parameters
from .layer_kernels import LAYER_FAMILIES
from .rules import Parameters

INCLUDED = {"combine": "experts"}
"""Ops that the measured kernels of another kind include (MoE layers permute and combine). Only the time of their
traffic is counted."""

LARGE = 8192.0
"""Side length of the matrix product, and of the matrix of the matrix-vector product, from which attainable rates are
computed."""


@dataclass(frozen=True, slots=True)
class Model:
    """One kernel family with its parameters on a device.

    Attributes
    ----------
    known : Parameters
        Parameters, where they come from and how well they predict.
    h : record
        Device constants.
    """

    family: Family
    known: Parameters
    h: Records

    def prices(self, inputs: F8) -> Records:
        """Return the costs of rows of quantities, records of `KERNEL_COST`."""
        return self.family.prices(self.known.fit.values, self.h, inputs)

    def columns(self, op: Op, inputs: F8) -> tuple[F8, F8]:
        """Return seconds and bounds of rows of quantities."""
        prices = self.prices(inputs)
        return prices["seconds"], prices["bound"]

    def seconds(self, inputs: F8) -> F8:
        """Return the seconds of rows of quantities, never below the device's roofline."""
        out: F8 = self.prices(inputs)["seconds"]
        return out

    def of(self, label: str) -> Model:
        """Return the model for one framework, given by its name (with ``@VERSION``) or its label in tables."""
        name, _, version = label.partition("@")
        under = self.known.under.get(name)
        if under is not None:
            return replace(self, known=replace(asked_for(under, version), under=self.known.under))
        fit = Fit(self.known.fit.single(self.family, label), {})
        return replace(self, known=replace(self.known, fit=fit))


CURVES: dict[tuple[str, bytes], ByCount] = {}
"""Cache of tables over counts, by family and all other inputs. Engines of a fleet, and deployments of one model, share
nearly all of them."""
MOST_COUNTS = 1 << 22
"""Maximum number of counts in all cached tables together (64 MB)."""


@dataclass(frozen=True, slots=True)
class CalibratedModel:
    """Cost model with seconds of the fitted families; energy, and kinds of op without a fit, come from the roofline.

    Attributes
    ----------
    base : Roofline
        The processor's specification.
    models : mapping of str to Model
        By kind of op.
    h : record
        Constants of the device.
    spec : DeviceSpec
        The device, for the evidence of its parameters.
    """

    base: Roofline
    models: Mapping[str, Model]
    h: Records
    spec: DeviceSpec

    def with_framework(self, kind: str, label: str) -> CalibratedModel:
        """Return the model with one framework's kernels for a kind of op; see `kernel_tables.framework`."""
        return replace(self, models={**self.models, kind: self.models[kind].of(label)})

    def included(self, op: Op) -> bool:
        """Return whether the measured kernels of another op include this one."""
        return INCLUDED.get(op.name) in self.models

    def quantities(self, op: Op) -> F8 | None:
        """Return the quantities of the op's cost, shape (q,); None if no family covers it."""
        model = self.models.get(op.kind)
        x = None if model is None or self.included(op) else model.family.from_op(op)
        return x if model is None or x is None else model.family.launched(x, op, model.known.framework)

    def knows(self, op: Op) -> bool:
        return self.quantities(op) is not None

    def prices(self, op: Op, inputs: F8) -> Records:
        """Return the costs of ops like `op` with quantities `inputs`, records of `KERNEL_COST`."""
        return self.models[op.kind].prices(inputs)

    def cost(self, op: Op) -> Cost:
        if self.included(op):
            seconds = op.bytes / self.base.bandwidth
            return Cost.of(seconds, 0.0, seconds, 0.0, self.base.joules(op))
        x = self.quantities(op)
        if x is None:
            return self.base.cost(op)
        row = self.prices(op, x[None, :])[0]
        seconds, compute, memory, fixed = map(float, (row.seconds, row.compute, row.memory, row.fixed))
        bound = BOUNDS[int(row.bound)]
        return Cost(seconds, compute, memory, fixed, self.base.joules(op), bound)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        known = self.base.row(op, probe)
        if self.included(op):
            params = known.params.copy()
            params.flops, params.bytes, params.fixed = np.inf, self.base.bandwidth, 0.0
            return replace(known, params=params)
        if self.quantities(op) is None:
            return known
        formula = self.formula(op, probe)
        if formula is not None:
            return replace(known, formula=formula, hardware=self.h)
        return replace(known, curve=self._curve(op, Along.of(op, probe, self._known)))

    def _known(self, op: Op) -> F8:
        x = self.quantities(op)
        assert x is not None
        return x

    def _curve(self, op: Op, x: Along) -> ByCount:
        model = self.models[op.kind]
        digest = sha256(f"{x.moment} {x.counts}".encode())
        for part in (x.base, x.step, model.known.fit.values, model.h):
            digest.update(np.ascontiguousarray(part))  # type: ignore[arg-type]
        key = model.family.name, digest.digest()
        curve_found = CURVES.get(key)
        if curve_found is None:
            if sum(len(curve.seconds) for curve in CURVES.values()) > MOST_COUNTS:
                CURVES.clear()
            curve_found = CURVES[key] = x.priced(op, model.columns)
        return curve_found

    def formula(self, op: Op, probe: Probe) -> KernelFormula | None:
        """Return the compiled form of an op that depends on several sums; None for other ops."""
        from .formulas import CODES, SUMS, WIDTH

        if op.kind not in CODES:
            return None
        model, x = self.models[op.kind], self._known(op)
        values = model.family.of_branch(model.known.fit.values, x)
        return KernelFormula(
            CODES[op.kind], np.pad(values, (0, WIDTH - len(values))), np.pad(x, (0, WIDTH - len(x))),
            op.shape.get("window", 0.0), affine_sums(op, probe, SUMS) if probe.raised else None,
            op.shape.get("top_k", 1.0),
        )  # fmt: skip

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        by_kind: dict[tuple[str, str], list[Evidence]] = {}
        rest = []
        for op in ops:
            x = self.quantities(op)
            if x is None:
                rest.append(op)
                continue
            entry = self._evidence_of(self.models[op.kind], x)
            by_kind.setdefault((entry.applies_to, entry.format), []).append(entry)
        out = [_together(entry) for entry in by_kind.values()]
        return [*out, *self.base.evidence([op for op in rest if not self.included(op)])]

    def _evidence_of(self, model: Model, inputs: F8) -> Evidence:
        """Return the evidence of one call: rows of its format and size if the set is known."""
        known, family = model.known, model.family
        behind_own = known.framework and behind(self.spec, family, known.framework, inputs)
        if not behind_own:
            seen = known.errors.get("by_shape") or known.errors.get("fit")
            ratios = None if seen is None else Ratios.of_errors(seen.median_ape, seen.p90_ape)
            error = seen.median_ape if seen else None
            return Evidence("fitted kernel model", family.title, known.basis, error, known.rows, ratios=ratios)
        format_ = formats_of(family, inputs[None])[0]
        why = "; ".join(text for text in (behind_own.why, known.other_version) if text)
        return Evidence(
            "fitted kernel model", family.title, "transferred" if behind_own.why else "fitted",
            behind_own.ratios.median_error, behind_own.rows, "" if format_ == ANY else format_,
            tuple(behind_own.others.items()),
            behind_own.near, behind_own.distance, why, behind_own.ratios, behind_own.beyond,
        )  # fmt: skip

    def roof(self, dtype: str) -> Roof:
        known = self.base.roof(dtype)
        large, vector = (self._product(dtype, rows) for rows in (LARGE, 1.0))
        if large is None or vector is None:
            return known
        flops, moved = 2.0 * LARGE**3, vector[1]
        return replace(
            known,
            compute_efficiency=min(flops / large[0] / known.peak, 1.0),
            memory_efficiency=min(moved / (vector[0] - vector[2]) / known.bandwidth, 1.0),
            launch_s=vector[2],
        )

    def _product(self, dtype: str, rows: float) -> tuple[float, float, float] | None:
        """Return the seconds of a matrix product, the bytes of its weights, and its fixed seconds."""
        from .hardware import CODES, WEIGHT_BYTES

        if "gemm" not in self.models or dtype not in CODES:
            return None
        weights = LARGE * LARGE * WEIGHT_BYTES[CODES[dtype]]
        shape = {"m": rows, "n": LARGE, "k": LARGE}
        op = Op("roof", "ffn", "gemm", "both", shape, dtype, 2.0 * rows * LARGE**2, weights)
        cost = self.cost(op)
        return cost.seconds, weights, cost.fixed_s


def _together(entries: Sequence[Evidence]) -> Evidence:
    """Combine the evidence of several ops of one family and format into one entry: that with the fewest near rows."""
    error = float(np.median([e.error for e in entries if e.error is not None] or [np.nan]))
    least = min(entries, key=lambda e: (e.near or 0, -(e.distance or 0.0)))
    beyond = least.beyond or next((e.beyond for e in entries if e.beyond), "")
    return replace(least, beyond=beyond, error=None if np.isnan(error) else error)


def calibrated_model(
    spec: DeviceSpec, processor: ProcessorSpec, base: Roofline, framework: str = TYPICAL
) -> CalibratedModel:
    """Return the cost model of a GPU-class processor; every family is fitted, or transferred from similar devices.

    Parameters
    ----------
    framework : str
        Framework whose kernels run every kind of op, one of `kernel_sets.FRAMEWORKS`.
    """
    key = id(spec), id(processor), framework
    known = _held.pop(key, None) or (spec, processor, *_models(spec, processor, framework))
    _held[key] = known  # alive: no other has its id
    while len(_held) > KEPT:
        del _held[next(iter(_held))]
    return CalibratedModel(base, known[3], known[2], spec)


CHAIN: Mapping[str, float] = {"moe": 6.0, "attention_decode": 2.0, "mla": 2.0}
"""Number of kernels that one call of a family starts, if more than one: for experts sorting, products, activation and
sums; for attention also the sum over the pieces into which keys are split."""


def dispatched(known: Parameters, family: Family, dispatch_s: float) -> Parameters:
    """Return parameters that include a device's wait between kernels; every first parameter is a call's latency."""
    values = known.fit.values.copy()
    values[..., 0] += CHAIN.get(family.name, 1.0) * dispatch_s
    for name in ("quantise_s", "own_launch_s"):
        if name in (p.name for p in family.parameters):
            values[..., family.index(name)] += dispatch_s
    under = {key: dispatched(other, family, dispatch_s) for key, other in known.under.items()}
    return replace(known, fit=replace(known.fit, values=values), under=under)


KEPT = 64
"""Number of recent descriptions whose models are kept for later deployments on the same device."""
_held: dict[tuple[int, int, str], tuple[DeviceSpec, ProcessorSpec, Records, dict[str, Model]]] = {}


def _models(spec: DeviceSpec, processor: ProcessorSpec, framework: str) -> tuple[Records, dict[str, Model]]:
    """Return the constants of a device, and its models by kind of op."""
    h = hardware(spec, held_processor(spec, processor))
    models: dict[str, Model] = {}
    whose = dict.fromkeys(families().values(), shared_parameters) | dict.fromkeys(
        LAYER_FAMILIES.values(), layer_parameters
    )
    for family, parameters_of in whose.items():
        if family.kinds:
            known = parameters_of(spec, family, framework)
            if processor.dispatch_s:
                known = dispatched(known, family, processor.dispatch_s)
            models.update(dict.fromkeys(family.kinds, Model(family, known, h)))
    return h, models
