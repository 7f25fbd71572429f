"""A cache of experts, one access or one step at a time: the readable form of what simulations compile."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import inf

import numpy as np

from ....workloads.errors import InputError
from .policies import CACHE_POLICIES, Entry


@dataclass(frozen=True, slots=True)
class StepFetch:
    """Counts of one step's expert caches, over all devices and layers.

    Attributes
    ----------
    needed, hits, misses, ahead : float
        Experts that devices needed, that were there, that were fetched when they were needed, and before.
    bytes : float
        Fetched [B].
    link_s : float
        Seconds that the busiest link of each layer was busy.
    waited_s : float
        Seconds that layers waited.
    """

    needed: float = 0.0
    hits: float = 0.0
    misses: float = 0.0
    ahead: float = 0.0
    bytes: float = 0.0
    link_s: float = 0.0
    waited_s: float = 0.0

    def __add__(self, other: StepFetch) -> StepFetch:
        return StepFetch(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def over(self, steps: int) -> StepFetch:
        """Return the mean over a number of summed steps."""
        return StepFetch(*(value / steps for value in astuple(self)))

    @property
    def hit_rate(self) -> float:
        """Return the share of needed experts that were in the cache."""
        return self.hits / self.needed if self.needed else 1.0


Chances = Callable[[int, Sequence[int]], Sequence[float]]
"""Function from the clock and the cached experts, in order, to a number from 0 to 1 for each."""


@dataclass(slots=True)
class _Life:
    """Times at which an expert was loaded and last used, by the cache's clock, and its number of uses."""

    loaded: int = 0
    used: int = 0
    uses: int = 0


def one_of(clock: int, experts: Sequence[int]) -> list[float]:
    """Choose one of the experts by the clock: it has the lowest number."""
    chosen = int(np.random.default_rng(clock).integers(len(experts)))
    return [0.0 if i == chosen else 1.0 for i in range(len(experts))]


@dataclass(frozen=True, slots=True)
class Touched:
    """Experts of one step in a cache: hits, misses and prefetched experts.

    Attributes
    ----------
    hits, misses : tuple of int
        Experts that were there when the step came to them, and that had to be fetched then, in order.
    fetched : tuple of int
        Experts that were fetched before the step, because a predictor named them, in order.
    """

    hits: tuple[int, ...]
    misses: tuple[int, ...]
    fetched: tuple[int, ...] = ()


class ExpertCache:
    """Cache of up to `size` experts; a miss loads an expert and evicts another.

    Parameters
    ----------
    size : int
        Slots; without any, everything is a miss.
    policy : str
        A name of `CACHE_POLICIES`.
    chances : callable
        Samples for policies that use them.
    experts : iterable of int
        What it holds at first.
    staging : bool
        Whether there is a buffer besides, from which an expert can be used without taking a slot: a policy that looks
        ahead then lets one pass that is used again later than all others. Without it what was fetched last has a slot.

    Raises
    ------
    InputError
        A negative size or an unknown policy.
    """

    def __init__(
        self, size: int, policy: str = "lru", chances: Chances = one_of,
        experts: Iterable[int] = (), staging: bool = False,
    ) -> None:  # fmt: skip
        if size < 0:
            raise InputError("cache.experts", f"must be 0 or more, not {size}")
        self.size, self._policy, self._chances = size, CACHE_POLICIES[policy], chances
        self._entries: dict[int, _Life] = {expert: _Life() for expert in experts}
        self._clock, self._passing = 0, staging and self._policy.looks_ahead
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, expert: object) -> bool:
        return expert in self._entries

    def ask(self, expert: int) -> bool:
        """Use one expert and return whether it was cached; afterwards it is, if the cache has slots."""
        return bool(self.touch((expert,)).hits)

    def touch(
        self, needed: Collection[int], next_use: Mapping[int, float] | None = None, named: Collection[int] = ()
    ) -> Touched:
        """Ask for all experts of a step.

        What the predictor names is fetched first, as far as there are slots. Experts that are there
        are used before those that have to be fetched; of the latter, the one that is used again last
        comes first, so that it can make room for the others.

        Parameters
        ----------
        needed : collection of int
            Experts that the step uses.
        next_use : mapping of int to float, optional
            When experts are used again after this step; those that are not in it, never.
        named : collection of int
            Experts that a predictor names for this step.
        """
        ahead = {} if next_use is None else next_use
        fetched = self._prefetch(sorted(named), ahead)
        hits = tuple(e for e in sorted(needed) if e in self._entries)
        for expert in hits:
            self._use(expert)
        lacking = [e for e in needed if e not in self._entries]
        misses = tuple(sorted(lacking, key=lambda e: (-ahead.get(e, inf), e)))
        for expert in misses:
            self._load(expert, ahead, named, ())
            self._use(expert, came=True)
        self.hits += len(hits)
        self.misses += len(misses)
        if not self._policy.keeps:
            self.clear()
        return Touched(hits, misses, fetched)

    def _prefetch(self, named: Sequence[int], ahead: Mapping[int, float]) -> tuple[int, ...]:
        """Fetch named experts that are absent, up to the slots that other named experts do not use."""
        room = self.size - sum(e in self._entries for e in named)
        coming = [e for e in named if e not in self._entries][:room]
        for expert in coming:
            self._load(expert, ahead, named, named)
        return tuple(coming)

    def _use(self, expert: int, came: bool = False) -> None:
        """Count a use; the first use of a loaded expert is part of its load."""
        self._clock += not came
        if expert in self._entries:
            self._entries[expert].used = self._clock
            self._entries[expert].uses += 1

    def _load(self, expert: int, ahead: Mapping[int, float], named: Collection[int], spared: Collection[int]) -> None:
        self._clock += 1
        if not self.size:
            return
        if len(self._entries) == self.size:
            experts = [e for e in sorted(self._entries) if e not in spared]
            keys = self._keys(experts, ahead, named)
            key, leaving = min(zip(keys, experts, strict=True))
            if self._passing and self._score(expert, ahead, named, 1.0) < key[0]:
                return
            del self._entries[leaving]
        self._entries[expert] = _Life(self._clock, self._clock)

    def _keys(
        self, experts: Sequence[int], ahead: Mapping[int, float], named: Collection[int]
    ) -> list[tuple[float, int]]:
        """Return the eviction keys of experts: the lowest score is evicted, among equal ones the least recently used."""
        chances = dict.fromkeys(experts, 0.0)
        if self._policy.drawn:
            keys = sorted(self._entries)
            chances = dict(zip(keys, self._chances(self._clock, keys), strict=True))
        return [(self._score(e, ahead, named, chances[e]), self._entries[e].used) for e in experts]

    def _score(self, expert: int, ahead: Mapping[int, float], named: Collection[int], chance: float) -> float:
        """Return the policy's score of an expert; an uncached expert counts as just loaded."""
        life = self._entries.get(expert) or _Life(self._clock, self._clock)
        entry = Entry(life.loaded, life.used, life.uses, ahead.get(expert, inf), expert in named, chance)
        return self._policy.score(entry)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
