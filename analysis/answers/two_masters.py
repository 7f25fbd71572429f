"""Time of an xPU and Logic-PIM on one stack together, by how often they need the same bank bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...devices.dram.model import BundleRead, bundles_of, meet
from ...devices.dram.spec import DramSpec, load_memory
from ...workloads.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SHARES = tuple(k / 8 for k in range(9))
ROWS = 128
"""Rows that the Logic-PIM reads, each in all banks of a bundle."""


def two_masters(memory: str | DramSpec = "hbm3-5200-8hi", shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Let a Logic-PIM read one bundle while an xPU of as much work visits all of them.

    Both work on one pseudo channel, row by row: the xPU one column per tCCD_S, the Logic-PIM one of every bank of its
    bundle per tCCD_L. In isolation both take equally long.

    Parameters
    ----------
    memory : str or DramSpec
        A standard with bank bundles.
    shares : sequence of float
        Of the xPU's visits, those to the Logic-PIM's bundle.

    Returns
    -------
    DataFrame
        ``share``, ``longer_s`` (the longer side in isolation), ``sum_s`` (one after the other), ``together_s``, and
        ``switches``, the number of times that a bundle changed sides.
    """
    import pandas as pd

    spec = load_memory(memory) if isinstance(memory, str) else memory
    if any(not 0.0 <= share <= 1.0 for share in shares):
        raise InputError("shares", "must be from 0 to 1")
    columns, t, others = spec.organisation.columns, spec.timings, bundles_of(spec) - 1
    near = [BundleRead(0, columns, t.CCD_L)] * ROWS
    visits = ROWS * t.CCD_L // t.CCD_S
    rows = []
    for share in shares:
        # Spread evenly: visit k is a shared one where k x share passes a whole number.
        shared = [int((k + 1) * share) > int(k * share) for k in range(visits)]
        xpu = [BundleRead(0 if hit else 1 + k % others, columns, t.CCD_S) for k, hit in enumerate(shared)]
        alone = [sum(v.columns * v.clocks for v in side) for side in (near, xpu)]
        both = meet(spec, near, xpu)
        rows.append(
            {
                "share": share, "longer_s": max(alone) * spec.tCK_s, "sum_s": sum(alone) * spec.tCK_s,
                "together_s": both.clocks * spec.tCK_s, "switches": both.switches,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
