"""When replicas fail: at given times, or at random with a mean time between failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....workloads.errors import InputError
from ...limits import MIN_MTBF_S


@dataclass(frozen=True, slots=True)
class Faults:
    """Failures of replicas; a fault takes effect at the end of the step that it falls into."""

    at: tuple[tuple[int, float], ...] = ()  # replica and time [s] of single failures
    # mean time between failures of one replica, `limits.MIN_MTBF_S` or more; gaps are exponential.
    # None = none at random.
    mtbf_s: float | None = None
    repair_s: float = 0.0  # time until a failed replica, empty, takes requests again

    def __post_init__(self) -> None:
        for what, value in (("--mtbf", self.mtbf_s), ("--repair", self.repair_s)):
            if value is not None and not (value > 0 or (what == "--repair" and value == 0)):
                raise InputError(what, f"must be a positive number of seconds, not {value}")
        if self.mtbf_s is not None and self.mtbf_s < MIN_MTBF_S:
            raise InputError("--mtbf", f"must be at least {MIN_MTBF_S:g} seconds, not {self.mtbf_s}")
        for replica, time in self.at:
            if replica < 0 or not time >= 0:
                raise InputError("--fail", f"needs REPLICA@SECONDS, 0 or more, not {replica}@{time}")

    def times(self, replica: int, seed: int) -> Iterator[float]:
        """Failures of one replica in order of time [s]; endless where there is an `mtbf_s`."""
        given = sorted(time for own, time in self.at if own == replica)
        if self.mtbf_s is None:
            yield from given
            return
        rng = np.random.default_rng([seed, 0xFA, replica])
        now = 0.0
        while True:
            drawn = now + float(rng.exponential(self.mtbf_s))
            while given and given[0] <= drawn:
                yield given.pop(0)
            yield drawn
            now = drawn
