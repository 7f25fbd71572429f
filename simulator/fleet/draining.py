"""Requests of a long run, released as they complete, so that memory does not grow.

Up to `EXACT` requests all timestamps are in memory, and quantiles are exact. Beyond, completed requests are released after
each assigned block: latencies are counted in histograms (`Sketch`), every k-th request is kept as a sample, all go to a
file if requested, and their memory is freed. Rows keep their numbers. The result does not depend on the order of
release, so parts of a fleet add up to the whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import IO, Any

import numpy as np

from ...workloads.requests.block import ColumnArrays
from ..engine.state import F8, HIST_BINS, HIST_MIN_S, HIST_RATIO, I8, Status
from ..results.metrics import Quantiles, histogram_quantiles
from ..results.record import AT_ONCE, COLUMNS, Requests
from ..results.steady import Stamps
from ..results.table import RequestTable
from .clock import Clock

EXACT = 1_000_000
"""Most requests whose timestamps are all kept in memory."""
AT_LEAST, ALL_AT_LEAST = 64, 1 << 18
"""Minimum completions before a release: of each engine, and of all."""
UNIT, LONGEST_S = 2.0**36, 1e8
"""Sums count integer parts of a second (`UNIT` parts), so that their order has no effect; longer values count as `LONGEST_S`, three years."""
RECORD = np.dtype([(name, np.float64 if name.endswith("_s") else np.int64) for name in COLUMNS])


@dataclass(slots=True)
class Sketch:
    """A latency's distribution in bins of 0.1 %, with its sum to 0.01 ns a value; two of them add up.

    Attributes
    ----------
    counts : int64 array, shape (HIST_BINS,)
        Values in each bin, see `engine.state`.
    total : int
        Sum of the values, in parts of a second (`UNIT`).
    """

    counts: I8 = field(default_factory=lambda: np.zeros(HIST_BINS, dtype=np.int64))
    total: int = 0
    count: int = 0

    def add(self, values: F8) -> None:
        """Count values [s]."""
        bins = np.log(np.maximum(values, HIST_MIN_S) / HIST_MIN_S) / np.log(HIST_RATIO)
        self.counts += np.bincount(np.minimum(bins.astype(np.int64), HIST_BINS - 1), minlength=HIST_BINS)
        parts = np.rint(np.minimum(values, LONGEST_S) * UNIT).astype(np.int64)
        self.total += (int((parts >> 32).sum()) << 32) + int((parts & 0xFFFFFFFF).sum())
        self.count += len(values)

    def merge(self, other: Sketch) -> None:
        """Add the counts and sums of another sketch."""
        self.counts += other.counts
        self.total, self.count = self.total + other.total, self.count + other.count

    def quantiles(self) -> Quantiles:
        """Return the mean and quantiles of the values [s], the quantiles to 0.05 %."""
        return histogram_quantiles(self.counts, self.total / UNIT, self.count)


@dataclass(slots=True)
class Drained:
    """Records of requests that were released during the run."""

    count: int = 0  # completed requests
    end_s: float = 0.0  # time of the latest completion
    ttft: Sketch = field(default_factory=Sketch)
    tpot: Sketch = field(default_factory=Sketch)
    e2e: Sketch = field(default_factory=Sketch)
    every: int = 2  # the sample has each request whose number is a multiple of this
    sample: list[Requests] = field(default_factory=list)
    file: IO[bytes] | None = None  # a record of each request, at its number; None: not requested

    def __del__(self) -> None:
        """Close the file of records when its owner is deleted."""
        if self.file is not None:
            self.file.close()

    def take(self, found: Requests) -> None:
        """Count completed requests, in order of their numbers."""
        gaps, decode = found.output_tokens - 1, found.last_token_s - found.first_token_s
        self.ttft.add(found.first_token_s - found.arrival_s)
        self.tpot.add((decode / np.maximum(gaps, 1))[gaps > 0])
        self.e2e.add(found.last_token_s - found.arrival_s)
        self.count += len(gaps)
        self.end_s = max(self.end_s, float(found.last_token_s.max()))
        if self.file is not None:
            self._write(found)
        self.sample.append(found.part(found.request_id % self.every == 0))
        self._thin()

    def _write(self, found: Requests) -> None:
        records = np.empty(len(found.request_id), RECORD)
        for name, column in found.columns().items():
            records[name] = column
        assert self.file is not None
        ids = found.request_id
        for first, last in runs_of(ids):
            os.pwrite(self.file.fileno(), records[first:last].tobytes(), int(ids[first]) * RECORD.itemsize)

    def _thin(self) -> None:
        """Thin the sample to its maximum size."""
        while sum(len(each.order) for each in self.sample) > EXACT:
            self.every *= 2
            self.sample = [each.part(each.request_id % self.every == 0) for each in self.sample]

    @staticmethod
    def joined(parts: Sequence[Drained], file: IO[bytes] | None) -> Drained:
        """Merge the released requests of all groups, whose records are in one file."""
        out = Drained(sum(each.count for each in parts), max(each.end_s for each in parts), file=file)
        for each in parts:
            for mine, theirs in zip((out.ttft, out.tpot, out.e2e), (each.ttft, each.tpot, each.e2e), strict=True):
                mine.merge(theirs)
        out.every = max(each.every for each in parts)
        out.sample = [own.part(own.request_id % out.every == 0) for each in parts for own in each.sample]
        out._thin()
        return out

    def sampled(self) -> Requests:
        """Return the sample in order of request numbers, with its order of completion."""
        combined = Requests.joined(self.sample)
        combined = combined.part(np.argsort(combined.request_id))
        order = np.empty(len(combined.order), dtype=np.int64)
        order[np.argsort(combined.last_token_s, kind="stable")] = np.arange(len(order))
        return replace(combined, order=order, count=self.count)

    def stamps(self) -> Stamps:
        """Return the times of the sample, each of which represents others."""
        s = self.sampled()
        done = np.ones(len(s.order), dtype=np.bool_)
        return Stamps(s.arrival_s, s.scheduled_s, s.last_token_s, done, self.every)

    def blocks(self) -> Iterator[ColumnArrays]:
        """Yield the columns of all released requests from the file, block by block."""
        assert self.file is not None
        self.file.seek(0)
        while data := self.file.read(AT_ONCE * RECORD.itemsize):
            records = np.frombuffer(data, RECORD)
            records = records[records["output_tokens"] > 0]  # numbers without a request are zeros
            yield {name: records[name] for name in COLUMNS}


def runs_of(ids: I8) -> Iterable[tuple[int, int]]:
    """Return the start and end positions of each run of consecutive numbers."""
    edges = [0, *(np.flatnonzero(np.diff(ids) != 1) + 1).tolist(), len(ids)]
    return pairwise(edges)


@dataclass(slots=True)
class Drain:
    """Releases completed requests of a long run from memory."""

    nodes: Clock  # of the driver
    table: RequestTable
    spill: str | None  # see `groups.Cut`
    looked_at: bool  # whether the router reads the loads of engines
    drained: Drained | None = None  # None while all requests are kept

    @classmethod
    def of(cls, nodes: Clock, table: RequestTable, spill: str | None) -> Drain | None:
        """Return the releaser of a run, or None if parts of engines keep data of requests beyond their rows."""
        engines = [node.engine for node in nodes.all]
        plain = not any(e.parts for e in engines)
        return cls(nodes, table, spill, nodes.rules.by_load) if plain else None

    def step(self, known: int) -> bool:
        """Release completed requests once more than `EXACT` are known; return whether requests are being released.

        Runs with block hashes, labels or sessions keep all requests, because their results need each of them.
        """
        table = self.table
        if table.hash_ids or table.labels is not None or len(table.session):
            return False
        nodes = self.nodes.all
        if self.drained is None and known > EXACT:
            file: Any = None
            if self.spill is not None:
                file = open(self.spill, "r+b") if self.spill else tempfile.TemporaryFile()  # noqa: SIM115
            self.drained = Drained(file=file)
            self.nodes.take_logs()
            for node in nodes:  # the logs until now cover only the beginning of the run
                node.engine.take_log(Status.REACHED)
                node.engine.keep_log = False
        if self.drained is not None:
            self._go(self.drained.count)
        return self.drained is not None

    def end(self, rows: Sequence[I8]) -> Drained | None:
        """Release the remaining requests and return the records of all."""
        if self.drained is not None:
            self._emit(rows)
        drained, self.drained = self.drained, None
        return drained

    def _go(self, gone: int) -> None:
        nodes, taken = self.nodes.all, []
        if self.nodes.completed - gone < max(AT_LEAST * len(nodes), ALL_AT_LEAST):
            return
        for node in nodes:
            places = np.array(node.newly_done(), dtype=np.int64)
            rows = node.engine.state.requests.row[places]
            self.table.take_over_all(node.engine, places, rows)
            node.let_go(places, self.looked_at)
            taken.append(rows)
        self._emit(taken)

    def _emit(self, taken: Sequence[I8]) -> None:
        """Record requests that have completed, and release their rows of the table."""
        rows = np.sort(np.concatenate([np.zeros(0, np.int64), *taken]))
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            assert self.drained is not None
            self.drained.take(self.table.finished(False, part))
            self.table.let_go(part)
