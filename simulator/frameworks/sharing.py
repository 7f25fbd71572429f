"""Settings of expert parallelism in an engine's file, as options of a deployment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ...workloads.errors import InputError, SpecError, nearest

if TYPE_CHECKING:
    from .keys import Keys

PLACED_ONCE = "experts are placed once, by the long-run loads of --routing, and are not moved during a run"
"""Reason why the frequency of the engine's rebalancing has no effect in a simulation."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Options of `scenario.options.DeployOptions`; what a file does not say is None.

    Attributes
    ----------
    all_to_all, overlap, expert_placement, redundant_experts, expert_dispatch
        As the options of these names.
    keys : tuple of (str, str)
        Flag of each one and the key of the file that says it.
    """

    all_to_all: str | None = None
    overlap: str | None = None
    expert_placement: str | None = None
    redundant_experts: int | None = None
    expert_dispatch: str | None = None
    keys: tuple[tuple[str, str], ...] = ()

    def blamed(self, error: InputError, given: Collection[str]) -> InputError:
        """Return an error about an option, renamed to the key of the file that set it.

        Parameters
        ----------
        given : collection of str
            Flags that were given as options too, whose errors are theirs.
        """
        flag, _, rest = str(error.subject).partition(" ")
        key = dict(self.keys).get(flag)
        if key is None or flag in given:
            return error
        return type(error)(f"{key} ({flag}{' ' * bool(rest)}{rest})", error.reason)


NOTHING = Sharing()
SHARING = tuple(field.name for field in fields(Sharing) if field.name != "keys")
"""Names of the options in `Sharing`."""


def without_effect(keys: Keys, names: Mapping[str, str] | Collection[str], why: str) -> list[str]:
    """Return warnings about given keys that have no effect."""
    return [
        f"{keys.path}: {keys.prefix}{name} has no effect: {why}" for name in names if keys.values.get(name) is not None
    ]


def not_simulated(keys: Keys, why: Mapping[str, str]) -> list[str]:
    """Return warnings about given keys that are not simulated exactly as the engine implements them."""
    return [
        f"{keys.path}: {keys.prefix}{name}: {text}" for name, text in why.items() if keys.values.get(name) is not None
    ]


def refuse_unknown(keys: Keys, known: Collection[str]) -> None:
    """Refuse keys of an object that the engine refuses too.

    Raises
    ------
    SpecError
    """
    for key in keys.values:
        if key not in known:
            raise SpecError(keys.path, f"{keys.prefix}{key}: unknown key{nearest(key, list(known))}")


def refuse_old(keys: Keys, old: Mapping[str, str]) -> None:
    """Refuse keys of earlier engine versions, naming the present keys.

    Raises
    ------
    SpecError
    """
    for key, now in old.items():
        if keys.values.get(key) is not None:
            raise SpecError(keys.path, f"{key}: has been renamed; use {now}")


def needs(keys: Keys, key: str, other: str) -> SpecError:
    """Return the error that a key needs another key."""
    return SpecError(keys.path, f"{keys.prefix}{key}: needs {other}")


def named(path: Any, said: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the value of `Sharing.keys` for a file."""
    return tuple((flag, f"{path}: {key}") for flag, key in said.items())
