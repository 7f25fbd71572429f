"""What a part does for one engine, beside the compiled code that its steps call.

A part gives one by its hook ``engine``; an `engine.engine.Engine` calls its methods, which by default do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...workloads.requests import RequestBlock
    from ..step.lowering import LoweredModel, Slots
    from ..step.step_totals import StepTotals
    from .state import Face

Program = tuple[str, "Slots", "LoweredModel", "StepTotals"]
"""What runs on a device: the device's name, names of its ops, the plan, and the totals."""


class EnginePart:
    """A part of one engine.

    Attributes
    ----------
    hooks : sequence of mappings
        Compiled functions by hook point (`engine.hooks`), whose first argument is the state of `start`.
    orders : bool
        Whether it keeps waiting requests in an order of its own.
    room : int
        Blocks that can be found again outside the devices' memory.
    """

    hooks: Sequence[Mapping[str, Any]] = ()
    orders = False
    room = 0

    def __init__(self, engine: Any) -> None:
        """The part of an engine that is being made."""

    def start(self, engine: Any) -> Any:
        """Return the state of an engine without requests, a record; None: there is none."""

    def add(self, engine: Any, block: RequestBlock, before: int) -> None:
        """Requests have been added behind those `before`."""

    def stock(self, engine: Any) -> None:
        """The prefix cache has been given its blocks."""

    def grow(self, engine: Any, before: int, size: int) -> None:
        """Make room for so many requests, of which there are those `before`."""

    def fail(self, engine: Any, now: float) -> None:
        """The engine is about to lose its requests and caches."""

    def recover(self, engine: Any) -> None:
        """The engine has lost them, and has a new state."""

    def by_hand(self, engine: Any) -> bool:
        """Whether a request is more than a row of the engine's arrays, so that Python must add it."""
        return False

    def refused(self, engine: Any) -> list[int]:
        """Return the numbers of requests that the engine turned away."""
        return []

    def face(self, engine: Any, face: Face) -> Face:
        """Return what events know of the engine, with what the part has of it."""
        return face

    def programs(self, engine: Any) -> Iterator[Program]:
        """What runs for the engine beside its model."""
        return iter(())
