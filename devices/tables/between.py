"""Error of linear interpolation between two measured rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..ratios import Ratios

F8 = npt.NDArray[np.float64]


def between_rows(curves: Sequence[tuple[F8, F8]]) -> Ratios | None:
    """Return the error of every inner row on the line between its neighbours, over all curves.

    Neighbours of neighbours are more distant than in use, so the error is an upper estimate. None without a curve of
    three rows.

    Parameters
    ----------
    curves : sequence of (float64 array, float64 array)
        Rows, increasing, and seconds.

    Examples
    --------
    >>> between_rows([(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))]).high
    0.0
    """
    errors = [np.log(took[1:-1] / _line(rows, took)) for rows, took in curves if len(rows) > 2]
    if not errors:
        return None
    low, middle, high = np.quantile(np.concatenate(errors), [0.1, 0.5, 0.9])
    return Ratios(float(low), float(middle), float(high))


def _line(rows: F8, took: F8) -> F8:
    share = (rows[1:-1] - rows[:-2]) / (rows[2:] - rows[:-2])
    out: F8 = took[:-2] + share * (took[2:] - took[:-2])
    return out
