"""Values as people read them: quantities with their units, and which columns hold numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""A table: rows of equal keys."""
Records = list[dict[str, Any]]
"""Rows as plain data."""
Blocks = list[str | Rows]
"""What a command prints: lines of text, and tables."""


def si(value: float, unit: str) -> str:
    """A quantity for people: three significant digits and a prefix.

    Examples
    --------
    >>> si(532.1e6, "B"), si(8.456e9, "FLOP"), si(0, "B"), si(999.9, "B")
    ('532 MB', '8.46 GFLOP', '0 B', '1000 B')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{_decimals(value / factor)}f} {prefix}{unit}"
    return f"{value:.{_decimals(value) if value else 0}f} {unit}"


def _decimals(value: float) -> int:
    """Decimals that leave three significant digits, at least none."""
    return max(0, 2 - math.floor(math.log10(abs(value))))


def show(value: Any) -> str:
    """Format a value: four significant digits, thousands separated, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        if 1e-3 <= abs(value) < 1e6:
            digits = max(0, 3 - math.floor(math.log10(abs(value))))
            return f"{value:,.{digits}f}"
        return f"{value:.3e}"
    return str(value)


def seconds(value: float | None) -> str:
    """Format a duration with three significant digits in s, ms, us or ns."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if value >= 0.9995 * factor:  # rounds to at least 1.00
            return f"{value / factor:.{_decimals(value / factor)}f} {unit}"
    return "0 s" if value == 0 else f"{value:.3g} s"


def plain(value: Any) -> Any:
    """Convert numpy scalars and mappings to JSON types, and NaN and infinity to None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def is_numeric(rows: Rows, key: str) -> bool:
    """Whether a column holds numbers, or text of a number and its unit ("1.5 ms", "3 %")."""
    values = [row[key] for row in rows if row[key] is not None]
    return bool(values) and all(
        isinstance(v, (int, float)) or (isinstance(v, str) and starts_as_number(v)) for v in values
    )


def starts_as_number(text: str) -> bool:
    """Return whether a text is a number, with or without a unit."""
    head, _, unit = text.partition(" ")
    number = head.rstrip("%x").replace(",", "")
    return len(unit) <= 6 and number.replace(".", "", 1).replace("e-", "", 1).isdigit()


_PREFIXED = re.compile(r"([nuµmkMGTP])(?:s|B|B/s|FLOP|FLOP/s|J|W|Hz|)")
_FACTORS = dict(zip("nuµmkMGTP", (1e-9, 1e-6, 1e-6, 1e-3, 1e3, 1e6, 1e9, 1e12, 1e15), strict=True))


def magnitude(value: Any) -> float | None:
    """Return a number, or the number of a text with a unit, for sorting; None for anything else.

    Examples
    --------
    >>> magnitude("1.5 ms"), magnitude("8.5 GFLOP"), magnitude("-2.5%"), magnitude("5 min")
    (0.0015, 8500000000.0, -2.5, 5.0)
    """
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, str):
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    text = value.lstrip("+-")
    if len(value) - len(text) > 1 or not starts_as_number(text):
        return None
    head, _, unit = text.partition(" ")
    match = _PREFIXED.fullmatch(unit)
    size = float(head.rstrip("%x").replace(",", "")) * (_FACTORS[match[1]] if match else 1.0)
    return -size if value.startswith("-") else size
