"""Options: dataclass fields that say what they are, for command lines, files and messages.

A field made here is all that an option needs: `CheckedOptions` checks its values, the command line, sweeps
and reports read the same metadata. Nothing heavy is imported, so that ``--help`` stays quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar

from ...workloads.errors import InputError, nearest
from ...workloads.requests.frames import is_table, table_file
from ...workloads.requests.options import check_count, check_real, check_whole

OPTION = "option"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What is known of an option beside its name.

    Attributes
    ----------
    kind : type
        int, float, bool, str, tuple (of texts, given as often as wanted), or object: a name, a file or a description.
    help : str
        A sentence; its unit is added where it is shown.
    unit : str
        Of numbers: s, 1/s, tokens. Counts have none.
    low, high : float or None
        Smallest and largest value; without `low` the range is another's matter: it depends on the model or system.
    metavar : str
        What stands for the value in ``--help``.
    file : bool
        It names a file, whose content is part of what is simulated.
    table : bool
        It may be a table instead of a file, from a script.
    choices : tuple of str
        All that it can be, where nothing can add to it.
    argument : bool
        Written without its name on a command line.
    """

    kind: type
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    metavar: str = ""
    file: bool = False
    argument: bool = False
    table: bool = False
    choices: tuple[str, ...] = ()

    def checked(self, value: Any, where: str) -> Any:
        """The value if it is of the kind and in the range; numpy's whole numbers become int.

        Raises
        ------
        InputError
            Names the option and what would be right.
        """
        if self.kind is int:
            if self.low is None:
                return check_whole(value, where)
            return check_count(value, where, int(self.low), int(self.high or 0))
        if self.kind is float:
            assert self.low is not None
            assert self.high is not None
            check_real(value, where, self.low, self.high)
        elif self.kind is bool and not isinstance(value, bool):
            raise InputError(where, f"must be true or false, not {value!r}")
        elif self.table and is_table(value):
            return table_file(value, where)
        elif self.kind is str and not isinstance(value, (str, os.PathLike)):
            raise InputError(where, f"must be text, not {value!r}")
        elif self.kind is tuple:
            if isinstance(value, str) or not all(isinstance(text, str) for text in value):
                raise InputError(where, f"must be a list of texts, not {value!r}")
            return tuple(value)
        return value

    @property
    def text(self) -> str:
        """Help with the unit."""
        return f"{self.help.removesuffix('.')} [{self.unit}]." if self.unit else self.help


def whole(help: str, low: int | None = None, high: int = 2**31 - 1, default: int | None = None, unit: str = "") -> Any:
    """An option that takes a whole number."""
    return field(default=default, metadata={OPTION: OptionSpec(int, help, unit, low, high, "N")})


def real(help: str, low: float, high: float, unit: str = "") -> Any:
    """An option that takes a number."""
    return field(default=None, metadata={OPTION: OptionSpec(float, help, unit, low, high, "X")})


def text(
    help: str, metavar: str, default: str | None = None, file: bool = False, table: bool = False,
    choices: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """An option that takes a name, a rule or a path."""
    option = OptionSpec(str, help, metavar=metavar, file=file, table=table, choices=choices)
    return field(default=default, metadata={OPTION: option})


def flag(help: str) -> Any:
    """An option that is given or not."""
    return field(default=False, metadata={OPTION: OptionSpec(bool, help)})


def texts(help: str, metavar: str) -> Any:
    """An option that is given as often as wanted."""
    return field(default=(), metadata={OPTION: OptionSpec(tuple, help, metavar=metavar)})


def thing(help: str, metavar: str, argument: bool = False) -> dict[str, OptionSpec]:
    """Metadata of an option that takes a name, a file or the description itself."""
    return {OPTION: OptionSpec(object, help, metavar=metavar, argument=argument)}


@dataclass(frozen=True, slots=True)
class PlacedOption:
    """An option and where it stands.

    Attributes
    ----------
    default : object
    group : str
        Field that holds it; empty where it stands at the top.
    """

    name: str
    option: OptionSpec
    default: Any
    group: str = ""

    @property
    def flag(self) -> str:
        """How it is written on a command line, and so in messages."""
        return f"--{self.name.replace('_', '-')}"


def options_of(cls: type) -> tuple[PlacedOption, ...]:
    """Options of a dataclass in order of its fields, those of its groups among them.

    Examples
    --------
    >>> from .scenario import Scenario
    >>> [p.name for p in options_of(Scenario)][:4]
    ['model', 'system', 'trace', 'rate']
    """
    return _options(cls)


@cache
def _options(cls: type) -> tuple[PlacedOption, ...]:
    """Kept: the command line asks for each of its options at every start."""
    out: list[PlacedOption] = []
    for own in fields(cls):
        part = _part(own)
        if part is not None:
            out += [replace(inner, group=own.name) for inner in options_of(part)]
        elif OPTION in own.metadata:
            out.append(PlacedOption(own.name, own.metadata[OPTION], None if own.default is MISSING else own.default))
    return tuple(out)


def chosen(cls: type[T], options: Mapping[str, Any]) -> T:
    """A part of a scenario from its options by name.

    Raises
    ------
    InputError
        An unknown option, or a value of the wrong type or out of range.
    """
    known = {p.name for p in options_of(cls)}
    for name in options:
        if name not in known:
            raise unknown(name, known)
    return cls(**options)


def unknown(name: str, known: Iterable[str]) -> InputError:
    """The error of an option that there is not."""
    return InputError(f"--{name.replace('_', '-')}", f"unknown option{nearest(name, known)}")


def _part(own: Field[Any]) -> type | None:
    """The class of a field that holds options of its own."""
    made: Any = own.default_factory
    return made if isinstance(made, type) and issubclass(made, CheckedOptions) else None


class CheckedOptions:
    """Base of frozen dataclasses of options: values are checked as they are set."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for placed in options_of(type(self)):
            value = None if placed.group else getattr(self, placed.name)
            if value is not None or (placed.default is not None and not placed.group):
                found = placed.option.checked(value, placed.flag)
                object.__setattr__(self, placed.name, found)


def described(cls: type[T]) -> type[T]:
    """Decorate a dataclass of options: its docstring lists them as their fields describe them."""
    lines = [cls.__doc__ or "", "", "    Attributes", "    ----------"]
    for own in fields(cls):  # type: ignore[arg-type]
        part = _part(own)
        if part is not None:
            lines += [f"    {own.name} : {part.__name__}"]
        elif OPTION in own.metadata:
            lines += [f"    {own.name} : {own.type}", f"        {own.metadata[OPTION].text}"]
    cls.__doc__ = "\n".join(lines)
    return cls
