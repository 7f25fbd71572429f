"""What answers rest on as a table, once, and as a line; see `evidence`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..show.text import show
from .ranges import Ranges

KINDS = ("measured", "fitted", "transferred", "derived", "assumed", "spec")
"""Bases in the order of their worth."""
NAMED = 3
"""Ops out of range that a line names."""


def evidence_rows(
    evidence: Sequence[Mapping[str, Any]], system: str, ranges: Ranges | None = None
) -> list[dict[str, Any]]:
    """One row per cost model: for what, in which format, on how many rows, with which error, in range or not."""
    outside: dict[str, float] = {}
    for each in ranges.outside if ranges else ():
        family = each.kernels.rpartition(" in ")[0] or each.kernels
        outside[family] = outside.get(family, 0.0) + each.share
    return [
        {
            "system": system, "family": e["applies_to"], "format": e.get("format") or None,
            "basis": e["basis"], "rows": e["rows"] or None,
            "error": None if e["error"] is None else f"{e['error']:.1%}",
            "in range": _in_range(e, outside), "assumes": ", ".join(e["assumptions"]) or None,
        }
        for e in evidence
    ]  # fmt: skip


def _in_range(e: Mapping[str, Any], outside: Mapping[str, float]) -> str | None:
    if not e["rows"]:
        return None
    share = outside.get(e["applies_to"], 0.0)
    return f"no: {share:.0%} of the time" if share else "yes"


def evidence_line(
    evidence: Sequence[Mapping[str, Any]], system: str, ranges: Ranges | None = None
) -> str:
    """The same in a line.

    Examples
    --------
    >>> each = {"basis": "fitted", "rows": 5, "error": 0.1, "applies_to": "GEMM", "assumptions": {}}
    >>> evidence_line([each, each | {"basis": "assumed"}], "h100-x1")
    'h100-x1 rests on 1 fitted, 1 assumed; none out of range.'
    """
    found = Counter(e["basis"] for e in evidence)
    told = ", ".join(
        f"{found[kind]} {kind}" for kind in (*KINDS, *sorted(set(found) - {*KINDS})) if found[kind]
    )
    if ranges is None or not ranges.outside:
        return f"{system} rests on {told}; none out of range."
    names = ", ".join(dict.fromkeys(each.op for each in ranges.outside[:NAMED]))
    return (
        f"{system} rests on {told}; OUT OF RANGE {show(100 * ranges.share)} % of the time: {names}."
    )
