"""When replicas fail: at given times, or at random with a mean time between failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        given = sorted(time for failing, time in self.at if failing == replica)
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


def parse_faults(fail: Sequence[str] = (), mtbf: float | None = None, repair: float | None = None) -> Faults | None:
    """Failures as they are typed; None where none are.

    Raises
    ------
    InputError
        A value out of its range, or a failure that is not written REPLICA@SECONDS.
    """
    if repair is not None and mtbf is None and not fail:
        raise InputError("--repair", "needs failures: --mtbf or --fail")
    return Faults(tuple(map(_failure, fail)), mtbf, repair or 0.0) if fail or mtbf is not None else None


def _failure(text: str) -> tuple[int, float]:
    replica, at, seconds = text.partition("@")
    try:
        if "_" in text:  # Python reads 1_0 as 10; no other option does
            raise ValueError
        return int(replica), float(seconds if at else "")
    except ValueError:
        reason = f"must be REPLICA@SECONDS, for example 0@12.5, not {text!r}"
        raise InputError("--fail", reason) from None
