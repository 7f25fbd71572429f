"""Log of an engine's work over a run: tokens, busy time and energy as running totals over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ...devices.power.board import Board
from .state import F8, NUM_LOG, LogColumn

Total = IntEnum("Total", "EMITTED PROMPT JOULES BUSY STEPPING", start=0)
NUM_TOTALS = 5
"""Columns of running totals: tokens emitted, prompt tokens computed, energy of the work [J], busy device-seconds, and
seconds in steps (each of several concurrent batches counts in full)."""

AT_ONCE, LEAST_AT_ONCE = 2048, 128
"""Number of log entries that are processed together, and its minimum for engines of a large fleet; each call has overhead."""
MOST_ROWS, ALL_ROWS, LEAST_ROWS = 1 << 15, 1 << 20, 1 << 8
"""Most log entries of one engine, of all engines of a run together, and the least limit of one engine.

Above the limit adjacent entries are merged, so memory is bounded. Totals stay exact at the ends that remain.
"""


@dataclass(slots=True)
class WorkLog:
    """Running totals of one engine, at the ends of its log entries."""

    # Power model of the devices. Each log entry stays below the board's power limit; its steps last about as long
    # as the averaging time of a board's controller (see `devices.power.board`).
    board: Board
    # Number of devices, if one device can run several ops at once: the busy time of an entry is limited to its duration
    # on all devices.
    devices: float | None = None
    among: int = 1  # engines that share `ALL_ROWS` entries
    _rows: list[F8] = field(default_factory=list)  # each [n, 2 + NUM_TOTALS]: start, end, totals
    _kept: int = 0  # rows in `_rows`
    _nominal: float = 0.0  # energy at the nominal clock up to the latest entry [J]
    _totals: F8 = field(default_factory=lambda: np.zeros(NUM_TOTALS))
    _noted: list[F8] = field(default_factory=list)  # queued logs
    _waiting: int = 0  # rows in the queued logs

    def note(self, log: F8) -> None:
        """Queue the entries of `State.log` for processing; the queue is shorter in a large fleet."""
        self._noted.append(log.copy())
        self._waiting += len(log)
        if self._waiting >= max(min(AT_ONCE, ALL_ROWS // self.among), LEAST_AT_ONCE):
            self._settle()

    def _settle(self) -> None:
        # Process the queued logs. The queue is emptied first, because `add` calls this function too.
        noted, self._noted, self._waiting = self._noted, [], 0
        if noted:
            self.add(np.concatenate(noted))

    def add(self, log: F8) -> F8:
        """Process log entries now; return the energy of each entry's work [J].

        Entries are added one by one, so the totals do not depend on how many are processed together.
        """
        self._settle()
        busy_s = log[:, NUM_LOG:].sum(axis=1)
        if self.devices is not None:
            busy_s = np.minimum(busy_s, self.devices * (log[:, LogColumn.END] - log[:, LogColumn.START]))
        spent = log[:, LogColumn.JOULES].copy()
        spent[1:] -= log[:-1, LogColumn.JOULES]
        spent[0] -= self._nominal
        self._nominal = float(log[-1, LogColumn.JOULES])
        joules = self.board.held_joules(np.maximum(spent, 0.0), busy_s)
        rows = np.empty((len(log), 2 + NUM_TOTALS))
        rows[:, 0], rows[:, 1] = log[:, LogColumn.START], log[:, LogColumn.END]
        rows[:, 2 + Total.EMITTED] = log[:, LogColumn.EMITTED]
        columns = log[:, LogColumn.PREFILL], joules, busy_s, log[:, LogColumn.END] - log[:, LogColumn.START]
        for at, each in zip((Total.PROMPT, Total.JOULES, Total.BUSY, Total.STEPPING), columns, strict=True):
            rows[:, 2 + at] = np.cumsum(np.append(self._totals[at], each))[1:]
        self._totals = rows[-1, 2:]
        self._rows.append(rows)
        self._kept += len(rows)
        if self._kept > max(min(MOST_ROWS, ALL_ROWS // self.among), LEAST_ROWS):
            self._join()
        return joules

    def taken(self, log: F8, keep: bool) -> F8 | None:
        """Process log entries and return them with their energy if the log is kept; else queue them and return None."""
        if not keep:
            self.note(log)
            return None
        entries = log.copy()
        entries[:, LogColumn.JOULES] = self.add(log)
        return entries

    def _join(self) -> None:
        """Merge each log entry with the next one."""
        rows = np.concatenate(self._rows)
        pairs = len(rows) // 2
        joined = rows[1 : 2 * pairs : 2].copy()
        joined[:, 0] = rows[0 : 2 * pairs : 2, 0]
        self._rows, self._kept = [joined, rows[2 * pairs :]], len(rows) - pairs

    @property
    def end_s(self) -> float:
        """Return the end of the latest step [s]; with several batches in flight it need not be the last entry."""
        self._settle()
        return max((float(rows[:, 1].max()) for rows in self._rows[-2:] if len(rows)), default=0.0)

    @property
    def joules(self) -> float:
        """Return the energy of all work so far [J]."""
        self._settle()
        return float(self._totals[Total.JOULES])

    def curve(self, now: float, emitted: int) -> tuple[F8, F8]:
        """Return times [s] and the running totals at them, both rising; `emitted` tokens were emitted by `now`."""
        self._settle()
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 2 + NUM_TOTALS))
        # Batches of a pipeline overlap: the work done by a time is the maximum over all rows until then.
        before = np.concatenate([np.zeros((1, NUM_TOTALS)), rows[:-1, 2:]])[: len(rows)]
        times = np.stack([rows[:, 0], rows[:, 1]], axis=1).ravel()
        totals = np.stack([before, rows[:, 2:]], axis=1).reshape(-1, NUM_TOTALS)
        last = self._totals.copy()
        last[Total.EMITTED] = emitted
        times, totals = np.append(times, max(now, 0.0)), np.vstack([totals, last])
        order = np.argsort(times, kind="stable")
        return times[order], np.maximum.accumulate(totals[order], axis=0)


def totals_at(curves: list[tuple[F8, F8]], times: npt.ArrayLike) -> F8:
    """Return the totals of all engines at some times, interpolated within each log entry.

    Parameters
    ----------
    curves : list of (float64 array, float64 array)
        See `WorkLog.curve`.
    times : array_like, shape (n,)
        Times [s].

    Returns
    -------
    float64 array, shape (n, NUM_TOTALS)
    """
    at = np.asarray(times, dtype=np.float64)
    out = np.zeros((len(at), NUM_TOTALS))
    for knots, totals in curves:
        for k in range(NUM_TOTALS):
            out[:, k] += np.interp(at, knots, totals[:, k], left=0.0)
    return out
