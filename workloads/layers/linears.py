"""Base classes of layer kinds, and the linear layers of a part, to which adapters can be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast, runtime_checkable

from ..errors import InputError
from .base import LayerKind, State


class NamedKind:
    """Base of layer kinds: has a name, set by `layer_kind`, and no state per sequence."""

    __slots__ = ()
    kind: ClassVar[str]

    def state(self) -> State:
        return State()


class PlainKind(NamedKind):
    """Base of layer kinds without experts."""

    __slots__ = ()
    routed: ClassVar[None] = None


class WrappingKind(NamedKind):
    """Base of layer kinds that wrap another part and take its width, sharding and state from it."""

    __slots__ = ()
    base: Any

    @property
    def hidden(self) -> int:
        width: int = self.base.hidden
        return width

    def state(self) -> State:
        state: State = self.base.state()
        return state

    def shard(self, tp: int) -> Self:
        changes: Any = {"base": self.base.shard(tp)}
        return replace(self, **changes)  # type: ignore[type-var]  # kinds are dataclasses


class OfOneGroup:
    """Base of layer kinds whose experts are never distributed to groups of devices.

    Attributes
    ----------
    one_group : str
        What a message says where groups are asked for.
    """

    __slots__ = ()
    one_group: ClassVar[str]

    def shard_experts(self, ep: int, tp: int) -> Self:
        """Return the part itself: `shard` has split it already, or every rank has it whole."""
        if ep != 1:
            raise InputError(f"ep={ep}", self.one_group)
        return self


class Linear(NamedTuple):
    """One matrix of a layer part: ``outputs x inputs`` weights."""

    name: str
    inputs: int
    outputs: int

    @property
    def sides(self) -> int:
        """Number of weights per rank of a low-rank pair next to this matrix."""
        return self.inputs + self.outputs


@runtime_checkable
class Adaptable(LayerKind, Protocol):
    """A layer part with named matrices, to which adapters can be added."""

    kind: ClassVar[str] = "a kind that names its matrices"
    """Name of such a part in messages."""

    def linears(self) -> tuple[Linear, ...]:
        """Return the matrices of this layer part on one device."""


def adaptable(part: LayerKind) -> Adaptable:
    """Return the part if adapters can be added to it; refuse others.

    Raises
    ------
    InputError
        A kind that names no matrices.
    """
    if getattr(part, "linears", None) is None:
        raise InputError(f"layer kind {part.kind}", "has no linear layers that support adapters")
    return cast(Adaptable, part)


def linears_of(part: LayerKind) -> tuple[Linear, ...]:
    """Return the matrices of a part; raises as `adaptable`."""
    return adaptable(part).linears()


def sides(linears: Sequence[Linear]) -> int:
    """Return the number of weights per rank of low-rank pairs next to all matrices."""
    return sum(linear.sides for linear in linears)


class AdaptedKind(WrappingKind):
    """Base of layer kinds that add adapters to the matrices of another part."""

    __slots__ = ()

    def linears(self) -> tuple[Linear, ...]:
        return linears_of(self.base)
