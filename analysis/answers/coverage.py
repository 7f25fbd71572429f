"""Share of a run's ops that are outside the kernel tables in use."""

from __future__ import annotations

from ...simulator.results.record import Run
from ...workloads.ops import about
from ..show.text import Blocks, Records, Rows


def coverage(run: Run) -> Records:
    """Return for each kernel family how often its ops ran, and how often outside the tables.

    An op is outside if no table has its shape, or if its counts exceed the measured ones. The device's cost model then
    predicts its time, scaled to equal the table at the table's edge.

    Returns
    -------
    list of dict
        ``family``, ``runs`` (executions of its ops), ``outside`` (those outside the tables) and ``share`` (outside / runs);
        empty if no kernel tables are in use.
    """
    if not run.deployment.kernels:
        return []
    runs: dict[str, float] = {}
    outside: dict[str, float] = {}
    for op in run.ops:
        family = about(op.kind).table
        runs[family] = runs.get(family, 0.0) + op.runs
        outside[family] = outside.get(family, 0.0) + op.outside
    return [
        {
            "family": name, "runs": round(runs[name]), "outside": round(outside[name]),
            "share": outside[name] / runs[name],
        }
        for name in sorted(runs)
    ]  # fmt: skip


def coverage_blocks(covered: Rows) -> Blocks:
    """Return the rows of `coverage` as a sentence and a table; nothing if there are none."""
    if not covered:
        return []
    rows = [
        {
            "family": row["family"], "ops run": f"{row['runs']:,}",
            "outside the tables": f"{row['outside']:,}", "share": f"{row['share']:.2%}",
        }
        for row in covered
    ]  # fmt: skip
    return ["Outside the kernel tables the device's model says the time:", rows]
