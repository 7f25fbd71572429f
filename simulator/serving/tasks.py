"""Tasks: sessions and agents' calls as their users see them, from the first arrival to the last token."""

from __future__ import annotations

from dataclasses import dataclass

from .metrics import Quantiles


@dataclass(frozen=True, slots=True)
class Tasks:
    """What tasks took, of those whose calls have all completed.

    The critical path of a task goes back from the call that ends last to the one that it waited for
    last, and so on: its calls and what lay between them make up all of the task's time.

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
    """

    count: int
    calls: int
    e2e_s: Quantiles
    path_calls: float
    serving_s: float
    between_s: float
