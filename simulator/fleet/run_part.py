"""Interface of a part in a run, in addition to its work in each engine."""

from __future__ import annotations

from typing import Any


class RunPart:
    """Part of one run, created by the part's hook ``run`` for the driver.

    Attributes
    ----------
    failures : int
        Nodes that it has let fail.
    """

    failures: int = 0

    def start(self, seed: int) -> None:
        """Schedule the part's initial events at time 0 (`Clock.call_at`)."""

    def left(self) -> dict[str, Any]:
        """Return the fields of `RunState` that this part has counted."""
        return {}
