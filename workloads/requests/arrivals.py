"""Arrival processes: independent gaps between requests, sampled block by block.

Rates that change over a day: a profile scales the gaps of any arrival process.

Gaps are sampled at the mean rate; a profile maps them to the time with equal expected arrivals (time-rescaling: Brown
and others, Neural Computation 14, 2002). So a Poisson process becomes one whose rate follows the profile, and burstier
ones keep their bursts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..csvfile import read_columns
from ..errors import InputError, typed_number
from ..registry import Registry
from .agents import check_order, times
from .block import Turns
from .options import MAX_CV, MIN_CV, check_real
from .rows import Rows
from .servegen import find_clients, window_rates

Gaps = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]
"""Function that samples n gaps between arrivals [s]."""

ARRIVALS: Registry[Callable[[float, float | None], Gaps]] = Registry("arrival process")


@ARRIVALS.register("poisson")
def poisson(rate: float, cv: float | None) -> Gaps:
    """Return exponential gaps with mean ``1 / rate``; refuse a coefficient of variation."""
    if cv is not None:
        raise InputError("--cv", "cannot be set for Poisson arrivals; use Gamma arrivals")
    return lambda rng, n: rng.standard_exponential(n) / rate


@ARRIVALS.register("gamma")
def gamma(rate: float, cv: float | None) -> Gaps:
    """Return gamma-distributed gaps with mean ``1 / rate`` and coefficient of variation `cv` (1 is Poisson)."""
    if cv is None:
        raise InputError("--cv", "is needed for Gamma arrivals: 1 is Poisson, larger values are burstier")
    shape = check_real(cv, "--cv", MIN_CV, MAX_CV) ** -2
    return lambda rng, n: rng.standard_gamma(shape, n) / (rate * shape)


def with_arrivals(batches: Iterable[Rows], gaps: Gaps, rng: np.random.Generator) -> Iterator[Rows]:
    """Replace the arrival times of rows: the first request arrives at 0, each other one after a gap.

    Only the first requests of sessions have gaps; the others arrive no earlier than their predecessors. The sum runs in
    order from the last arrival, so that the result is bit-identical for any batching of rows.
    """
    now = latest = 0.0
    done = 0
    for rows in batches:
        if rows.turns is not None:
            first = _first(rows.turns, done)
            done += len(rows)
            edges = np.cumsum(np.concatenate([[now], gaps(rng, int(first.sum()))]))
            now = float(edges[-1])
            times = np.concatenate([[latest], edges[:-1]])[np.cumsum(first)]
            latest = float(times[-1])
            yield replace(rows, arrival_s=times)
            continue
        edges = np.cumsum(np.concatenate([[now], gaps(rng, len(rows))]))
        now = float(edges[-1])
        yield replace(rows, arrival_s=edges[:-1])


def _first(turns: Turns, done: int) -> npt.NDArray[np.bool_]:
    """Return which rows are the first of their session or task; `done` is the number of earlier rows."""
    if turns.task is None:
        return turns.follows < 0
    first: npt.NDArray[np.bool_] = turns.task == np.arange(done, done + len(turns.task))
    return first


F8 = npt.NDArray[np.float64]

OPTION = "--rate-profile"
COLUMNS = ("start_s", "rate")
DIURNAL, DAY_S, STEPS = "diurnal", 86_400.0, 1_440
"""Name of the sine profile, its default period [s], and its number of steps per period."""
LEAST_S, LEAST_RATE = 1e-3, 1e-9
"""Minimum length of a step and of a period [s], and of the highest rate; smaller products may be 0."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A periodic arrival rate, constant in each of its steps, with a mean of 1.

    Attributes
    ----------
    starts_s, rates : float64 array, shape (n,)
        Starts [s] and rates of the steps in which anything arrives.
    done_s : float64 array, shape (n,)
        What is expected before each step, as seconds at the mean rate.
    """

    starts_s: F8
    rates: F8
    done_s: F8
    period_s: float

    @classmethod
    def of(cls, starts_s: F8, rates: F8, period_s: float) -> Profile:
        """Return a profile from steps that start at 0; rates are in any unit, and at least one is above 0."""
        lengths = np.diff(starts_s, append=period_s)
        rates = rates * (period_s / float((rates * lengths).sum()))
        busy = rates > 0
        work = np.cumsum(rates[busy] * lengths[busy])
        return cls(starts_s[busy], rates[busy], np.concatenate([[0.0], work[:-1]]), period_s)

    def at(self, work_s: F8) -> F8:
        """Return the time at which the profile expects as many arrivals as `work_s` seconds at the mean rate [s]."""
        turns, rest = np.divmod(work_s, self.period_s)
        step = np.searchsorted(self.done_s, rest, side="right") - 1
        inside = (rest - self.done_s[step]) / self.rates[step]
        arrival_s: F8 = turns * self.period_s + self.starts_s[step] + inside
        return arrival_s


def profile_of(text: str) -> Profile:
    """Return a profile by its name: ``diurnal:DEPTH[:PERIOD_S]``, a CSV of steps, or ServeGen clients.

    Raises
    ------
    InputError
        If the text is neither, or nothing ever arrives.
    """
    if text.partition(":")[0] == DIURNAL:
        return _diurnal(text)
    path = Path(text)
    clients = find_clients(path) if not path.is_file() else []
    if clients:
        starts, rates, period = window_rates(clients)
    elif path.is_file():
        starts, rates, period = _steps(path)
    else:
        reason = f"must be {DIURNAL}:DEPTH, a CSV with {', '.join(COLUMNS)}, or ServeGen clients, not "
        raise InputError(OPTION, f"{reason}{text!r}")
    if not (rates > LEAST_RATE).any():
        raise InputError(path, f"has no rate above {LEAST_RATE:g}")
    return Profile.of(starts, rates, period)


def _diurnal(text: str) -> Profile:
    """Return a sine wave per period, lowest at its ends: from 1 - DEPTH to 1 + DEPTH times the mean."""
    _, _, numbers = text.partition(":")
    depth_text, colon, period_text = numbers.partition(":")
    depth, period = typed_number(depth_text), typed_number(period_text) if colon else DAY_S
    if not (0 <= depth <= 1 and LEAST_S <= period <= 1e9):
        raise InputError(
            OPTION, f"{DIURNAL} needs a depth from 0 to 1, and a period of {LEAST_S:g} s or more if any, such as "
            f"{DIURNAL}:0.6 or {DIURNAL}:0.6:3600, not {text!r}",
        )  # fmt: skip
    edges = np.linspace(0.0, 1.0, STEPS + 1)
    done = edges - depth * np.sin(2 * np.pi * edges) / (2 * np.pi)  # so that steps hold what the wave does
    return Profile.of(edges[:-1] * period, np.maximum(np.diff(done), 0.0), period)


def _steps(path: Path) -> tuple[F8, F8, float]:
    """Read the steps of a file; the last one is as long as the one before it."""
    parts: list[tuple[F8, F8]] = []
    last = -np.inf
    for start, rate in read_columns(path, COLUMNS):
        begin = times(start)
        last = check_order(start, begin, last)
        parts.append((begin, times(rate)))
    starts, rates = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    if len(starts) < 2 or (np.diff(starts) < LEAST_S).any():
        raise InputError(path, f"needs two steps or more, each starting {LEAST_S:g} s or more after the one before")
    starts = starts - starts[0]
    return starts, rates, float(2 * starts[-1] - starts[-2])


def warped(batches: Iterable[Rows], profile: Profile) -> Iterator[Rows]:
    """Change arrivals at a constant mean rate such that they follow a profile."""
    for rows in batches:
        yield replace(rows, arrival_s=profile.at(rows.arrival_s))
