"""Options: dataclass fields that say what they are, for command lines, files and messages.

A field made here is all that an option needs: `CheckedOptions` checks its values, the command line, sweeps
and reports read the same metadata. Nothing heavy is imported, so that ``--help`` stays quick.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..workloads.errors import InputError, nearest
from ..workloads.requests.frames import is_table, table_file
from ..workloads.requests.options import check_count, check_real, check_whole
from ..workloads.yamlfile import read_yaml

if TYPE_CHECKING:
    from .part import Part

OPTION = "option"
SCOPE = "scope"
"""Metadata key of a field that holds options of parts; its value selects the parts (`Part.scope`)."""
T = TypeVar("T")

_WORDS = read_yaml(Path(__file__).parent / "synonyms.yaml")
ALIASES: Mapping[str, str] = _WORDS["aliases"]
INSTEAD: Mapping[str, str] = _WORDS["instead"]
MEANT: Mapping[str, str] = _WORDS["meant"]


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """Definition of an option, except its name.

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
        Placeholder of the value in ``--help``.
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
        """Return the value if its kind and range are right; numpy integers become int.

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
        """Return the help text with the unit."""
        return f"{self.help.removesuffix('.')} [{self.unit}]." if self.unit else self.help


def whole(help: str, low: int | None = None, high: int = 2**31 - 1, default: int | None = None, unit: str = "") -> Any:
    """Return a dataclass field for an option that takes an integer."""
    return field(default=default, metadata={OPTION: OptionSpec(int, help, unit, low, high, "N")})


def real(help: str, low: float, high: float, unit: str = "") -> Any:
    """Return a dataclass field for an option that takes a number."""
    return field(default=None, metadata={OPTION: OptionSpec(float, help, unit, low, high, "X")})


def text(
    help: str, metavar: str, default: str | None = None, file: bool = False, table: bool = False,
    choices: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """Return a dataclass field for an option that takes a name, a rule or a path."""
    option = OptionSpec(str, help, metavar=metavar, file=file, table=table, choices=choices)
    return field(default=default, metadata={OPTION: option})


def flag(help: str) -> Any:
    """Return a dataclass field for an option without a value."""
    return field(default=False, metadata={OPTION: OptionSpec(bool, help)})


def texts(help: str, metavar: str) -> Any:
    """Return a dataclass field for an option that may be repeated."""
    return field(default=(), metadata={OPTION: OptionSpec(tuple, help, metavar=metavar)})


def thing(help: str, metavar: str, argument: bool = False) -> dict[str, OptionSpec]:
    """Return field metadata for an option that takes a name, a file or the description itself."""
    return {OPTION: OptionSpec(object, help, metavar=metavar, argument=argument)}


@dataclass(frozen=True, slots=True)
class PlacedOption:
    """An option with the path of fields to it in a scenario.

    Attributes
    ----------
    default : object
    path : tuple of str
        Fields that hold it, and the name of its part; empty at the top.
    """

    name: str
    option: OptionSpec
    default: Any
    path: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Return the scenario's field that contains the option, or the part of a run; empty at the top level."""
        return self.path[1] if self.path[:1] == ("parts",) else "".join(self.path[:1])

    @property
    def flag(self) -> str:
        """Return the option as written on a command line and in messages."""
        return flag_of(self.name)


def options_of(cls: type) -> tuple[PlacedOption, ...]:
    """Return the options of a dataclass in order of its fields, including its groups.

    Examples
    --------
    >>> from .scenario import Scenario
    >>> [p.name for p in options_of(Scenario)][:4]
    ['model', 'system', 'trace', 'client']
    """
    return _options(cls, tuple(_known()))


def _known() -> dict[str, Part]:
    from .registry import PARTS  # whose parts import this

    return PARTS


@cache
def _options(cls: type, parts: tuple[str, ...]) -> tuple[PlacedOption, ...]:
    """Return the options of a dataclass; cached for the same `parts`, because the command line asks for each option."""
    out: list[PlacedOption] = []
    for own in fields(cls):
        inside = {own.name: _part(own)}
        path: tuple[str, ...] = ()
        if SCOPE in own.metadata:
            path, inside = (own.name,), {n: p.options for n, p in _known().items() if p.scope == own.metadata[SCOPE]}
        elif OPTION in own.metadata:
            out.append(PlacedOption(own.name, own.metadata[OPTION], None if own.default is MISSING else own.default))
        for name, group in inside.items():
            out += [replace(p, path=(*path, name, *p.path)) for p in options_of(group)] if group else []
    return tuple(out)


def placed(cls: type) -> dict[str, PlacedOption]:
    """Return the options of a dataclass by name."""
    return {p.name: p for p in options_of(cls)}


def chosen(cls: type[C], options: Mapping[str, Any]) -> C:
    """Return a group of a scenario's options, built from options by name.

    Raises
    ------
    InputError
        An unknown option, or a value of the wrong type or out of range.
    """
    return cls().changed(**options)


def unknown(name: str, known: Sequence[str]) -> InputError:
    """Return the error for an unknown option."""
    return InputError(flag_of(name), f"unknown option{meant(name, known) or nearest(name, known)}")


def flag_of(name: str) -> str:
    """Return an option as written on a command line and in messages."""
    return f"--{name.replace('_', '-')}"


