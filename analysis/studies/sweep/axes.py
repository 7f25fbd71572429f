"""Axes of a sweep: which values a parameter, or several together, take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....workloads.errors import InputError, check_known

KEYS = ("set", "values", "grid", "random")
RANGE_KEYS = ("low", "high", "points", "scale", "integer")
SCALES = ("linear", "log")
MAX_POINTS = 1_000_000
KERNEL, BEST, FIXED, DEVICE = "kernel", "best", "fixed", "device."
"""Parameters of a step with the best kernels, or the device's own, see `kernels`."""

Value = str | int | float | bool | None
"""What a parameter can be set to."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; `points` of them evenly spaced, or sampled if it is None."""

    low: float
    high: float
    points: int | None
    log: bool
    integer: bool

    def at(self, fraction: float) -> Value:
        """The number that lies `fraction` of the way from low to high."""
        if self.log:
            value = self.low * (self.high / self.low) ** fraction
        else:
            value = self.low + (self.high - self.low) * fraction
        return round(value) if self.integer else float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class Axis:
    """Columns of the table and the parameters they set, all at once.

    Attributes
    ----------
    columns : tuple of str
        Names in tables and conditions.
    parameters : tuple of str
        What they set, one each.
    values : tuple of tuples
        One row per position of the axis; empty for a random one.
    """

    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    random: Range | None = None

    def drawn(self, rng: np.random.Generator, samples: int) -> tuple[tuple[Value, ...], ...]:
        """Sample the rows of a random axis."""
        assert self.random is not None
        return tuple((self.random.at(float(x)),) for x in rng.random(samples))


def read_value(text: str) -> Value:
    """Return a number if a text is one, else the text.

    Examples
    --------
    >>> read_value("4"), read_value("0.5"), read_value("vllm")
    (4, 0.5, 'vllm')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_axis(name: str, given: Any, where: str) -> Axis:
    """Read one axis of the file.

    ``name: [..]`` and ``name: {values: [..]}`` list values, ``{grid: {low, high, points}}`` spaces them, ``{random:
    {low, high}}`` samples them. ``set`` names the parameter if it is not `name`, or several (a list, or column:
    parameter) that take rows of values together.

    Raises
    ------
    InputError
        Anything else; the message names the key.
    """
    entry = {"values": given} if isinstance(given, list) else given
    if not isinstance(entry, dict):
        raise InputError(where, "must be a list of values, or one of values, grid and random")
    _refuse_unknown(entry, KEYS, where)
    kinds = [key for key in KEYS[1:] if key in entry]
    if len(kinds) != 1:
        raise InputError(where, "needs one of values, grid and random")
    columns, parameters = _targets(name, entry.get("set", name), f"{where}.set")
    kind = kinds[0]
    if kind == "values":
        return Axis(columns, parameters, _rows(entry["values"], len(columns), f"{where}.values"))
    if len(columns) > 1:
        raise InputError(where, "an axis of several parameters needs rows of values")
    span = _range(entry[kind], f"{where}.{kind}", kind == "grid")
    if span.points is None:
        return Axis(columns, parameters, (), span)
    steps = max(span.points - 1, 1)
    values = dict.fromkeys(span.at(i / steps) for i in range(span.points))
    return Axis(columns, parameters, tuple((value,) for value in values))


def _targets(name: str, given: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(given, str):
        return (name,), (given,)
    pairs = given
    if isinstance(given, list):
        pairs = {entry: entry for entry in given if isinstance(entry, str)}
    if (
        not isinstance(pairs, dict)
        or len(pairs) != len(given)
        or not pairs
        or not all(isinstance(v, str) for v in pairs.values())
    ):
        raise InputError(where, "must be a parameter, a list of them, or column: parameter")
    return tuple(map(str, pairs)), tuple(pairs.values())


def _rows(given: Any, width: int, where: str) -> tuple[tuple[Value, ...], ...]:
    """Read an axis's list of values, each one of `width` cells; equal rows count once."""
    if not isinstance(given, list) or not given:
        raise InputError(where, "must be a list with at least one value")
    rows = []
    for i, row in enumerate(given):
        cells = row if width > 1 else [row]
        if not isinstance(cells, list) or len(cells) != width:
            raise InputError(f"{where}[{i}]", f"must be a list of {width} values")
        for cell in cells:
            if not isinstance(cell, (str, int, float, bool, type(None))):
                raise InputError(f"{where}[{i}]", f"must be a number or text, not {cell!r:.60}")
            if isinstance(cell, float) and not np.isfinite(cell):
                raise InputError(f"{where}[{i}]", "must be finite")
        rows.append(tuple(cells))
    return tuple(dict.fromkeys(rows))


def _range(given: Any, where: str, grid: bool) -> Range:
    """Read a range of numbers: its ends, its scale, and for a grid the number of points."""
    known = RANGE_KEYS if grid else tuple(key for key in RANGE_KEYS if key != "points")
    if not isinstance(given, dict):
        raise InputError(where, f"must have the keys {', '.join(known[:3])}")
    _refuse_unknown(given, known, where)
    low, high = (_number(given.get(key), f"{where}.{key}") for key in ("low", "high"))
    scale, integer = given.get("scale", "linear"), given.get("integer", False)
    if scale not in SCALES:
        raise InputError(f"{where}.scale", f"must be linear or log, not {scale!r}")
    if not isinstance(integer, bool):
        raise InputError(f"{where}.integer", "must be true or false")
    if low > high or (scale == "log" and low <= 0):
        more = " and above 0 with scale log" if scale == "log" else ""
        raise InputError(where, f"low must be at most high{more}")
    points = given.get("points") if grid else None
    if grid and (not isinstance(points, int) or isinstance(points, bool) or points < 1):
        raise InputError(f"{where}.points", f"must be a whole number from 1 on, not {points!r}")
    if points is not None and points > MAX_POINTS:
        raise InputError(f"{where}.points", f"must be at most {MAX_POINTS:,}")
    return Range(low, high, points, scale == "log", integer)


def _number(given: Any, where: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not abs(given) < 1e100:
        raise InputError(where, f"must be a finite number, not {given!r:.60}")
    return float(given)


def _refuse_unknown(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        check_known(f"{where}.{key}", key, known, "unknown key")
