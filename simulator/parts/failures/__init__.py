"""Replicas that fail, and where their requests go."""

from __future__ import annotations

from ..part import Asked, Part


def _asked(a: Asked) -> str:
    return "--fail or --mtbf" if a.fails else ""


PARTS = (
    Part(
        "failures",
        "--fail, --mtbf",
        "replicas that fail",
        page="clusters",
        tests=("simulator/test_cluster",),
        asked=_asked,
    ),
)
