"""What a part does in a run, beside what it does for each engine."""

from __future__ import annotations

from typing import Any


class RunPart:
    """A part of one run, which its hook ``run`` gives a driver.

    Attributes
    ----------
    failures : int
        Nodes that it has let fail.
    """

    failures: int = 0

    def start(self, seed: int) -> None:
        """Begin at time 0, with events of its own (`Clock.call_at`)."""

    def left(self) -> dict[str, Any]:
        """Return the fields of `RunState` that this part has counted."""
        return {}
