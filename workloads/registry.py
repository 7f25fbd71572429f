"""Registries of named implementations: a decorator adds an item; an unknown name is refused with the known ones.

A registry is open to any importing code: a user's script or an installed package, whose modules `plugins` imports
before a registry is listed or a name is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import isclass, isroutine
from pkgutil import iter_modules
from typing import Generic, TypeVar

from .errors import InputError, nearest, reason_of
from .plugins import load_plugins, packages_of

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of implementations by name.

    Parameters
    ----------
    noun : str
        What the names are, for error messages ("policy", "layer kind").
    described : bool
        Whether an item needs a line that says what it is: for lists of the command line.
    check : callable, optional
        ``check(item)`` raises if an item cannot work; it is then refused.
    home : str, optional
        Package whose modules register items; they are imported with the plug-ins.
    group : str, optional
        Group of entry points that name such packages, of this distribution or any other.
    """

    def __init__(
        self,
        noun: str,
        *,
        described: bool = False,
        check: Callable[[T], object] | None = None,
        home: str | None = None,
        group: str = "",
    ) -> None:
        self.noun = noun
        self._described, self._check, self._home, self._group = described, check, home, group
        self._items: dict[str, T] = {}
        self._titles: dict[str, str] = {}

    def register(self, name: str, title: str = "") -> Callable[[T], T]:
        """Return a decorator that registers an implementation under a name; a name can be registered only once.

        Parameters
        ----------
        title : str
            A line on it, instead of the first line of a function's or class's docstring.

        Raises
        ------
        InputError
            The name is taken, the item lacks a line on it, or cannot work.
        """

        def add(item: T) -> T:
            if name in self._items:
                raise InputError(f"{self.noun} {name!r}", "is registered twice")
            line = title or first_line(item)
            if self._described and not line:
                reason = "needs a docstring with a first line that describes it"
                raise InputError(f"{self.noun} {name!r}", reason)
            try:
                if self._check is not None:
                    self._check(item)
            except Exception as error:
                reason = f"cannot be registered: {reason_of(error)}"
                raise InputError(f"{self.noun} {name!r}", reason) from error
            self._items[name], self._titles[name] = item, line
            return item

        return add

    def names(self) -> tuple[str, ...]:
        """Names registered so far; this imports no modules."""
        return tuple(sorted(self._items))

    def title(self, name: str) -> str:
        """Return the one-line description of an item, without a final stop."""
        return self._titles.get(name, "")

    def load(self) -> None:
        """Import the modules that register items: of `home`, of `group`, and the plug-ins.

        Raises
        ------
        InputError
            A plug-in cannot be imported.
        """
        if self._home is not None:
            load_package(self._home)
        for package in packages_of(self._group) if self._group else ():
            load_package(package)
        load_plugins()

    def __getitem__(self, name: str) -> T:
        if name not in self:
            reason = f"unknown {self.noun}{nearest(name, self._items)}"
            raise InputError(repr(name), reason)
        return self._items[name]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        if name not in self._items:
            self.load()
        return name in self._items


def load_package(package: str) -> None:
    """Import all modules of a package, so that they register their items."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def first_line(item: object) -> str:
    """Return the first line of a function's or class's docstring, without a final stop."""
    text = (item.__doc__ or "").strip() if isroutine(item) or isclass(item) else ""
    line = text.partition("\n")[0].strip()
    return line if line.endswith("...") else line.removesuffix(".")
