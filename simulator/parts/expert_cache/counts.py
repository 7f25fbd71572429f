"""What a step asked of its expert caches, counted."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class StepFetch:
    """What one step asked of its caches, all devices and layers together.

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
        """The mean of as many steps as were added up."""
        return StepFetch(*(value / steps for value in astuple(self)))

    @property
    def hit_rate(self) -> float:
        """Share of the experts needed that were there."""
        return self.hits / self.needed if self.needed else 1.0
