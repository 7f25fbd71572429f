"""Sections of checks against measurements and papers."""

from __future__ import annotations

from ..reproduce.base import Reproduction
from ..show.result import ReportSection
from ..validate.kernels import KernelValidation
from .sections import sections


@sections.register
def kernel_sections(result: KernelValidation) -> list[ReportSection]:
    """Errors, a figure for each family, and what was left out."""
    out = [ReportSection("Result", result.blocks()), ReportSection("By family", result.drawings())]
    if result.skipped:
        out.append(ReportSection("Rows and files left out", [result.to_dict()["skipped"]]))
    return out


@sections.register
def reproduction_sections(result: Reproduction) -> list[ReportSection]:
    """Every row with its verdict, and the figures where they were asked for."""
    return [ReportSection("Result", [*result.drawings(), *result.blocks()])]
