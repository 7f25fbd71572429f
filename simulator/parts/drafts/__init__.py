"""Speculative decoding: what drafts, how many are accepted, and what a run tells of it."""

from __future__ import annotations

from ..part import Combination, Part


def _asked(a: Combination) -> str:
    return (
        f"--speculative {a.deployment.speculation.asked}"
        if a.deployment and a.deployment.speculation is not None
        else ""
    )


PARTS = (
    Part(
        "drafts",
        "--speculative",
        "drafts that are verified with the next token",
        page="speculation",
        tests=("simulator/test_speculation", "analysis/test_speculation_answers"),
        asked=_asked,
    ),
)
