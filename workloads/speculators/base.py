"""What every speculator says: which model it drafts with, if any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..model import ModelSpec
from ..registry import Registry


@dataclass(frozen=True, slots=True)
class Drafter:
    """What drafts tokens.

    Attributes
    ----------
    model : ModelSpec or None
        Runs once for every draft of a step; None if drafting is not on the devices.
    copies : int
        Stored models of that shape, which take turns.
    on_host : bool
        Whether the host drafts, from the tokens of the step before: then nothing is scheduled ahead.
    """

    model: ModelSpec | None
    copies: int = 1
    on_host: bool = False


Speculator = Callable[[ModelSpec, str], Drafter]
"""The model that verifies, and what stands between the name and the number of drafts."""

SPECULATORS: Registry[Speculator] = Registry("speculator", described=True, home=__package__)


def speculator(name: str) -> Callable[[Speculator], Speculator]:
    """Register a function as what drafts under a name.

    It raises `InputError` where the model cannot be drafted for that way.
    """
    return SPECULATORS.register(name)
