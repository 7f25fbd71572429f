"""One check for all schedulers: requests that come in pieces, and stops in between, change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from opbyte.simulator.batching.state import F_ARRIVAL, F_FIRST, F_LAST, F_SCHEDULED
from opbyte.simulator.serving.engine import Engine
from opbyte.workloads.requests import RequestBlock
from opbyte.workloads.requests.labels import Labels

GAP_S = 2e-4
"""Scale of the gaps between arrivals: about a step of the tests' small models."""


def block_of(load: dict[str, Any], part: slice = slice(None)) -> RequestBlock:
    """Requests of a workload as one block."""
    inputs = np.array(load["inputs"], dtype=np.int64)
    labels = None
    if load.get("urgent") is not None:
        own = np.array(load["urgent"], dtype=np.int64)[part]
        labels = Labels(np.zeros_like(own), own, np.zeros_like(own), ["one"], ["one"])
    return RequestBlock(
        np.arange(len(inputs))[part],
        (np.cumsum(load["gaps"]) * GAP_S)[part],
        inputs[part],
        np.array(load["outputs"], dtype=np.int64)[part],
        load["hashes"][part] if load["hashes"] else None,
        labels=labels,
    )


def play(engine: Engine, load: dict[str, Any]) -> None:
    """Run a workload to its end; in a closed loop each client sends its next request when it has its answer."""
    count, clients = len(load["inputs"]), load["clients"]
    if clients is None:
        engine.submit(block_of(load))
    while engine.completed < count:
        for i in range(engine.submitted, min(engine.completed + (clients or 0), count)):
            engine.submit(replace(block_of(load, slice(i, i + 1)), arrival_s=np.array([engine.now])))
        engine.advance(math.inf, engine.completed + 1)
    engine.advance(math.inf)


def stamps(engine: Engine, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Arrival, schedule, first and last token of every request."""
    columns = [F_ARRIVAL, F_SCHEDULED, F_FIRST, F_LAST]
    return engine.state.floats[:count, columns]


def check_pieces(
    new_engine: Callable[[], Engine], load: dict[str, Any], times: Sequence[float], splits: Sequence[int]
) -> None:
    """Submit all at once to one engine, and split at `splits`, with stops at `times`, to another."""
    block = block_of(load)
    whole = new_engine()
    whole.submit(block)
    whole.advance(math.inf)
    pieces = new_engine()
    for start, stop in zip([0, *splits], [*splits, len(block)], strict=True):
        pieces.submit(block_of(load, slice(start, stop)))
        known = block.arrival_s[stop] if stop < len(block) else math.inf
        for cut in (*(t for t in times if t < known), known):
            pieces.advance(cut)
    assert np.array_equal(stamps(whole, len(block)), stamps(pieces, len(block)))
    assert np.array_equal(whole.state.hist, pieces.state.hist)
    assert whole.books.tally == pytest.approx(pieces.books.tally, rel=1e-12)
