"""Fitted power models in the package, in one YAML file per measured device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...workloads.specfile import Spec, build, load_description
from ...workloads.yamlfile import quoted, scalar
from ..calibrated.errors import Errors
from ..catalog import load_device
from ..lines import Count, ErrorSpec, NonNegative, Positive
from ..spec import DeviceSpec
from .fit import DEVICE, FOLDS, SENSOR, STARTS, PowerFit, PowerRows, parameters, unpack
from .model import PowerModel

F8 = npt.NDArray[np.float64]
DIGITS = 4
REFERENCE = "b200"
"""Device with measured power of kernels, from which models of newer devices are transferred."""
SERVED = "h100"
"""Device with measured power of serving runs, from which models of older devices are transferred."""


class FamilyErrorsSpec(Spec):
    """Errors of predicted readings: of all rows, and of unseen shapes."""

    fit: ErrorSpec
    by_shape: ErrorSpec


class PowerSpec(Spec):
    """A fitted power model.

    Parameters are in SI units; `start` has them by family (see `reading.StartPower`).
    """

    device: str
    limit_W: Positive
    rows: Count
    date: str
    tables: Annotated[tuple[str, ...], Field(min_length=1)]
    parameters: dict[str, Positive]
    start: dict[str, dict[str, NonNegative]]
    errors: dict[str, FamilyErrorsSpec]

    def vector(self) -> tuple[list[str], F8]:
        """Return the families, and the parameters in the order of `fit.parameters`."""
        families = list(self.start)
        device = [self.parameters[p.name] for p in (*DEVICE, SENSOR)]
        starts = [self.start[f][p.name] for f in families for p in STARTS[f]]
        return families, np.array([*device, *starts])


class ServedSpec(Spec):
    """What serving runs say of a board's power; SI units.

    `beside_W` is constant power above idle while kernels run, `kv_J_per_byte` attention's energy in addition to its
    bytes, `J_per_flop_16` the energy of a 16-bit FLOP in small decode products, `vector_J_per_byte` of a byte of kernel
    chains such as a sampler's.
    """

    device: str
    rows: Count
    date: str
    beside_W: Positive
    kv_J_per_byte: NonNegative
    J_per_flop_16: Positive
    vector_J_per_byte: Positive
    errors: ErrorSpec


@cache
def served() -> ServedSpec:
    """Return the fit to serving runs."""
    path = Path(str(files(__package__) / "served.yaml"))
    return build(ServedSpec, load_description(path))[0]


def base_model(spec: DeviceSpec, limit_W: float | None = None) -> PowerModel:
    """Return a power model with limit, idle power and cores of a device, and all coefficients 0."""
    xpu = next(iter(spec.processors.values()))
    limit = limit_W or spec.limit_W
    assert limit is not None
    return PowerModel(limit_W=limit, idle_W=spec.static_W, cores=float(xpu.cores or 1))


@cache
def stored(name: str = REFERENCE) -> PowerSpec:
    """Return the stored power model of a measured device."""
    path = Path(str(files(__package__) / f"{name}.yaml"))
    return build(PowerSpec, load_description(path))[0]


@cache
def stored_fit() -> PowerFit:
    """Return the stored fit of the measured device in the form that the model uses."""
    spec = stored()
    families, values = spec.vector()
    return unpack(base_model(load_device(REFERENCE)[0], spec.limit_W), families, values)


def power_yaml(
    device: str, limit_W: float, rows: Sequence[PowerRows], values: F8,
    seen: Mapping[str, Errors], held: Mapping[str, Errors], date: str,
) -> str:  # fmt: skip
    """Return the YAML text of a fit."""
    families = [r.table.family for r in rows]
    sources = sorted({s for r in rows for s in r.table["source"].tolist()})
    named_sources = ", ".join(sources)
    count = sum(len(r.measured) for r in rows)
    named = list(zip(parameters(families), values, strict=True))
    lines = [
        "# Written by `opbyte validate power --fit`: power of kernels, see docs/power.md. SI units.",
        (f"# errors: by_shape are of rows whose model's shape was not in the fit ({FOLDS} folds)."),
        f"device: {scalar(device)}",
        f'date: "{date}"',
        f"tables: [{', '.join(map(scalar, sources))}]",
        f'limit_W: {{value: {limit_W:g}, source: "power_limit_W of the measured tables"}}',
        f'rows: {{value: {count}, source: "rows of the measured tables"}}',
        "parameters:",
        f"  source: {quoted(f'fit on {count} rows of measured power ({named_sources}), {date}')}",
    ]
    device_part, rest = named[: len(DEVICE) + 1], named[len(DEVICE) + 1 :]
    lines += [f"  {p.name}: {_number(v)}  # {p.meaning}" for p, v in device_part]
    lines += ["start:", '  source: "the same fit, what the monitor shows as a loop starts"']
    for family in families:
        lines.append(f"  {family}:")
        values_own, rest = rest[: len(STARTS[family])], rest[len(STARTS[family]) :]
        lines += [f"    {p.name}: {_number(v)}  # {p.meaning}" for p, v in values_own]
    lines += ["errors:", '  source: "predicted against measured readings of the same rows"']
    for family in families:
        lines.append(f"  {family}:")
        lines.append(f"    fit: {_errors(seen[family])}")
        lines.append(f"    by_shape: {_errors(held[family])}")
    return "\n".join(lines) + "\n"


def _errors(errors: Errors) -> str:
    return (
        f"{{rows: {errors.rows}, median_ape: {errors.median_ape:.4g}, p90_ape: {errors.p90_ape:.4g}, "
        f"median_bias: {errors.median_bias:.4g}}}"
    )


def _number(value: float) -> str:
    text = f"{value:.{DIGITS}g}"
    return text if "e" not in text else f"{float(text):.{DIGITS - 1}e}"