def meant(option: str, known: Sequence[str]) -> str:
    """Return a hint at the known option that an unknown one resembles in spelling or meaning; empty if none stands out.

    Both are names or flags; the hint is as `known` has it.

    Examples
    --------
    >>> meant("--batch-size", ["--max-seqs", "--rate", "--cv"])
    "; did you mean '--max-seqs'?"
    >>> meant("request_rate", ["load", "rate"])
    "; did you mean 'rate'?"
    >>> meant("--rate", ["--load", "--rate-profile"])
    "; did you mean '--load'?"
    >>> meant("burstiness", ["max_seqs", "rate", "cv"])
    "; did you mean 'cv'?"
    >>> meant("--colour", ["--max-seqs", "--rate", "--cv"])
    ''
    """
    close = nearest(option, known, cutoff=0.8)
    if close.startswith("; did you mean"):
        return close
    names = {flag_of(name.strip("-")): name for name in known}
    flag = flag_of(option.strip("-").lower())
    best = ALIASES.get(flag, INSTEAD.get(flag, ""))
    if best not in names:
        words = {word for word in flag.split("-") if len(word) > 1}
        scores = sorted(((_alike(words, name), name) for name in names), reverse=True)
        (first, best), (second, _) = (*scores, (0.0, ""), (0.0, ""))[:2]
        if first < 0.5 or first == second:
            return ""
    return f"; did you mean {names[best]!r}?"


def _alike(words: set[str], flag: str) -> float:
    """Return the share of the words in an option's name or meaning; words of its name count slightly more."""
    words_of_name = set(flag.strip("-").split("-"))
    also = set(MEANT.get(flag, "").split())
    score = sum(1.1 if w in words_of_name else 1.0 if w in also else 0.0 for w in words)
    return score / len(words) if words else 0.0


def _part(own: Field[Any]) -> type | None:
    """Return the class of a field that contains options."""
    made: Any = own.default_factory
    return made if isinstance(made, type) and issubclass(made, CheckedOptions) else None


class CheckedOptions:
    """Base of frozen dataclasses of options: values are checked as they are set."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for own in options_of(type(self)):
            value = None if own.path else getattr(self, own.name)
            if value is not None or (own.default is not None and not own.path):
                object.__setattr__(self, own.name, own.option.checked(value, own.flag))

    def changed(self, **options: Any) -> Self:
        """Return a copy with options replaced, in any part; a whole part is replaced by its field's name.

        Raises
        ------
        InputError
            An unknown option, or a value of the wrong type or out of range.
        """
        known, inside = placed(type(self)), {own.name for own in fields(self)}  # type: ignore[arg-type]
        deeper: dict[tuple[str, ...], dict[str, Any]] = {}
        for name, value in options.items():
            if name not in known and name not in inside:
                raise unknown(name, [*known])
            deeper.setdefault(known[name].path if name in known else (), {})[name] = value
        out = replace(self, **deeper.pop((), {}))  # type: ignore[type-var]
        for path, values in deeper.items():
            out = _put(out, path, values)
        return out

    def option(self, name: str) -> Any:
        """Return the value of an option of any part."""
        return getattr(_holder(self, placed(type(self))[name].path), name)


C = TypeVar("C", bound=CheckedOptions)


@dataclass(frozen=True, slots=True)
class PartOptions:
    """Options of all parts by the name of the part; parts that are not used have their defaults."""

    given: tuple[CheckedOptions, ...] = ()

    def __getitem__(self, name: str) -> Any:
        made: Any = _known()[name].options
        return next((own for own in self.given if type(own) is made), None) or _default(made)

    def asks(self, name: str) -> bool:
        """Return whether any option of a part is given."""
        return any(type(own) is _known()[name].options for own in self.given)

    def names(self) -> tuple[str, ...]:
        """Return the names of the parts that have an option given."""
        return tuple(name for name, part in _known().items() if part.options and self.asks(name))

    def having(self, name: str, options: CheckedOptions | None = None) -> PartOptions:
        """Return these options with other ones for a part; None: the part's defaults."""
        made = _known()[name].options
        others = [own for own in self.given if type(own) is not made]
        if options is not None and options != type(options)():
            others.append(options)
        order = [part.options for part in _known().values()]
        return PartOptions(tuple(sorted(others, key=lambda own: order.index(type(own)))))


NO_OPTIONS = PartOptions()


@cache
def _default(made: type[C]) -> C:
    return made()


def _holder(top: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        top = top[name] if isinstance(top, PartOptions) else getattr(top, name)
    return top


def _put(top: Any, path: tuple[str, ...], values: Mapping[str, Any]) -> Any:
    if not path:
        return replace(top, **values)
    head, rest = path[0], path[1:]
    inner = _put(_holder(top, (head,)), rest, values)
    return top.having(head, inner) if isinstance(top, PartOptions) else replace(top, **{head: inner})


def described(cls: type[T]) -> type[T]:
    """Decorate a dataclass of options: its docstring lists them as their fields describe them."""
    lines = [cls.__doc__ or "", "", "    Attributes", "    ----------"]
    for own in fields(cls):  # type: ignore[arg-type]
        part = _part(own)
        if part is not None or SCOPE in own.metadata:
            lines += [f"    {own.name} : {(part or PartOptions).__name__}"]
        elif OPTION in own.metadata:
            lines += [f"    {own.name} : {own.type}", f"        {own.metadata[OPTION].text}"]
    cls.__doc__ = "\n".join(lines)
    return cls
