"""Options of overlap."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


@described
@dataclass(frozen=True, slots=True)
class OverlapOptions(CheckedOptions):
    """What of the exchanges of a step overlaps with computation."""

    overlap: str | None = text(
        "Exchanges that overlap with computation: none, pipelined:N, two-batch (two-batch:D,P, "
        ":alike or :decodes as engines do) or auto; none without it.",
        "WAY",
    )
