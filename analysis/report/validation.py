"""Sections of checks against measurements and papers."""

from __future__ import annotations

from ..reproduce.base import Reproduction
from ..show.result import ReportSection
from ..validate.kernels import KernelValidation
from .sections import sections


@sections.register
def kernel_sections(result: KernelValidation) -> list[ReportSection]:
    """Return the errors, a plot for each family, and skipped rows."""
    out = [ReportSection("Result", result.blocks()), ReportSection("By family", result.drawings())]
    if result.skipped:
        out.append(ReportSection("Rows and files left out", [result.to_dict()["skipped"]]))
    return out


@sections.register
def reproduction_sections(result: Reproduction) -> list[ReportSection]:
    """Return every row with its verdict, and the plots if requested."""
    return [ReportSection("Result", [*result.drawings(), *result.blocks()])]
