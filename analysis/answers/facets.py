"""The parts of a serving system that have a share in a simulation's answer, in the order of its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import (
    adapters,
    apart,
    autoscale,
    classes,
    encoders,
    expert_cache,
    expert_loads,
    overlaps,
    pools,
    speculation,
    tasks,
    tiers,
)

if TYPE_CHECKING:
    from ...simulator.serving.record import Run
    from .facet import Facet, TextOrRows

FACETS: tuple[Facet, ...] = tuple(
    part.FACET
    for part in (
        expert_cache, adapters, expert_loads, speculation, encoders, autoscale, tasks, classes,
        tiers, apart, overlaps, pools,
    )
)  # fmt: skip
COLUMNS = (pools.FACET, classes.FACET, tiers.FACET)
"""Those with columns of a sweep, in the order of its table."""


def facet_entries(run: Run, after: str) -> dict[str, Any]:
    """Keys of JSON that follow some others."""
    return {k: v for facet in FACETS if facet.after == after for k, v in facet.entry(run).items()}


def facet_blocks(run: Run, late: bool) -> Iterator[TextOrRows]:
    """What all parts say, before the latencies or after them."""
    for facet in FACETS:
        if facet.late == late:
            yield from facet.blocks(run)
