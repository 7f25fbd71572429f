"""Named implementations: a decorator registers, a wrong name lists the right ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .errors import InputError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from name to implementation.

    Parameters
    ----------
    noun : str
        What the names are, for error messages ("policy", "layer kind").
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate an implementation with its name; a name is taken once."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            reason = f"unknown {self.noun}{nearest(name, self._items)}"
            raise InputError(repr(name), reason) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __contains__(self, name: object) -> bool:
        return name in self._items
