"""Python side of a part in one engine, called outside the compiled steps.

A part returns it from its hook ``engine``; `engine.engine.Engine` calls its methods, which by default do nothing.
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
"""One program on a device: the device's name, the names of its ops, the lowered plan, and the step totals."""


class EnginePart:
    """A part of one engine.

    Attributes
    ----------
    hooks : sequence of mappings
        Compiled functions by hook point (`engine.hooks`), whose first argument is the state of `start`.
    orders : bool
        Whether the part sorts waiting requests itself.
    room : int
        KV blocks that the part can store outside device memory.
    """

    hooks: Sequence[Mapping[str, Any]] = ()
    orders = False
    room = 0

    def __init__(self, engine: Any) -> None:
        """Attach the part to an engine that is being built."""

    def start(self, engine: Any) -> Any:
        """Return the part's state in an engine without requests, as a record; None if it has no state."""

    def add(self, engine: Any, block: RequestBlock, before: int) -> None:
        """Process a block of new requests, whose first row is `before`."""

    def stock(self, engine: Any) -> None:
        """Called after the prefix cache has received its blocks."""

    def grow(self, engine: Any, before: int, size: int) -> None:
        """Enlarge the part's state to `size` requests; the first `before` rows exist already."""

    def fail(self, engine: Any, now: float) -> None:
        """Called before the engine loses its requests and caches at time `now`."""

    def recover(self, engine: Any) -> None:
        """Called after a failure, when the engine has a new, empty state."""

    def by_hand(self, engine: Any) -> bool:
        """Return whether only Python can add requests, because the part stores data outside the engine's arrays."""
        return False

    def refused(self, engine: Any) -> list[int]:
        """Return the numbers of the requests that the part rejected."""
        return []

    def face(self, engine: Any, face: Face) -> Face:
        """Return the engine's data for compiled events, extended by those of the part."""
        return face

    def programs(self, engine: Any) -> Iterator[Program]:
        """Return the programs that run for the engine in addition to its model."""
        return iter(())
