"""What one part of a serving system leaves in an answer: keys of JSON, text for people, columns of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ...simulator.serving.record import Run
    from .quantities import Quantity

TextOrRows = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Facet:
    """A part's share of a simulation's answer; nothing of it where the part took no part.

    Attributes
    ----------
    entry : callable
        Keys of JSON.
    blocks : callable
        The same for people.
    quantities : tuple of Quantity
        Columns of a sweep's row, where `entry` has something.
    setting, of : str
        The option of a study that asks for the part, and what a line says of points without it.
    after : str
        JSON's keys that `entry` follows.
    late : bool
        Whether the text comes after the latencies.
    """

    entry: Callable[[Run], dict[str, Any]]
    blocks: Callable[[Run], Sequence[TextOrRows]]
    quantities: tuple[Quantity, ...] = ()
    setting: str = ""
    of: str = ""
    after: Literal["figures", "layers", "intervals"] = "figures"
    late: bool = False
