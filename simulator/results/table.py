"""Table of the requests of a run: their lengths and arrivals, and their progress so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...workloads.pages import PAGE_ROWS, give_back, new_rows, runs
from ...workloads.requests import PREFIX_BLOCK_TOKENS, RequestBlock, Turns
from ...workloads.requests.block import Labels, joined_acceptance
from ..engine.engine import Engine
from ..engine.state import F8, I8
from .record import Requests
from .steady import Stamps

WHOLE = ("id", "input_tokens", "output_tokens", "generated", "preemptions", "order")
REAL = ("arrival_s", "scheduled_s", "first_s", "last_s")
CHAIN = ("follows", "session")


def _none() -> I8:
    return np.zeros(0, dtype=np.int64)


AT_ONCE = 1 << 16
"""Number of requests whose columns `RequestTable.take_over_all` copies at once."""


@dataclass(slots=True)
class RequestTable:
    """Requests in the order of their stream, a row each; columns have spare rows behind `count`."""

    count: int = 0  # requests read from the stream
    held: I8 = field(default_factory=_none)  # rows that have not been let go, of each page of a column
    id: I8 = field(default_factory=_none)
    input_tokens: I8 = field(default_factory=_none)
    output_tokens: I8 = field(default_factory=_none)
    # tokens that have come, on all engines together, and times it was preempted
    generated: I8 = field(default_factory=_none)
    preemptions: I8 = field(default_factory=_none)
    # place among the completions of the engine that it ended on; -1 before
    order: I8 = field(default_factory=_none)
    # times [s], NaN until they happen; of a closed loop or session, the arrival when it is known
    arrival_s: F8 = field(default_factory=lambda: np.zeros(0))
    scheduled_s: F8 = field(default_factory=lambda: np.zeros(0))
    first_s: F8 = field(default_factory=lambda: np.zeros(0))
    last_s: F8 = field(default_factory=lambda: np.zeros(0))
    # see `Turns`; empty without sessions, `task` also where no request waits for several
    follows: I8 = field(default_factory=_none)
    session: I8 = field(default_factory=_none)
    think_s: F8 = field(default_factory=lambda: np.zeros(0))
    task: I8 = field(default_factory=_none)
    # what each request waits for, where some may wait for several
    after: list[tuple[int, ...]] = field(default_factory=list)
    # content of prompts' blocks; empty where none is told
    hash_ids: list[tuple[int, ...]] = field(default_factory=list)
    hash_tokens: int = PREFIX_BLOCK_TOKENS  # tokens behind each of them
    shared_tokens: int | None = None  # that they cover, see `RequestBlock`
    # chance that a draft is accepted, NaN where nobody says; empty where no request says
    acceptance: F8 = field(default_factory=lambda: np.zeros(0))
    labels: Labels | None = None  # class, priority and tenant of each
    refused: list[int] = field(default_factory=list)  # rows that were turned away

    def append(self, block: RequestBlock) -> range:
        """Append requests to the table; return their rows."""
        first, last = self.count, self.count + len(block)
        turns, new = block.turns, slice(first, last)
        names = [*WHOLE, *REAL, *((*CHAIN, "think_s") if turns is not None else ())]
        if turns is not None and turns.task is not None:
            names.append("task")
        if last > len(self.id):  # doubled: appending is linear, and spare rows are not written
            size = -(-max(last, 2 * len(self.id), 1024) // PAGE_ROWS) * PAGE_ROWS
            # Of one piece: many small ones, let go, leave holes that nothing fills.
            room = new_rows((len(names), size), np.int64, not self.held.all())
            for name, row in zip(names, room, strict=True):
                column = getattr(self, name)
                grown = row.view(column.dtype)
                for begin, end in runs(self.held > 0):
                    rows = slice(begin * PAGE_ROWS, min(end * PAGE_ROWS, first))
                    grown[rows] = column[rows]
                setattr(self, name, grown)
            more = size // PAGE_ROWS - len(self.held)
            self.held = np.concatenate([self.held, np.full(more, PAGE_ROWS)])
        self.id[new], self.arrival_s[new] = block.request_id, block.arrival_s
        self.input_tokens[new], self.output_tokens[new] = block.input_tokens, block.output_tokens
        self.generated[new] = self.preemptions[new] = 0
        self.order[new] = -1
        self.scheduled_s[new] = self.first_s[new] = self.last_s[new] = np.nan
        if turns is not None:
            self.follows[new], self.session[new] = turns.follows, turns.session
            self.think_s[new] = turns.think_s
            if turns.task is not None and turns.after is not None:
                self.task[new] = turns.task
                self.after.extend(turns.after)
        if block.acceptance is not None or len(self.acceptance):
            rates = self.acceptance if len(self.acceptance) else None
            joined = joined_acceptance([(rates, first), (block.acceptance, len(block))])
            assert joined is not None
            self.acceptance = joined
        if block.labels is not None:
            self.labels = Labels.joined([self.labels, block.labels] if first else [block.labels])
        if block.hash_ids is not None:
            self.hash_ids.extend(block.hash_ids)
            self.hash_tokens, self.shared_tokens = block.hash_tokens, block.shared_tokens
        self.count = last
        return range(first, last)

    def trimmed(self) -> RequestTable:
        """Return the table without spare rows, so that several can be put together."""
        columns: dict[str, Any] = {name: getattr(self, name)[: self.count] for name in (*WHOLE, *REAL)}
        return RequestTable(self.count, **columns)

    @classmethod
    def joined(cls, parts: Sequence[RequestTable]) -> RequestTable:
        """Return one table with the requests of several groups of a fleet, sorted by request id."""
        rows = np.argsort(np.concatenate([part.id for part in parts]))
        columns: dict[str, Any] = {
            n: np.concatenate([getattr(part, n) for part in parts])[rows] for n in (*WHOLE, *REAL)
        }
        return cls(len(rows), **columns)

    def single(self, row: int, arrival_s: float, output_tokens: int) -> RequestBlock:
        """Return one request as a block for an engine, with its own arrival and length there."""
        one = slice(row, row + 1)
        turns = None
        if len(self.follows):
            turns = Turns(self.follows[one], self.session[one], self.think_s[one])
        return RequestBlock(
            self.id[one], np.array([arrival_s]), self.input_tokens[one], np.array([output_tokens]),
            (self.hash_ids[row],) if self.hash_ids else None, turns, self.hash_tokens,
            acceptance=self.acceptance[one] if len(self.acceptance) else None,
            labels=self.labels.take(one) if self.labels is not None else None,
            shared_tokens=self.shared_tokens,
        )  # fmt: skip

    def waits(self, row: int) -> tuple[int, ...]:
        """Return the requests that must complete before the request in this row arrives."""
        return self.after[row] if self.after else (int(self.follows[row]),)

    def cached(self, row: int) -> int:
        """Return the number of tokens in a request's KV cache after its latest output token."""
        return int(self.input_tokens[row] + self.generated[row] - 1)

    def take_over_all(self, engine: Engine, places: I8, rows: I8) -> None:
        """Copy progress and timestamps of requests from the engine that ran them."""
        for first in range(0, len(rows), AT_ONCE):  # so that copies of columns take little room
            part = slice(first, first + AT_ONCE)
            self._take_over(engine, places[part], rows[part])

    def _take_over(self, engine: Engine, places: I8, rows: I8) -> None:
        requests = engine.state.requests
        self.generated[rows] = requests.generated[places]
        self.order[rows] = requests.order[places]
        self.preemptions[rows] += requests.preempted[places]
        scheduled = self.scheduled_s[rows]
        self.scheduled_s[rows] = np.where(np.isnan(scheduled), requests.scheduled[places], scheduled)
        begun = self.generated[rows] > 0
        rows, places = rows[begun], places[begun]
        self.first_s[rows], self.last_s[rows] = (requests.first[places], requests.last[places])

    def stamps(self) -> Stamps:
        """Return the times of all requests that were read and not rejected."""
        rows: slice | I8 = slice(0, self.count)
        if self.refused:
            rows = np.delete(np.arange(self.count), self.refused)
        return Stamps(
            self.arrival_s[rows], self.scheduled_s[rows], self.last_s[rows],
            self.generated[rows] == self.output_tokens[rows],
        )  # fmt: skip

    def done(self) -> slice | I8:
        """Return the rows of completed requests."""
        rows = slice(0, self.count)
        complete = self.generated[rows] == self.output_tokens[rows]
        return rows if complete.all() else np.flatnonzero(complete)

    def let_go(self, rows: I8) -> None:
        """Release rows that are not read any more; a page is freed with its last row."""
        pages, counts = np.unique(rows // PAGE_ROWS, return_counts=True)
        self.held[pages] -= counts
        empty = self.held == 0
        new = np.zeros(len(empty), dtype=np.bool_)
        new[pages] = empty[pages]
        for first, last in runs(new):  # columns begin anywhere on a page
            first -= int(first > 0 and empty[first - 1])
            last += int(last < len(empty) and empty[last])
            for name in (*WHOLE, *REAL):
                give_back(getattr(self, name), first * PAGE_ROWS, last * PAGE_ROWS)

    def finished(self, several: bool, rows: I8 | None = None) -> Requests:
        """Return completed requests by id, with their places among all completions.

        Parameters
        ----------
        several : bool
            Whether they ended on several engines, or in several lives of one; otherwise `order` has their places.
        rows : int64 array, optional
            Restrict the result to these rows.
        """
        done = self.done() if rows is None else rows
        order = self.order[done]
        if several:
            by_time = np.lexsort((order, self.last_s[done]))
            order = np.empty(len(by_time), dtype=np.int64)
            order[by_time] = np.arange(len(by_time))
        return Requests(
            self.id[done], self.arrival_s[done], self.input_tokens[done],
            self.output_tokens[done], self.scheduled_s[done], self.first_s[done],
            self.last_s[done], self.preemptions[done], order,
        )  # fmt: skip
