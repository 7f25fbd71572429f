"""Bandwidth of each processor's ops on a simulated DRAM, as rows.

A separate module, because it needs no compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...devices.dram.model import BundleRead, DerivedRoofline, bundles_of, derives, meet
from ...devices.dram.spec import DramSpec, load_memory
from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.placement import processors_of
from ...simulator.step.sections import placed_ops
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.ops import Op
from ..show.text import Blocks, Records, Rows

if TYPE_CHECKING:
    import pandas as pd


SHARES = tuple(k / 8 for k in range(9))
ROWS = 128
"""Rows that the Logic-PIM reads, each in all banks of a bundle."""


def two_masters(memory: str | DramSpec = "hbm3-5200-8hi", shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Simulate a Logic-PIM that reads one bundle of banks while an xPU with equal work reads all bundles.

    Both work on one pseudo channel, row by row: the xPU one column per tCCD_S, the Logic-PIM one of every bank of its
    bundle per tCCD_L. In isolation both take equally long.

    Parameters
    ----------
    memory : str or DramSpec
        A standard with bank bundles.
    shares : sequence of float
        Share of the xPU's row visits that go to the Logic-PIM's bundle.

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
        # Shared visits are spread evenly: visit k is one if k x share passes a whole number.
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


USUAL = (Batch.of([100] * 64), Batch.of([100], [(100, 0)]))
"""Decode-only steps, and a prompt with a decode."""


def by_place(
    deployment: Deployment, batches: Sequence[Batch] = (), usual: Sequence[Batch] = USUAL
) -> dict[str, dict[str, Op]]:
    """Return one op of each name for every processor or link, from the first batch that has it."""
    out: dict[str, dict[str, Op]] = {}
    for batch in (*batches, *usual):
        for op, where in placed_ops(deployment, batch):
            out.setdefault(where, {}).setdefault(op.name, op)
    return out


def dram_rows(deployment: Deployment) -> Records:
    """Return the bandwidth share that each processor's ops reach on a simulated DRAM; empty if no DRAM is simulated.

    Returns
    -------
    list of dict
        ``processor``, ``memory``, ``pattern``, ``efficiency`` (of the processor's bandwidth) and
        ``ops`` (kinds of ops with this access pattern).
    """
    if not derives(deployment.device):
        return []
    placed = by_place(deployment)
    return [
        {"processor": p.name, "memory": p.model.memory.name, "pattern": share.words,
         "efficiency": share.fraction, "ops": kinds}
        for p in processors_of(deployment.device)
        if isinstance(p.model, DerivedRoofline)
        for share, kinds in p.model.shares(list(placed.get(p.name, {}).values())).items()
    ]  # fmt: skip


def dram_blocks(rows: Rows) -> Blocks:
    """Return the rows as a sentence and a table; nothing if there are none."""
    if not rows:
        return []
    shown = [
        {"processor": row["processor"], "access pattern": row["pattern"], "attained": f"{row['efficiency']:.1%}",
         "ops": ", ".join(row["ops"])}
        for row in rows
    ]  # fmt: skip
    return [f"Attained share of the bandwidth, from the DRAM commands of {rows[0]['memory']}:", shown]
