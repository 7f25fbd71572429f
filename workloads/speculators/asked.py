"""Speculation as it is asked for: ``METHOD[:MODEL]:K``, and how often drafts are accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from .base import SPECULATORS

OPTION, RATES = "--speculative", "--acceptance"
MOST_DRAFTS = 64
"""Drafts of a step at most; published settings are below 16."""


@dataclass(frozen=True, slots=True)
class DraftChoice:
    """One choice of who drafts how much.

    Attributes
    ----------
    method : str
        A name in `SPECULATORS`.
    argument : str
        What the method needs to know; mostly nothing.
    tokens : int
        Drafts a step, K; 0: none, plain decoding.
    """

    method: str
    argument: str
    tokens: int

    def __str__(self) -> str:
        return ":".join(filter(None, (self.method, self.argument, str(self.tokens))))


def read_asked(text: str) -> DraftChoice:
    """Read ``mtp:K``, ``eagle:K``, ``ngram:K`` or ``draft:MODEL:K``.

    Raises
    ------
    InputError
        Unknown method, or no number of drafts in [0, `MOST_DRAFTS`].

    Examples
    --------
    >>> read_asked("draft:llama-3-8b:3")
    DraftChoice(method='draft', argument='llama-3-8b', tokens=3)
    """
    method, colon, rest = text.partition(":")
    try:
        SPECULATORS[method]
    except InputError as error:
        raise InputError(f"{OPTION} {text!r}", error.reason) from None
    argument, _, number = rest.rpartition(":")
    if not colon or not (number.isascii() and number.isdigit()) or int(number) > MOST_DRAFTS:
        raise InputError(
            f"{OPTION} {text!r}",
            f"needs a number of drafts from 0 to {MOST_DRAFTS} at its end, such as "
            f"{'draft:MODEL:4' if method == 'draft' else f'{method}:2'}",
        )
    return DraftChoice(method, argument, int(number))


def read_rates(text: str) -> tuple[float, ...]:
    """Read chances of acceptance by position, such as ``0.8,0.6``.

    Raises
    ------
    InputError
        What is not a number from 0 to 1.
    """
    rates = []
    for cell in text.split(","):
        try:
            rate = float(cell)
        except ValueError:
            rate = math.nan
        if not 0.0 <= rate <= 1.0:
            raise InputError(
                f"{RATES} {text!r}", f"must be a comma-separated list of numbers from 0 to 1, not {cell.strip()!r}"
            )
        rates.append(rate)
    return tuple(rates)


def check_rates(asked: DraftChoice, rates: Sequence[float]) -> None:
    """Refuse another number of chances than there are drafts.

    Raises
    ------
    InputError
        Names both numbers.
    """
    if len(rates) != asked.tokens:
        raise InputError(
            RATES,
            f"has {len(rates)} value{'s' * (len(rates) != 1)} for the {asked.tokens} "
            f"draft{'s' * (asked.tokens != 1)} of {asked}: one for each position, the chance that "
            "it is accepted once those before it are",
        )


def expected_tokens(rates: Sequence[float]) -> float:
    """Mean tokens of a verification: one, and the products of the chances.

    Examples
    --------
    >>> expected_tokens([0.5, 0.5])
    1.75
    """
    total = reached = 1.0
    for rate in rates:
        reached *= rate
        total += reached
    return total
