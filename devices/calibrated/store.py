"""Writer of fits as device descriptions, in the form of the catalog that users can load too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...workloads.yamlfile import quoted, scalar
from .calibrate import FamilyFit
from .errors import Errors
from .family import Parameter
from .kernel_sets import Entries

DIGITS = 5
HEAD = """\
# Written by `opbyte calibrate`: fitted parameters of kernel models, see docs/calibration.md.
# Seconds are given in microseconds; all other values are fractions and multiples.
extends: {base}
name: {name}
aliases: [{device}]
calibration:
"""


def device_yaml(device: str, fits: Mapping[str, FamilyFit], base: str) -> str:
    """Return the YAML of a device that extends `base`, the device's name or file, by its fits."""
    head = HEAD.format(name=scalar(f"{device}-calibrated"), device=scalar(device), base=scalar(base))
    return head + "".join(_family(f) for f in fits.values())


SET_HEAD = """\
# Written by `opbyte calibrate --device all`: kernel parameters that devices of one silicon share, in SI
# units, by family and framework; see docs/calibration.md.
name: {name}
date: "{date}"
families:
"""


def set_yaml(name: str, date: str, families: Entries) -> str:
    """Return the YAML of one set of shared parameters."""
    lines = [SET_HEAD.format(name=name, date=date).rstrip("\n")]
    for family, entries in families.items():
        lines.append(f"  {family}:")
        for framework, entry in entries.items():
            lines += [f"    {framework}:", f"      basis: {entry.basis}", f"      rows: {entry.rows}"]
            if entry.sources:
                lines.append(f"      sources: [{', '.join(map(quoted, entry.sources))}]")
            if entry.errors is not None:
                lines.append(f"      errors: [{', '.join(_number(e, 4) for e in entry.errors)}]")
            inner = ", ".join(f"{k}: {float(f'{v:.{DIGITS}g}')}" for k, v in entry.parameters.items())
            lines.append(f"      parameters: {{{inner}}}")
            lines += [] if entry.told is None else [f"      told: [{', '.join(entry.told)}]"]
            lines += ["      kernels:"] if entry.kernels else []
            for branch, parameters in entry.kernels.items():
                inner = ", ".join(f"{k}: {_plain(v)}" for k, v in parameters.items())
                lines.append(f"        {branch}: {{{inner}}}")
    return "\n".join(lines) + "\n"


def _family(done: FamilyFit) -> str:
    """Return a family's fit as YAML: its source, parameters, frameworks and errors."""
    names = sorted({source.partition("/")[0] for source in done.tables})
    source = f"fit on {done.rows} rows of the measured tables ({', '.join(names)}), {done.date}"
    lines = [
        f"  {done.family.name}:",
        f"    source: {quoted(source)}",
        f"    rows: {done.rows}",
        f'    date: "{done.date}"',
        f"    tables: [{', '.join(quoted(t) for t in done.tables)}]",
        "    parameters:",
    ]
    for parameter, value in zip(done.family.parameters, done.fit.values, strict=True):
        key, scale = _key(parameter)
        lines.append(f"      {key}: {_number(value * scale)}  # {parameter.meaning}")
    scales = {k: v for k, v in done.fit.scales.items() if v}
    if scales:
        lines.append("    frameworks:")
        for name, values in scales.items():
            # The scales are of fields, which have their seconds without a prefix.
            inner = ", ".join(f"{k}: {_number(v)}" for k, v in values.items())
            lines.append(f"      {quoted(name)}: {{{inner}}}")
    lines += _kernels(done)
    lines.append("    errors:")
    lines += [f"      {name}: {_errors(e)}" for name, e in done.errors.items()]
    bounds = ", ".join(f"{k}: {_number(v, 3)}" for k, v in done.bounds().items())
    lines.append(f"    bounds: {{{bounds}}}")
    return "\n".join(lines) + "\n"


def _kernels(done: FamilyFit) -> list[str]:
    """Return the YAML lines of the parameters of frameworks' kernels, with seconds in their fields' units."""
    lines = ["    kernels:"] if done.fit.kernels else []
    names = [p.name for p in done.family.parameters]
    for label, branches in done.fit.kernels.items():
        lines.append(f"      {quoted(label)}:")
        for branch, values in branches.items():
            inner = ", ".join(f"{n}: {_plain(v)}" for n, v in zip(names, values, strict=True))
            lines.append(f"        {branch}: {{{inner}}}")
    return lines


def _plain(value: float) -> str:
    """Return a number to `DIGITS` digits as YAML text: 1e-08 without a point would be read as text."""
    text = repr(float(f"{value:.{DIGITS}g}"))
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def _errors(errors: Errors) -> str:
    return (
        f"{{rows: {errors.rows}, median_ape: {_number(errors.median_ape, 4)}, "
        f"p90_ape: {_number(errors.p90_ape, 4)}, median_bias: {_number(errors.median_bias, 4)}}}"
    )


def _key(parameter: Parameter) -> tuple[str, float]:
    if parameter.unit == "s":
        return parameter.name.removesuffix("_s") + "_us", 1e6
    return parameter.name, 1.0


def _number(value: float, digits: int = DIGITS) -> str:
    text = np.format_float_positional(float(f"{value:.{digits}g}"), unique=True, fractional=False, trim="0")
    return text if abs(value) >= 1e-12 else "0.0"
