"""What tasks of several calls took, in an answer."""

from __future__ import annotations

from typing import Any

from ...simulator.serving.record import Run
from ..show.text import seconds, show
from .facet import Facet


def tasks_dict(run: Run) -> dict[str, Any]:
    """Entry of an answer's JSON; nothing where no request follows another."""
    found = run.tasks
    if found is None:
        return {}
    return {
        "tasks": {
            "count": found.count,
            "calls": found.calls,
            "e2e_s": found.e2e_s.as_dict(),
            "critical_path_calls": found.path_calls,
            "critical_path_serving_s": found.serving_s,
            "critical_path_between_s": found.between_s,
        }
    }


def tasks_text(run: Run) -> list[str]:
    """The same as a sentence; nothing where no request follows another."""
    found = run.tasks
    if found is None:
        return []
    took = found.e2e_s
    tasks = "1 task" if found.count == 1 else f"{found.count:,} tasks"
    return [
        (
            f"{tasks} of {show(found.calls / found.count)} calls: {seconds(took.p50)} from "
            f"first arrival to last token (p99 {seconds(took.p99)}). Their critical paths have "
            f"{show(found.path_calls)} calls, {seconds(found.serving_s)} in them and "
            f"{seconds(found.between_s)} between them on average."
        )
    ]


FACET = Facet(tasks_dict, tasks_text)
