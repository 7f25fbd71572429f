"""How much of its roofline a measured kernel reaches, and how much the models say, by Op/B."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ...devices.calibrated.hardware import C_16, CODES, H_BANDWIDTH, H_PEAK

if TYPE_CHECKING:
    import pandas as pd

    from .check import Check

SHOWN = ("attention_decode", "attention_prefill", "moe")
"""Families with the largest variation of work per byte, for the plot."""
OF_FORMAT = ("gemm", "grouped_gemm", "moe", "attention_prefill")
"""Families whose arithmetic runs in the format that a row names; others widen to 16 bits."""


def fractions(checks: Iterable[Check], shown: tuple[str, ...] = SHOWN) -> pd.DataFrame:
    """Measured and predicted fractions of the roofline, one row a measurement.

    Returns
    -------
    DataFrame
        device, family, title, op_per_byte [FLOP/B of the operands moved once], roofline_s (the longer
        of arithmetic at the format's nominal peak and memory at the nominal bandwidth), measured and
        predicted (roofline_s over the time; above 1 where a cache held what a repeated call read).
    """
    import pandas as pd

    parts = []
    for check in checks:
        if check.family not in shown or check.rows is None:
            continue
        h, table = check.rows.h, check.table
        compute, memory, _ = check.rows.family.floors(h, check.rows.x)
        named = [CODES[name] for name in table["dtype"]]
        code = np.array(named if check.family in OF_FORMAT else [C_16] * len(table), dtype=np.int64)
        roof = np.maximum(compute, memory)
        parts.append(
            pd.DataFrame({
                "device": check.device, "family": check.family, "title": check.title,
                "op_per_byte": compute * h[H_PEAK + code] / (memory * h[H_BANDWIDTH]),
                "roofline_s": roof, "measured": roof / check.measured,
                "predicted": roof / check.predicted,
            })
        )  # fmt: skip
    columns = ("device", "family", "title", "op_per_byte", "roofline_s", "measured", "predicted")
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))
