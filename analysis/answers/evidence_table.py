"""The evidence of results as one table or one line; see `evidence`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..show.text import Blocks, Records, Rows
from .ranges import Ranges

KINDS = ("measured", "fitted", "transferred", "derived", "assumed", "spec")
"""Bases, from the best evidence to the weakest."""
NAMED = 3
"""Maximum number of out-of-range ops that a line names."""


def evidence_rows(evidence: Rows, system: str, ranges: Ranges | None = None) -> Records:
    """Return a row for each cost model: its ops, format, measured rows and error, and the share out of range."""
    outside: dict[str, float] = {}
    for extrapolated in ranges.outside if ranges else ():
        family = extrapolated.kernels.rpartition(" in ")[0] or extrapolated.kernels
        outside[family] = outside.get(family, 0.0) + extrapolated.share
    return [
        {
            "system": system, "family": e["applies_to"], "cost model": e["cost_model"],
            "format": e.get("format") or None,
            "basis": e["basis"], "rows": e["rows"] or _elsewhere(e),
            "error": None if e["error"] is None else f"{e['error']:.1%}",
            "in range": _in_range(e, outside), "assumes": ", ".join(e["assumptions"]) or None,
            "why": e.get("why") or None,
        }
        for e in evidence
    ]  # fmt: skip


def _elsewhere(e: Mapping[str, Any]) -> str | None:
    """Return how many measured rows other formats have, if this format has none."""
    others = e.get("other_rows") or {}
    text = ", ".join(f"{count:,} in {name}" for name, count in others.items())
    return f"NO ROW: {text}" if text else None


def _in_range(e: Mapping[str, Any], outside: Mapping[str, float]) -> str | None:
    if not e["rows"]:
        return None
    if e.get("near_rows") == 0 and e.get("nearest"):
        return f"no: the nearest a factor of {e['nearest']:.0f} away"
    share = outside.get(e["applies_to"], 0.0)
    return f"no: {share:.0%} of the time" if share else "yes"


Known = tuple[Rows, str, "Ranges | None"]
"""Evidence of a system, the system's name, and the part that is out of range."""


def evidence_blocks(known: Sequence[Known], why: bool) -> Blocks:
    """Return the evidence of systems: a line for every system, or one table with all of it."""
    if not why:
        return [" ".join([*(evidence_line(*entry) for entry in known), "More: --why."])] if known else []
    rows = [row for entry in known for row in evidence_rows(*entry)]
    return [rows, *(text for *_, ranges in known if ranges for text in ranges.text())]


def evidence_line(evidence: Rows, system: str, ranges: Ranges | None = None) -> str:
    """Return the evidence of one system as one sentence.

    Examples
    --------
    >>> entry = {"basis": "fitted", "rows": 5, "error": 0.1, "applies_to": "GEMM", "assumptions": {}}
    >>> evidence_line([entry, entry | {"basis": "assumed"}], "h100-x1")
    'h100-x1 is based on cost models: 1 fitted, 1 assumed; none out of range.'
    """
    counts = Counter(e["basis"] for e in evidence)
    text = ", ".join(f"{counts[kind]} {kind}" for kind in (*KINDS, *sorted(set(counts) - {*KINDS})) if counts[kind])
    if ranges is None or not ranges.outside:
        return f"{system} is based on cost models: {text}; none out of range."
    names = ", ".join(dict.fromkeys(outside.op for outside in ranges.outside[:NAMED]))
    share = f"{100 * ranges.share:.1f} %" if ranges.share > 5e-4 else "under 0.1 %"
    return f"{system} is based on cost models: {text}; OUT OF RANGE {share} of the time: {names}."
