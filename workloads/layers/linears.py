"""Bases of layer kinds, and the linear layers of a part, which adapters join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast, runtime_checkable

from ..errors import InputError
from .base import LayerKind, State


class NamedKind:
    """Base of layer kinds: a name, which `layer_kind` sets, and no state of a sequence."""

    __slots__ = ()
    kind: ClassVar[str]

    def state(self) -> State:
        return State()


class PlainKind(NamedKind):
    """Base of layer kinds without experts."""

    __slots__ = ()
    routed: ClassVar[None] = None


class WrappingKind(NamedKind):
    """Base of layer kinds around another part: as wide as that part, split and kept as it is."""

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
        """All of it: `shard` has split it already, or every rank has it whole."""
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
        """Return the weights of a pair of low-rank matrices next to it, by unit of rank."""
        return self.inputs + self.outputs


@runtime_checkable
class Adaptable(LayerKind, Protocol):
    """A layer part that names its matrices."""

    kind: ClassVar[str] = "a kind that names its matrices"
    """What messages call it."""

    def linears(self) -> tuple[Linear, ...]:
        """The matrices of this layer part as one device holds them."""


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


class AdaptedKind(WrappingKind):
    """Base of layer kinds that are adapters on the matrices of another part."""

    __slots__ = ()

    def linears(self) -> tuple[Linear, ...]:
        return linears_of(self.base)
