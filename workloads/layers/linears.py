"""The linear layers of a layer part, which adapters join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, cast, runtime_checkable

from ..errors import InputError
from .base import LayerKind


class Linear(NamedTuple):
    """One matrix of a layer part: ``outputs x inputs`` weights."""

    name: str
    inputs: int
    outputs: int

    @property
    def sides(self) -> int:
        """Return the weights of a pair of low-rank matrices next to it, by unit of rank."""
        return self.inputs + self.outputs


@runtime_checkable
class Adaptable(LayerKind, Protocol):
    """A layer part that names its matrices."""

    kind: ClassVar[str] = "a kind that names its matrices"
    """What messages call it."""

    def linears(self) -> tuple[Linear, ...]:
        """Its matrices as one device holds them."""


def adaptable(part: LayerKind) -> Adaptable:
    """The part as one that adapters can join.

    Raises
    ------
    InputError
        A kind that names no matrices.
    """
    if getattr(part, "linears", None) is None:
        raise InputError(f"layer kind {part.kind}", "has no linear layers that adapters could join")
    return cast(Adaptable, part)


def linears_of(part: LayerKind) -> tuple[Linear, ...]:
    """Matrices of a part; raises as `adaptable`."""
    return adaptable(part).linears()


def sides(linears: Sequence[Linear]) -> int:
    """Return the weights of low-rank pairs next to all of them, by unit of rank."""
    return sum(linear.sides for linear in linears)
