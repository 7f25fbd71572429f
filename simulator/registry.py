"""Registry of all parts of a serving engine or a fleet, and of the pairs that cannot be combined.

A part is a package in `parts` (a module if it is small) that names it in `PARTS`; parts can be combined unless a pair is
listed. User-defined parts are added by `engine.outside`. `opbyte list parts` prints all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ..workloads.errors import InputError, check_known
from .part import Combination, Part

PARTS: dict[str, Part] = {}
PAIRS: dict[tuple[str, str], str] = {}
"""Pairs of parts that cannot be combined, each with the reason; all other pairs can."""
CODE: dict[str, tuple[str, ...]] = {}
"""Package of each part below `simulator`, and the modules that it shares with other parts."""


def add(part: Part, *code: str) -> None:
    """Register a part and the location of its code."""
    home = code[0].replace("/", ".") if code else ""
    PARTS[part.name], CODE[part.name] = replace(part, home=home), (*code, *part.also)
    PAIRS.update({(part.name, other): why for other, why in part.cannot.items()})


def _add_all() -> None:
    for found in iter_modules([str(Path(__file__).parent / "parts")]):
        module = import_module(f"{__package__}.parts.{found.name}")
        for part in getattr(module, "PARTS", ()):
            add(part, f"parts/{found.name}")


_add_all()


def refused_with(name: str) -> dict[str, str]:
    """Return the parts that a part cannot be combined with, each with the reason."""
    return {other: why for pair, why in PAIRS.items() if name in pair for other in pair if other != name}


def parts_of(asked: Combination) -> dict[str, str]:
    """Return the parts that a combination uses, each with the option that selects it."""
    answers = {name: part.asked(asked) for name, part in PARTS.items()}
    return {n: o if isinstance(o, str) else PARTS[n].flags.split(",")[0] for n, o in answers.items() if o}


def check_parts(given: Mapping[str, str]) -> None:
    """Refuse parts that cannot be combined.

    Parameters
    ----------
    given : mapping of str to str
        Parts that there are, and the option that asks for each.

    Raises
    ------
    InputError
        Names both options.
    """
    for (one, other), why in PAIRS.items():
        if one in given and other in given:
            raise InputError(given[one], f"cannot be combined with {given[other]}: {why}")


def hooks_at(point: str, given: Mapping[str, Any]) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Yield the hooks of given parts at a hook point, each with the part's value."""
    for name, value in given.items():
        check_known(f"part {name!r}", name, PARTS, "unknown part")
        hook = PARTS[name].hook(point)
        if hook is not None:
            yield hook, value


def hooks_by_name(point: str, names: Iterable[str] | None = None) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the hooks at a hook point of all or of named parts, each with the part's name."""
    for name, part in PARTS.items():
        if (names is None or name in names) and (hook := part.hook(point)) is not None:
            yield name, hook


def all_hooks(point: str, names: Iterable[str] | None = None) -> Iterator[Callable[..., Any]]:
    """Yield the hooks that `hooks_by_name` yields, without the names."""
    return (hook for _, hook in hooks_by_name(point, names))
