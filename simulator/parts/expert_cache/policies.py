"""Cache policies: which expert leaves when another needs its slot.

A policy is one function of numbers that scores an entry: the lowest score leaves, of equal ones the entry that was not
used for longest. `cache.ExpertCache` calls it as it stands, simulations call it compiled (`fetch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ....workloads.errors import InputError
from ....workloads.registry import Registry, first_line


class Entry(NamedTuple):
    """What a policy may know of an expert in the cache.

    Attributes
    ----------
    loaded, used : int
        Clock (accesses so far) when it came and when it was last asked for.
    uses : int
        How often it was asked for since it came.
    next_use : float
        Accesses or steps until it is asked for again; infinite beyond what is known.
    named : bool
        Whether the predictor names it for the step that runs.
    chance : float
        A number from 0 to 1, sampled for this entry and time.
    """

    loaded: int
    used: int
    uses: int
    next_use: float
    named: bool
    chance: float


Score = Callable[[Entry], float]


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """A policy as registered.

    Attributes
    ----------
    score : callable
        Score of an entry; the lowest leaves.
    looks_ahead : bool
        Whether it uses the next use of entries, which the cache must then provide.
    predicts : bool
        Whether it is of no use without a predictor.
    drawn : bool
        Whether it asks for `Entry.chance`.
    keeps : bool
        Whether entries outlast the step that used them.
    """

    score: Score
    looks_ahead: bool = False
    predicts: bool = False
    drawn: bool = False
    keeps: bool = True


CACHE_POLICIES: Registry[CachePolicy] = Registry("cache policy")
S = TypeVar("S", bound=Score)


def cache_policy(
    name: str, *, looks_ahead: bool = False, predicts: bool = False, drawn: bool = False, keeps: bool = True
) -> Callable[[S], S]:
    """Register a function that scores entries, by a name; see `CachePolicy`.

    Raises
    ------
    InputError
        The name is taken, or the function has no docstring to list it by.
    """

    def add(score: S) -> S:
        if not (title := first_line(score)):
            raise InputError(f"cache policy {name!r}", "needs a docstring that describes it")
        policy = CachePolicy(score, looks_ahead, predicts, drawn, keeps)
        CACHE_POLICIES.register(name, title)(policy)
        return score

    return add


@cache_policy("lru")
def lru(entry: Entry) -> float:
    """The one not used for longest leaves."""
    return float(entry.used)


@cache_policy("fifo")
def fifo(entry: Entry) -> float:
    """The one loaded first leaves."""
    return float(entry.loaded)


@cache_policy("lfu")
def lfu(entry: Entry) -> float:
    """The one used least often since it was loaded leaves."""
    return float(entry.uses)


@cache_policy("random", drawn=True)
def random(entry: Entry) -> float:
    """Any of them leaves."""
    return entry.chance


@cache_policy("belady", looks_ahead=True)
def belady(entry: Entry) -> float:
    """The one used again last leaves, as far as the look-ahead knows (belady:STEPS)."""
    return -entry.next_use


@cache_policy("predictive", predicts=True)
def predictive(entry: Entry) -> float:
    """One that the predictor does not name leaves, the one not used for longest."""
    return 1.0 if entry.named else 0.0


@cache_policy("transient", predicts=True, keeps=False)
def transient(entry: Entry) -> float:
    """Predicted experts are fetched, and leave when their step ends (ExpertFlow's slots)."""
    return 1.0 if entry.named else 0.0


BUILT_IN = CACHE_POLICIES.names()
"""Policies of the library; those from outside come after them."""
