"""User-defined parts of an engine: a function with `@part` decides which prompts wait longer.

The planner calls the compiled function for the prompt at the head of the queue, but only while another request runs. So
the engine always makes progress. The prompts behind the delayed one wait too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from numba import types

from ...workloads.errors import InputError, check_known, nearest, typed_number
from ...workloads.jit import compiled_from_outside
from ...workloads.registry import Registry, first_line
from ..part import Combination, Part
from ..registry import PARTS
from ..registry import add as add_part

OPTION = "--part"
OWN_SCHEDULERS = "its scheduler has its own admission rules"


class WaitingPrompt(NamedTuple):
    """State of the prompt at the head of the queue, and of the engine as of the step in flight."""

    tokens: int  # prompt tokens to compute, before the prefix cache is looked up
    waited_s: float  # time since its arrival
    running: int  # running requests
    decoding: int  # running requests that have their first token
    slowest_s: float  # largest mean TPOT of a decode so far; 0 if none has two tokens
    own: tuple[float, ...]  # values of the part's options, in order


Waits = Callable[[WaitingPrompt], bool]
OUTSIDE: Registry[tuple[Waits, dict[str, float]]] = Registry("part")
"""Registered functions of user-defined parts, with the default values of their options."""


def part(
    name: str, *, options: Mapping[str, float], cannot: Mapping[str, str] | None = None
) -> Callable[[Waits], Waits]:
    """Return a decorator that registers a function as part `name`; the function returns whether a prompt waits longer.

    Parameters
    ----------
    options : mapping of str to float
        Default values, keyed by option.
    cannot : mapping of str to str
        Physical reasons, keyed by the part that it cannot be combined with (a name in `opbyte list parts`).

    Raises
    ------
    InputError
        If the name is taken, the function has no docstring, or `cannot` names an unknown part.
    """

    def add(waits: Waits) -> Waits:
        where = f"part {name!r}"
        if not (title := first_line(waits)):
            raise InputError(where, "needs a docstring, which says what it is")
        if name in PARTS:
            raise InputError(where, "is registered twice")
        reasons = {"sglang": OWN_SCHEDULERS, "tensorrt-llm": OWN_SCHEDULERS, **(cannot or {})}
        for other in reasons:
            check_known(where, other, PARTS, f"cannot be combined with {other!r}: unknown")
        OUTSIDE.register(name, title)((waits, dict(options)))
        option = f"{OPTION} {name}"

        def asked(a: Combination) -> str:
            return option if a.policy and a.policy.part and a.policy.part.name == name else ""

        add_part(Part(name, option, title, cannot=reasons, asked=asked))
        return waits

    return add


@dataclass(frozen=True, slots=True)
class AskedPart:
    """A user-defined part that a run has selected, with its options."""

    name: str
    own: tuple[float, ...]

    @property
    def option(self) -> str:
        """Return the command-line option that selects the part."""
        return f"{OPTION} {self.name}"

    @property
    def compiled(self) -> Any:
        """Return the part's compiled function; refuse a function that cannot be compiled."""
        tuple_of: Any = types.UniTuple  # its stubs lack types
        fields = (types.int64, types.float64, types.int64, types.int64, types.float64)
        own_type = tuple_of(types.float64, len(self.own))
        waits, _ = OUTSIDE[self.name]
        return compiled_from_outside(waits, WaitingPrompt, (*fields, own_type), self.option)


def read_part(text: str) -> AskedPart:
    """Parse ``NAME`` or ``NAME:KEY=NUMBER,...``; refuse unknown names and values that are not numbers."""
    name, _, rest = text.partition(":")
    where = f"{OPTION} {text!r}"
    if name not in OUTSIDE:
        raise InputError(where, f"unknown part{nearest(name, OUTSIDE)}; docs/extending.md adds one")
    options = dict(OUTSIDE[name][1])
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        check_known(where, key, options, f"unknown option {key!r}")
        options[key] = typed_number(value)
        if math.isnan(options[key]):
            raise InputError(where, f"{key} must be a number, not {value!r}")
    return AskedPart(name, tuple(options.values()))
