"""Typed access to the keys of a ``config.json``; every error names the key."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from ..errors import SpecError, nearest

SIZE_LIMIT = 2**31
"""Upper limit of sizes, which are in [1, 2^31)."""

MAX_EXPERTS = 16_384
"""Maximum number of experts. Published models have up to 512; routing stores a few numbers per layer and expert."""
MAX_LAYERS = 2_000
"""Maximum number of layers; the deepest published language models have a few hundred."""


Named = TypeVar("Named")


@dataclass(frozen=True, slots=True)
class Config:
    """The keys of one model, possibly a section of a larger file.

    Attributes
    ----------
    values : mapping
        Keys as read.
    path : str
        File the keys come from, for messages.
    name : str
        What the model is called.
    architecture : str
        Architecture class, once it is known.
    source : str
        Where the numbers come from.
    prefix : str
        Dotted path of this section in the file, with a dot at its end.
    outer : Config or None
        What surrounds this section.
    names : mapping of str to sequence of str
        Names of sizes in the file, where they are not the usual ones.
    """

    values: Mapping[str, Any]
    path: str
    name: str
    architecture: str = ""
    source: str = ""
    prefix: str = ""
    outer: Config | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def error(self, key: str, reason: str) -> SpecError:
        """Return an error for a key, under its name in the file."""
        names = self.names.get(key) or [key]
        key = next((name for name in names if name in self.values), names[0])
        return SpecError(f"{self.path}: {self.prefix}{key}", reason)

    def has(self, key: str) -> bool:
        """Whether the key is present and not null."""
        return any(self.values.get(name) is not None for name in self.names.get(key, (key,)))

    def size(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """Read a size under the first of `keys` that is present and not null.

        Without a `default` the key is required.
        """
        keys = tuple(name for key in keys for name in self.names.get(key, (key,)))
        key = next((k for k in keys if self.values.get(k) is not None), None)
        if key is None:
            if default is not None:
                return default
            state = "is null" if any(k in self.values for k in keys) else "is missing"
            raise self.error(keys[0], f"{state}; {_wanted(least)} is required")
        value = self.values[key]
        if type(value) is not int or not least <= value < SIZE_LIMIT:
            raise self.error(key, f"must be {_wanted(least)}, not {shown(value)}")
        return value

    def count(self, *keys: str, default: int | None = 0) -> int:
        """Read a number that may be zero."""
        return self.size(*keys, default=default, least=0)

    def optional(self, *keys: str) -> int | None:
        """Read a size that may be missing or null."""
        return self.size(*keys) if any(self.has(k) for k in keys) else None

    def experts(self, *keys: str) -> int:
        """Read the number of experts of a layer."""
        return self._at_most(MAX_EXPERTS, keys)

    def layers(self, *keys: str) -> int:
        """Read the number of layers."""
        return self._at_most(MAX_LAYERS, keys or ("num_hidden_layers",))

    def layer_numbers(self, key: str, layers: int) -> Sequence[Any]:
        """Read a list of layers that are counted from 1; missing or null means none."""
        numbers = self.items(key) or []
        for i, layer in enumerate(numbers):
            if type(layer) is not int or not 1 <= layer <= layers:
                raise self.error(f"{key}[{i}]", f"must be a layer from 1 to {layers}")
        return numbers

    def _at_most(self, most: int, keys: tuple[str, ...]) -> int:
        count = self.size(*keys)
        if count > most:
            key = next(k for k in keys if self.has(k))
            raise self.error(key, f"must be at most {most}, not {count}")
        return count

    def window(self, key: str, default: int = 0) -> int:
        """Read an attention window; null and 0 mean none, a missing key means `default`."""
        return self.count(key, default=0 if key in self.values else default)

    def flag(self, key: str, default: bool) -> bool:
        """Read a boolean; missing or null means `default`."""
        value: bool | None = self._typed(key, bool, "true or false")
        return default if value is None else value

    def text(self, key: str, default: str = "") -> str:
        """Read a text; missing or null means `default`."""
        value: str | None = self._typed(key, str, "text")
        return default if value is None else value

    def _typed(self, key: str, kind: type, what: str) -> Any:
        value = self.values.get(key)
        if value is not None and not isinstance(value, kind):
            raise self.error(key, f"must be {what}, not {shown(value)}")
        return value

    def named(self, key: str, known: Mapping[str, Named], what: str, text: str | None = None) -> Named:
        """Read a name and return its value in `known`; `text` replaces the key's value if given."""
        name = self.text(key) if text is None else text
        if name not in known:
            raise self.error(key, f"unknown {what} {shown(name)}{nearest(name, known)}")
        return known[name]

    def items(self, key: str) -> list[Any] | None:
        """Read a list; return None if it is missing or null."""
        value: list[Any] | None = self._typed(key, list, "a list")
        return value

    def words(self, key: str, length: int, known: Collection[str]) -> tuple[str, ...] | None:
        """Read a list with one known word per layer; return None if it is missing or null."""
        items = self.items(key)
        if items is None:
            return None
        if len(items) != length:
            raise self.error(key, f"must have one entry per layer: {length}, not {len(items)}")
        for i, word in enumerate(items):
            if not isinstance(word, str) or word not in known:
                hint = nearest(word, known) if isinstance(word, str) else nearest("", known)
                raise self.error(f"{key}[{i}]", f"unknown kind {shown(word)}{hint}")
        return tuple(items)

    def switches(self, key: str, layers: int) -> list[bool] | None:
        """Read a list with 0 or 1 per layer; return None if it is missing or null.

        Entries after the last layer are dropped.
        """
        items = self.items(key)
        if items is None:
            return None
        if len(items) < layers or any(value not in (0, 1) for value in items):
            raise self.error(key, f"must hold 0 or 1 for each of the {layers} layers")
        return [bool(value) for value in items[:layers]]

    def indices(self, key: str, layers: int) -> frozenset[int] | None:
        """Read a list of layer numbers; return None if it is missing or null."""
        items = self.items(key)
        if items is None:
            return None
        for i, value in enumerate(items):
            if type(value) is not int or not 0 <= value < layers:
                raise self.error(f"{key}[{i}]", f"must be a layer from 0 to {layers - 1}, not {shown(value)}")
        return frozenset(items)

    def section(self, key: str) -> Config:
        """Return the keys of a nested object."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            state = "is missing" if key not in self.values else f"is {shown(value)}"
            raise self.error(key, f"{state}; an object is required")
        return replace(self, values=value, prefix=f"{self.prefix}{key}.", outer=self)

    def but(self, **changed: Any) -> Config:
        """Return this section with some keys changed; other keys keep their values."""
        return replace(self, values=ChainMap(changed, cast("dict[str, Any]", self.values)))

    def outermost_with(self, key: str) -> Config:
        """Return the outermost section that sets `key`; this section if none does."""
        at: Config | None = self
        config = self
        while at is not None:
            config = at if at.has(key) else config
            at = at.outer
        return config

    def nearest_with(self, key: str) -> Config:
        """Return the innermost section around this one, itself included, that sets `key`; this section if none does."""
        at: Config | None = self
        while at is not None:
            if at.has(key):
                return at
            at = at.outer
        return self


def _wanted(least: int) -> str:
    return f"a whole number from {least} to {SIZE_LIMIT - 1}"


def shown(value: object) -> str:
    """Return a short text for any value, for use in a message."""
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
