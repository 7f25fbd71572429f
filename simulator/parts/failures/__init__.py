"""Replicas that fail, and where their requests go."""

from __future__ import annotations

from ...part import Part
from .options import FailureOptions

PARTS = (
    Part(
        "failures",
        "--fail, --mtbf",
        "replicas that fail",
        options=FailureOptions,
        panel="Fleet and failures",
        hooks={"fleet": "failing:with_failures", "run": "failing:of_run"},
        page="clusters",
        tests=("simulator/test_cluster",),
        asked=lambda a: a.fails and "--fail or --mtbf",
    ),
)
