"""How far predictions are for a device whose own rows no fit saw, and how far such predictions say they are.

Each device in turn is left out: its parameters come from the others' fits (`devices.calibrated.rules`). The
interval of such a prediction is what the other devices, each left out likewise, say: the 10th to 90th
percentile of measured over predicted, by family. It holds where 80 % of a device's rows lie inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from .check import Check

LEAST = 20
"""Rows of a device from which it tells of others, each device as much as any."""
INSIDE = (0.1, 0.5, 0.9)


def with_intervals(checks: Sequence[Check]) -> list[Check]:
    """Checks of devices left out, with the interval that the others' give each, and what of it holds.

    Parameters
    ----------
    checks : sequence of Check
        Whose predictions no row of their own device was behind.
    """
    out = []
    for check in checks:
        others = (
            c for c in checks if c.family == check.family and c.device != check.device and len(c.measured) >= LEAST
        )
        interval = _interval(others)
        if interval is not None:
            ratio = check.measured / check.predicted
            held = float(np.mean((ratio >= interval[0]) & (ratio <= interval[2])))
            entry = {"interval_low": interval[0], "interval_high": interval[2], "held": held}
            check = replace(check, last=entry)
        out.append(check)
    return out


def _interval(others: Iterable[Check]) -> tuple[float, float, float] | None:
    """Quantiles of measured over predicted, over devices of equal weight; None without any."""
    logs = [np.log(c.measured / c.predicted) for c in others]
    if not logs:
        return None
    values = np.concatenate(logs)
    weight = np.concatenate([np.full(len(part), 1.0 / len(part)) for part in logs])
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order]) - weight[order] / 2
    low, middle, high = np.exp(np.interp(INSIDE, below / weight.sum(), values[order]))
    return float(low), float(middle), float(high)
