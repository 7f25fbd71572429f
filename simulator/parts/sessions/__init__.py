"""Requests that follow others of their session; the events of a run play them."""

from __future__ import annotations

from ...part import Part

PARTS = (
    Part(
        "sessions",
        "--turns, traces with sessions",
        "requests that follow others",
        hooks={"collect": "run:tasks_left", "figures": "run:FIGURES", "request_columns": lambda left: left.columns},
        page="serving",
        tests=("simulator/test_sessions", "simulator/test_agents"),
        asked=lambda a: getattr(a.first, "turns", None) is not None and "sessions",
        also=("fleet/events", "fleet/assigner"),
    ),
)
