"""Values of tasks of several calls."""

from __future__ import annotations

from ...quantity import Figures, Quantity

FIGURES = Figures("tasks", "Tasks", (
    Quantity("count", "Tasks whose calls have all completed.", label="tasks"),
    Quantity("calls", "Their calls.", label="calls"),
    Quantity("e2e_s", "From the first arrival to the last token [s].", unit="s", label="task"),
    Quantity("critical_path_calls", "Mean calls on the critical path.", "path_calls", "1", "calls on critical paths"),
    Quantity("critical_path_serving_s", "Mean time on it in calls [s].", "serving_s", "s", "in them"),
    Quantity("critical_path_between_s", "Mean time on it between calls [s].", "between_s", "s", "between them"),
))  # fmt: skip
