"""Quantities: the single form of the values of a run. JSON, tables, columns and the reference are derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Quantity:
    """One value in the results of a run or of a part.

    Attributes
    ----------
    name : str
        Its key in JSON and its column.
    meaning : str
        A sentence, with the unit in brackets.
    value : callable or str
        Of its source; None where it has no value there. Or the path of an attribute; without it, `name`.
    unit, label : str
        In tables for people, which have what has a label: "1/s", "J", "W", "s", "B", "%" of a share, or none of a count.
    column : bool
        Whether sweeps have it as a column.
    inside : tuple of Quantity
        Of the object that `value` gives, or of each object of a list.
    """

    name: str
    meaning: str
    value: Callable[[Any], Any] | str = ""
    unit: str = ""
    label: str = ""
    column: bool = False
    inside: tuple[Quantity, ...] = ()

    def of(self, source: Any) -> Any:
        """Return the value of the quantity in a result."""
        return (self.value if callable(self.value) else attrgetter(self.value or self.name))(source)

    def entry(self, source: Any) -> Any:
        """Return the value of the quantity in a result, in the form used in JSON."""
        value = self.of(source)
        if not self.inside or value is None:
            return value.as_dict() if hasattr(value, "as_dict") else value
        if isinstance(value, list | tuple):
            return [entries(item, self.inside) for item in value]
        return entries(value, self.inside)


@dataclass(frozen=True, slots=True)
class Figures:
    """Values of a part's results in the output.

    Attributes
    ----------
    key : str
        Key of its entry in JSON; empty: its quantities are top-level keys.
    title : str
        Of its line for people.
    columns : tuple of Quantity
        Of a sweep's row.
    setting, missing : str
        The option of a study that asks for the part, and what a line says of points without it.
    after : str
        JSON's keys that its entry follows.
    late : bool
        Whether people read it after the latencies.
    more : callable, optional
        Further columns, whose names depend on the run.
    """

    key: str
    title: str
    quantities: tuple[Quantity, ...]
    columns: tuple[Quantity, ...] = ()
    setting: str = ""
    missing: str = ""
    after: Literal["figures", "layers", "intervals"] = "figures"
    late: bool = False
    more: Callable[[Any], dict[str, Any]] | None = None

    def entry(self, source: Any) -> dict[str, Any]:
        """Return the JSON keys of a part's result, with their values."""
        result = entries(source, self.quantities)
        return {self.key: result} if self.key else result

    def row(self, source: Any) -> dict[str, Any]:
        """Return the columns of a part's result in a row of a sweep."""
        return entries(source, self.columns) | (self.more(source) if self.more else {})


def ratio(a: float | None, b: float | None) -> float | None:
    """Return a quotient, or None if it is undefined."""
    return a / b if a is not None and b else None


def entries(source: Any, quantities: Sequence[Quantity]) -> dict[str, Any]:
    """Return the value of each quantity in a result, by name."""
    return {q.name: q.entry(source) for q in quantities}


def columns(quantities: Sequence[Quantity]) -> tuple[str, ...]:
    """Return the names of the quantities that are columns of a sweep."""
    return tuple(q.name for q in quantities if q.column)


def meanings(quantities: Sequence[Quantity]) -> Mapping[str, str]:
    """Return the meanings of the quantities that are columns of a sweep, by name."""
    return {q.name: q.meaning for q in quantities if q.column}
