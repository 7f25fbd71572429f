"""Requests of a long run, let go as they complete: what is kept of them does not grow with the run.

Up to `EXACT` requests all stamps are kept, and quantiles are exact. Beyond, what has completed is let go
whenever a block of requests has been dealt, in order of the stream, as far as no request before it is under way:
its latencies are counted in histograms (`Sketch`), every k-th request is kept as a sample, all go to a file where
they are asked for, and the memory that their rows took is given back. Rows keep their numbers, so that nothing
else knows of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np
import numpy.typing as npt

from ..batching.state import F8, HIST_BINS, HIST_MIN_S, HIST_RATIO, I8, I_ROW
from .clock import Clock
from .finished import Requests
from .metrics import Quantiles, histogram_quantiles
from .steady import Stamps
from .table import Table

EXACT = 1_000_000
"""Requests whose stamps are all kept."""
AT_ONCE = 1 << 16
"""Requests that are read from the file at once."""


@dataclass(slots=True)
class Sketch:
    """A latency's distribution in bins of 0.1 %, with its exact sum; two of them add up.

    Attributes
    ----------
    counts : int64 array, shape (HIST_BINS,)
        See `batching.state`.
    total, count : float
    """

    counts: I8 = field(default_factory=lambda: np.zeros(HIST_BINS, dtype=np.int64))
    total: float = 0.0
    count: int = 0

    def add(self, values: F8) -> None:
        """Count values [s]."""
        bins = np.log(np.maximum(values, HIST_MIN_S) / HIST_MIN_S) / np.log(HIST_RATIO)
        self.counts += np.bincount(np.minimum(bins.astype(np.int64), HIST_BINS - 1), minlength=HIST_BINS)
        self.total += float(values.sum())
        self.count += len(values)

    def merge(self, other: Sketch) -> None:
        """Add what another has counted."""
        self.counts += other.counts
        self.total, self.count = self.total + other.total, self.count + other.count

    def quantiles(self) -> Quantiles:
        """Mean, exact, and quantiles to 0.05 %."""
        return histogram_quantiles(self.counts, self.total, self.count)


@dataclass(slots=True)
class Drained:
    """What is kept of requests that were let go."""

    count: int = 0  # requests that have completed
    end_s: float = 0.0  # when the last of them did
    ttft: Sketch = field(default_factory=Sketch)
    tpot: Sketch = field(default_factory=Sketch)
    e2e: Sketch = field(default_factory=Sketch)
    every: int = 2  # one of so many is in the sample
    sample: list[Requests] = field(default_factory=list)
    file: IO[bytes] | None = None  # their columns, block by block, where all are asked for

    def __del__(self) -> None:
        """The file goes with what tells of it."""
        if self.file is not None:
            self.file.close()

    def take(self, found: Requests, first: int) -> None:
        """Take in completed requests, whose rows begin with `first`."""
        if not len(found.request_id):
            return
        gaps, decode = found.output_tokens - 1, found.last_token_s - found.first_token_s
        self.ttft.add(found.first_token_s - found.arrival_s)
        self.tpot.add((decode / np.maximum(gaps, 1))[gaps > 0])
        self.e2e.add(found.last_token_s - found.arrival_s)
        self.count += len(gaps)
        self.end_s = max(self.end_s, float(found.last_token_s.max()))
        if self.file is not None:
            for column in found.columns().values():
                np.save(self.file, column)
        self.sample.append(found.part(slice(-first % self.every, None, self.every)))
        while sum(len(each.order) for each in self.sample) > EXACT:
            self.every *= 2
            self.sample = [self.sampled().part(slice(None, None, 2))]

    def sampled(self) -> Requests:
        """The sample, with places among its completions."""
        whole = Requests.joined(self.sample)
        order = np.empty(len(whole.order), dtype=np.int64)
        order[np.argsort(whole.last_token_s, kind="stable")] = np.arange(len(order))
        return replace(whole, order=order, count=self.count)

    def stamps(self) -> Stamps:
        """Times of the sample, each of which stands for others."""
        s = self.sampled()
        done = np.ones(len(s.order), dtype=np.bool_)
        return Stamps(s.arrival_s, s.scheduled_s, s.last_token_s, done, self.every)

    def blocks(self) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        """Columns of all requests, block by block, as they were let go."""
        assert self.file is not None
        self.file.seek(0)
        names, left = list(self.sample[0].columns()), self.count
        while left:
            block = {name: np.load(self.file) for name in names}
            left -= len(block[names[0]])
            yield block


@dataclass(slots=True)
class Drain:
    """Lets go of a run's requests."""

    nodes: Clock  # those of the driver
    table: Table
    whole: bool  # whether all requests are asked for, block by block
    drained: Drained | None = None  # none while all are kept
    _low: int = 0  # rows below have been let go

    @classmethod
    def of(cls, nodes: Clock, table: Table, whole: bool) -> Drain | None:
        """None where engines keep more of requests than their rows, or others look at them."""
        engines = [node.engine for node in nodes.all]
        more = [(e.state.exact, e.state.spec, e.below, e.lanes, e.state.pipe) for e in engines]
        plain = not any(e.keep_plans for e in engines)
        plain = plain and all(part is None for own in more for part in own)
        return cls(nodes, table, whole) if plain else None

    def step(self) -> None:
        """Let go of what has completed, once there are many."""
        table = self.table
        if table.hash_ids or table.labels is not None or len(table.session):
            return
        if self.drained is None and table.count > EXACT:
            file = tempfile.TemporaryFile() if self.whole else None  # noqa: SIM115
            self.drained = Drained(file=file)
            for node in self.nodes.all:  # a log of all stretches is one of the run's beginning
                node.engine.keep_log = False
        if self.drained is not None:
            self._go()

    def end(self) -> Drained | None:
        """Let go of what is left."""
        if self.drained is not None:
            self._emit(self.table.count)
        found, self.drained = self.drained, None
        return found

    def _go(self) -> None:
        table = self.table
        for node in self.nodes.all:
            places = np.array(node.newly_done(), dtype=np.int64)
            rows = node.engine.state.ints[places, I_ROW]
            table.take_over_all(node.engine, places, rows)
            node.let_go(places)
        going = table.generated[self._low : table.count] != table.output_tokens[self._low : table.count]
        self._emit(self._low + int(going.argmax()) if going.any() else table.count)

    def _emit(self, low: int) -> None:
        """Take in all requests below a row that have completed."""
        assert self.drained is not None
        while self._low < low:
            last = min(self._low + AT_ONCE, low)
            self.drained.take(self.table.finished(False, slice(self._low, last)), self._low)
            self.table.let_go(self._low, last)
            self._low = last
