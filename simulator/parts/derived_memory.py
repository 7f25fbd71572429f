"""Bandwidth of each access pattern, from the commands of its DRAM."""

from __future__ import annotations

from ..part import Part

PARTS = (
    Part(
        "derived-memory",
        "--memory derived",
        "bandwidth of each access pattern",
        page="memory",
        tests=("analysis/test_dram",),
        also=("deploy/checks",),
    ),
)
