"""Durations of a run's tasks, and the calls on their critical paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...engine.state import F8, I8
from ...fleet.run_state import RunState
from ...quantity import Figures, Quantity
from ...results.metrics import Quantiles, quantiles
from ...results.table import RequestTable


@dataclass(frozen=True, slots=True)
class Tasks:
    """Durations of the tasks whose calls have all completed.

    The critical path of a task goes back from the call that ends last to the one that it waited for
    last, and so on: its calls and the pauses between them make up all of the task's time.

    Attributes
    ----------
    count, calls : int
        Tasks, and their calls.
    e2e_s : Quantiles
        From the first arrival of a task to its last token.
    path_calls : float
        Mean calls on the critical path.
    serving_s, between_s : float
        Mean time on it in calls, and between them: tools, users' pauses, arrivals that were later.
    columns : dict of str to array
        Of requests.csv, which can then be replayed: session and pause of each request; none where calls wait for several.
    """

    count: int
    calls: int
    e2e_s: Quantiles
    path_calls: float
    serving_s: float
    between_s: float
    columns: dict[str, F8]


def tasks_left(_: object, served: RunState, *__: object) -> Tasks | None:
    """Return durations of a run's tasks; None if no request follows another or no task has completed."""
    table = served.table
    if not len(table.follows):
        return None
    count = slice(0, table.count)
    task = (table.task if table.after else table.session)[count]
    done = table.generated[count] == table.output_tokens[count]
    _, place, calls = np.unique(task, return_inverse=True, return_counts=True)
    complete = np.bincount(place, weights=done).astype(np.int64) == calls
    if not complete.any():
        return None
    arrival, last = table.arrival_s[count], table.last_s[count]
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(calls)[:-1]])
    begin = np.minimum.reduceat(arrival[order], starts)[complete]
    end = np.maximum.reduceat(last[order], starts)[complete]
    steps, serving = _paths(table, place, len(calls), last - arrival, complete)
    e2e = end - begin
    return Tasks(
        int(complete.sum()), int(calls[complete].sum()), quantiles(e2e), float(steps.mean()),
        float(serving.mean()), float((e2e - serving).mean()),
        {} if table.after else {name: getattr(table, name)[table.done()] for name in ("session", "think_s")},
    )  # fmt: skip


def _paths(table: RequestTable, place: I8, tasks: int, took: F8, whole: np.ndarray) -> tuple[F8, F8]:
    """Return the number of calls on the critical path of each completed task, and the time in these calls [s]."""
    if not table.after:  # every request of a session is on it
        steps = np.bincount(place, minlength=tasks).astype(np.float64)
        return steps[whole], np.bincount(place, weights=took, minlength=tasks)[whole]
    last = table.last_s[: table.count].tolist()
    steps, serving = np.ones(table.count), took.copy()
    ends = np.full(tasks, -1)
    for row, waits in enumerate(table.after):  # what is waited for comes before
        if waits:
            before = max(waits, key=last.__getitem__)
            steps[row] += steps[before]
            serving[row] += serving[before]
        if ends[place[row]] < 0 or last[row] >= last[ends[place[row]]]:
            ends[place[row]] = row
    return steps[ends[whole]], serving[ends[whole]]


FIGURES = Figures("tasks", "Tasks", (
    Quantity("count", "Tasks whose calls have all completed.", label="tasks"),
    Quantity("calls", "Calls (requests) of these tasks.", label="calls"),
    Quantity("e2e_s", "Time from a task's first arrival to its last token [s].", unit="s", label="task"),
    Quantity("critical_path_calls", "Mean number of calls on the critical path of a task.", "path_calls", "1", "calls on critical paths"),
    Quantity("critical_path_serving_s", "Mean time in calls on the critical path [s].", "serving_s", "s", "in them"),
    Quantity("critical_path_between_s", "Mean time between calls on the critical path [s].", "between_s", "s", "between them"),
))  # fmt: skip
