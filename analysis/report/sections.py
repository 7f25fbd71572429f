"""The content of a report, chosen by the result's type; results do not import reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from ..show.result import ReportSection, Result
from .constants import rests_section


@singledispatch
def sections(result: Result) -> Sequence[ReportSection]:
    """Parts of ``report.html``: the drawings and the printed blocks, unless registered otherwise."""
    return [ReportSection("Result", [*result.drawings(), *result.blocks()]), *rests_sections(result)]


def rests_sections(result: Result) -> list[ReportSection]:
    """Return the evidence of a result's systems: their cost models and every constant."""
    return [section for rests in result.rests() for section in rests_section(rests)]
