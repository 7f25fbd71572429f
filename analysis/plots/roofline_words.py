"""What a figure of a roofline says in words: of each op, and of what is not on it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from .style import PERCENT, number, quantity


def op_text(row: Mapping[Hashable, Any]) -> str:
    """What an op's marker says."""
    return (
        f"{row['name']} on {row['processor']}\n{quantity(row['seconds_total'], 's', 1.0)}, "
        f"{number(100 * row['share'])}{PERCENT} of the time\n{number(row['op_per_byte'])} Op/B, "
        f"{quantity(row['achieved_flops'], 'FLOP/s')}"
    )


def note(merged: pd.DataFrame, drawable: pd.Series[bool], label_share: float, crowded: int) -> str:
    """What the figure leaves out."""
    parts = []
    absent = merged[~drawable].groupby("name", sort=False)["share"].sum()
    if len(absent):
        listed = [
            f"{str(name).replace('_', ' ')} {number(100 * share)}{PERCENT}" for name, share in absent.head(5).items()
        ]
        if len(absent) > 5:
            listed.append(f"{len(absent) - 5} more, {number(100 * float(absent[5:].sum()))}{PERCENT}")
        parts.append(f"Not on the plot, no FLOP or no memory traffic (share of step time): {'; '.join(listed)}.")
    small = drawable & (merged["share"] < label_share)
    if small.any():
        parts.append(f"Ops below {number(100 * label_share)}{PERCENT} of step time have no label.")
    if crowded:
        parts.append(f"{crowded} labels found no room.")
    return " ".join(parts)
