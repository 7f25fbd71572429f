"""Azure date-time timestamps in seconds, with the seventh digit."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from ..csvfile import Column

_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{0,9})?(?:Z|\+00:00)?", re.ASCII)


def seconds(column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Parse ``YYYY-MM-DD hh:mm:ss[.fraction]``, up to 9 fractional digits.

    Timestamps are UTC; ``Z`` or ``+00:00`` may say so, other zones are refused.

    Returns
    -------
    whole : int64 array
        Whole seconds since 1970.
    fraction : float64 array
        The rest [s], below 1. Separate, because a float64 of both has only 0.2 us.
    """
    parts = [_parts(cell) for cell in column.cells]
    try:
        dates = np.array([date for date, _ in parts], dtype="datetime64[s]").astype(np.int64)
    except ValueError:
        bad = next(i for i, (date, _) in enumerate(parts) if not _is_date(date))
        raise column.error(bad, "is not a date-time like 2023-11-16 18:15:46.6805900") from None
    return dates, np.array([float(fraction) for _, fraction in parts])


def _parts(cell: object) -> tuple[str, str]:
    """Return date and time of a timestamp, invalid for an invalid one, and its fraction."""
    match = _STAMP.fullmatch(str(cell))
    return (match[1], f"{match[2] or '.'}0") if match else ("no date", "0")


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text, "s")
    except ValueError:
        return False
    return True
