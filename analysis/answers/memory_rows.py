"""Bandwidth of each processor's ops on a simulated DRAM, as rows.

A separate module, because it needs no compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...devices.dram.model import DerivedRoofline, derives
from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.placement import processors_of
from ...simulator.step.sections import placed_ops
from ...workloads.batch import Batch
from ...workloads.ops import Op
from ..show.text import Blocks, Records, Rows

USUAL = (Batch.of([100] * 64), Batch.of([100], [(100, 0)]))
"""Decode-only steps, and a prompt with a decode."""


def by_place(
    deployment: Deployment, batches: Sequence[Batch] = (), usual: Sequence[Batch] = USUAL
) -> dict[str, dict[str, Op]]:
    """One of each op by the processor or link that runs it, in the first batch that has it."""
    out: dict[str, dict[str, Op]] = {}
    for batch in (*batches, *usual):
        for op, where in placed_ops(deployment, batch):
            out.setdefault(where, {}).setdefault(op.name, op)
    return out


def dram_rows(deployment: Deployment) -> Records:
    """What each processor's ops get of a simulated DRAM; nothing where none is.

    Returns
    -------
    list of dict
        ``processor``, ``memory``, ``pattern``, ``efficiency`` (of the processor's bandwidth) and
        ``ops`` (kinds that read so).
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
    """The same for people: a sentence and a table, or nothing."""
    if not rows:
        return []
    shown = [
        {"on": row["processor"], "reads": row["pattern"], "gets": f"{row['efficiency']:.1%}",
         "ops": ", ".join(row["ops"])}
        for row in rows
    ]  # fmt: skip
    return [f"Of the bandwidth, derived from {rows[0]['memory']} command by command:", shown]
