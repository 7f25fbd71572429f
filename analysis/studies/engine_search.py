"""Results of searches for FPGA engines, for any kind of engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...devices.spec import DeviceSpec
from ...workloads.errors import CapacityError
from ...workloads.model import ModelSpec
from ..parallel import OnProgress
from ..parallel.study import Study
from ..show.result import Drawing, Rests, Result
from ..show.text import Blocks, Rows


def explored(
    plans: Sequence[Any], run: Callable[[Any], Any], progress: OnProgress | None
) -> tuple[list[Any], tuple[Any, ...]]:
    """Return the designs of the plans that fit and are not dominated, fastest first.

    A design's `key` is what it costs.
    """
    study: Study[Any, Any] = Study(run, lambda design: design.key, refusals=(CapacityError,))
    designs, _ = study.fitting(plans, progress)  # a buffer plan may not fit this model's matrices
    return designs, tuple(study.front(designs))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSearch(Result):
    """What a search found; see `search.search`.

    Attributes
    ----------
    limits : mapping of str to float
        What designs may take of the board.
    published, best : Design or StreamDesign
        The board's own design, run the same way, and the best one.
    front : tuple of these
        Not worse than another in latency, DSPs and on-chip bytes at once; fastest first.
    """

    FILE = "search.json"
    PICTURES = ("front.png",)

    model: ModelSpec
    device: DeviceSpec
    limits: Mapping[str, float]
    tried: int
    published: Any
    best: Any
    front: tuple[Any, ...]
    described: tuple[Rests, ...] = ()

    def verdict(self) -> str:
        """What the best design reaches, in a sentence."""
        raise NotImplementedError

    def searched(self) -> str:
        """Return a description of the search."""
        raise NotImplementedError

    def row(self, name: str, design: Any) -> dict[str, Any]:
        """A design in a table."""
        raise NotImplementedError

    def rests(self) -> Sequence[Rests]:
        return self.described

    def headline(self) -> str:
        return self.verdict()

    def records(self) -> Rows:
        return [design.to_dict() for design in self.front]

    def rows(self) -> Rows:
        """The published design of the board, the best, and of a long front about ten, evenly spread."""
        step = max(1, len(self.front) // 10)
        chosen = [(f"front {i + 1}", self.front[i]) for i in range(step, len(self.front), step)]
        named = [("board's own", self.published), ("best", self.best), *chosen]
        return [self.row(name, design) for name, design in named]

    def blocks(self) -> Blocks:
        limits = ", ".join(f"{value:,.0f} {name}" for name, value in self.limits.items())
        return [
            f"{self.model.name} on {self.device.name}: {self.searched()} within {limits}",
            self.rows(),
            self.verdict(),
            f"Pareto front of latency, DSPs and on-chip bytes: {len(self.front)} designs.",
            "Energy is the board's power times latency, so both objectives have one order.",
        ]

    def drawings(self) -> Sequence[Drawing]:
        from ..plots.tradeoffs import pareto_front

        title = f"{self.model.name} on {self.device.name}: designs on the Pareto front"
        published, best = self.published.to_dict(), self.best.to_dict()
        figure = pareto_front(self.frame(), published, best, title)
        text = "Designs that none beats in latency, DSPs and on-chip bytes at once."
        return [Drawing(figure, text)]
