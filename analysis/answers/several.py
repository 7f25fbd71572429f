"""Common code of results with several simulations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..show.result import Drawing, Result
from .simulate import Simulation


@dataclass(frozen=True, slots=True)
class Several(Result):
    """Several simulations in one result."""

    FILE = "summary.json"

    runs: tuple[Simulation, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of all runs without duplicates."""
        return tuple(dict.fromkeys(w for r in self.runs for w in r.warnings))

    def drawings(self) -> Sequence[Drawing]:
        """Return the plots of every run, in order."""
        return [drawing for run in self.runs for drawing in run.drawings()]

    def remarks(self) -> Sequence[str]:
        return self.warnings

    def timing(self) -> dict[str, Any]:
        return {"wall_s": sum(r.run.wall_s for r in self.runs)}
