"""Date-time stamps of the Azure traces to seconds, without losing the seventh digit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .cells import Column

_LAYOUT = "dddd-dd-dd dd:dd:dd"
_WIDTH = len(_LAYOUT)
_IS_DIGIT = np.array([c == "d" for c in _LAYOUT])
_MARKS = np.array([ord(c) for c in _LAYOUT if c != "d"])
_FRACTION_DIGITS = 9
_MOST = _WIDTH + 1 + _FRACTION_DIGITS

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def seconds(column: Column) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Parse ``YYYY-MM-DD hh:mm:ss[.fraction]``, up to 9 fractional digits.

    Stamps are UTC; ``Z`` or ``+00:00`` may say so, other zones are refused.

    Returns
    -------
    whole : int64 array
        Whole seconds since 1970.
    fraction : float64 array
        The rest [s], below 1. Apart, because a float64 of both keeps 0.2 us only.
    """
    cells = [str(c) for c in column.cells]
    together = "".join(cells)
    if "Z" in together or "+" in together:
        cells = [c.removesuffix("Z").removesuffix("+00:00") for c in cells]
    text = np.array([c[: _MOST + 1] for c in cells], dtype=f"U{_MOST + 1}")
    codes: Ints = text.view(np.uint32).reshape(len(cells), _MOST + 1).astype(np.int64)
    whole, good = _whole_seconds(codes)
    fraction, tail_good = _fraction(codes)
    good &= tail_good
    if not good.all():
        reason = "is not a date-time like 2023-11-16 18:15:46.6805900"
        raise column.error(int(np.argmin(good)), reason)
    return whole, fraction


def _whole_seconds(codes: Ints) -> tuple[Ints, Flags]:
    digits = codes[:, :_WIDTH][:, _IS_DIGIT] - ord("0")
    good: Flags = ((digits >= 0) & (digits <= 9)).all(axis=1)
    good &= (codes[:, :_WIDTH][:, ~_IS_DIGIT] == _MARKS).all(axis=1)
    digits = np.where(good[:, None], digits, 1)  # bad rows must not overflow below
    year = digits[:, :4] @ np.array([1000, 100, 10, 1])
    month, day, hour, minute, second = (
        digits[:, at] * 10 + digits[:, at + 1] for at in (4, 6, 8, 10, 12)
    )
    start = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    date = start.astype("datetime64[D]") + (day - 1)
    good &= (month >= 1) & (month <= 12) & (day >= 1) & (date.astype("datetime64[M]") == start)
    good &= (hour < 24) & (minute < 60) & (second < 60)
    whole: Ints = date.astype(np.int64) * 86_400 + hour * 3600 + minute * 60 + second
    return whole, good


def _fraction(codes: Ints) -> tuple[npt.NDArray[np.float64], Flags]:
    """Parse what follows the seconds; absent characters are code 0 and count as digit 0."""
    tail = codes[:, _WIDTH:]
    point, digits, overflow = tail[:, 0], tail[:, 1:-1], tail[:, -1]
    absent = digits == 0
    good: Flags = ((point == ord(".")) | ((point == 0) & absent.all(axis=1))) & (overflow == 0)
    good &= (absent | ((digits >= ord("0")) & (digits <= ord("9")))).all(axis=1)
    good &= ~(absent[:, :-1] & ~absent[:, 1:]).any(axis=1)
    powers = 10 ** np.arange(_FRACTION_DIGITS - 1, -1, -1)
    nanoseconds = np.where(absent, 0, digits - ord("0")) @ powers
    return nanoseconds / 10**_FRACTION_DIGITS, good
