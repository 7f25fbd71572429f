"""Are the thread blocks of decode attention dealt and timed as the kernel's source says?

The compiled form is compared with an obvious one: a list of blocks, places that free up one by one,
and a clock that advances from one end of a block to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device
from opbyte.devices.tables.blocks import BLOCKS, blocks_seconds, fit_blocks, joint_seconds, parts_of, places_of
from opbyte.workloads.jit import compiled
from opbyte.workloads.kernel_tables import read_tables
from opbyte.workloads.records import Records

F8 = npt.NDArray[np.float64]
SHAPE = (32, 8, 128)


@compiled
def call(p: Records, contexts: F8, batch: float, tiles: float, heap: Records) -> float:
    return blocks_seconds(p, contexts, contexts.size, 0.0, batch, tiles, heap)


@compiled
def parts(p: Records, blocks: float, tiles: float) -> float:
    return parts_of(p, blocks, tiles)


@compiled
def joint(p: Records, contexts: F8, mean: float, prompts: F8, heap: Records) -> float:
    return joint_seconds(p, contexts, contexts.size, mean, prompts, prompts.shape[1], heap)


def blocks_of(*values: float) -> Records:
    return np.array([values], dtype=BLOCKS)[0]


def parameters(cores: int = 6, heads: int = 2, split: bool = True) -> Records:
    return blocks_of(cores, cores, heads, 4, 128, split, 2e-8, 5e-9, 1e-5, 40.0, 9e3)


def obvious_parts(p: Records, blocks: int, tiles: int) -> int:
    """`num_splits_heuristic` of FlashAttention-2."""
    places = 2 * int(p.cores)
    if not p.splits or blocks >= 0.8 * places:
        return 1
    found = {}
    for n in range(1, min(128, places, tiles) + 1):
        if n == 1 or -(-tiles // n) != -(-tiles // (n - 1)):
            waves = n * blocks / places
            found[n] = waves / math.ceil(waves)
    return min(n for n, even in found.items() if even >= 0.85 * max(found.values()))


def obvious_seconds(p: Records, contexts: list[float], batch: int, tiles: int) -> float:
    n = obvious_parts(p, batch * int(p.heads), tiles)
    queue: list[float] = []
    if n == 1:
        queue = [c for _ in range(int(p.heads)) for c in contexts]
    else:
        for c in contexts:
            each = math.ceil(math.ceil(c / p.tile) / n) * p.tile
            queue += [min(each, c - at) for _ in range(int(p.heads)) for at in np.arange(0.0, c, each)]
    return float(p.start) + played(p, queue, int(p.places), float(p.shared))


def played(p: Records, keys: list[float], places: int, shared: float) -> float:
    """Seconds of blocks of so many keys, each begun as soon as there is a place."""
    queue = [k + p.block for k in keys]
    running: list[float] = []
    now = 0.0
    while queue or running:
        while queue and len(running) < places:
            running.append(queue.pop(0))
        rate = 1.0 / max(p.alone, len(running) * shared)
        step = min(running)
        now += step / rate
        running = [left - step for left in running if left - step > 1e-9]
    return now


@given(blocks=st.integers(1, 400), tiles=st.integers(1, 2000), cores=st.integers(1, 200))
def test_parts(blocks: int, tiles: int, cores: int) -> None:
    p = parameters(cores)
    assert parts(p, float(blocks), float(tiles)) == obvious_parts(p, blocks, tiles)
    assert parts(parameters(cores, split=False), float(blocks), float(tiles)) == 1.0


@settings(max_examples=50, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    padding=st.integers(0, 4), cores=st.integers(1, 9), heads=st.integers(1, 4),
)  # fmt: skip
def test_calls(contexts: list[int], padding: int, cores: int, heads: int) -> None:
    p = parameters(cores, heads)
    keys, batch, tiles = np.array(contexts, dtype=float), len(contexts) + padding, 1 << 20
    found = call(p, keys, float(batch), float(tiles), np.empty(cores))
    assert found == pytest.approx(obvious_seconds(p, keys.tolist(), batch, tiles), rel=1e-9)


def obvious_joint(p: Records, contexts: list[float], prompts: list[tuple[int, int]]) -> float:
    """Query heads one by one; as groups, where there are many blocks."""
    heads, group, places = int(p.heads), int(p.group), int(p.places)
    kept = 1.0 / (1.0 + (sum(contexts) / p.cached) ** 4)
    reads = kept + (1.0 - kept) * group  # of the keys of a group
    if heads * group * len(contexts) > 8 * places:
        places, shared = max(places // group, 1), float(p.shared) * reads
    else:
        heads, shared = heads * group, float(p.shared) * reads / group
    tiles = [c + min(seen + 64, new) for new, c in prompts for seen in range(0, new, 64)]
    return float(p.start) + played(p, [*contexts, *tiles] * heads, places, shared)


@settings(max_examples=50, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    prompts=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 2000)), min_size=1, max_size=3),
    cores=st.integers(1, 40), heads=st.integers(1, 4),
)  # fmt: skip
def test_calls_with_prompts(contexts: list[int], prompts: list[tuple[int, int]], cores: int, heads: int) -> None:
    p = parameters(cores, heads)
    keys, chunks, heap = (np.array(contexts, float), np.array(prompts, float).T.copy(), np.empty(cores))
    found = joint(p, keys, 0.0, chunks, heap)
    assert found == pytest.approx(obvious_joint(p, keys.tolist(), prompts), rel=1e-9)
    mean = float(keys.mean())
    even = joint(p, keys, mean, chunks, heap)
    assert even == pytest.approx(joint(p, np.full(len(keys), mean), 0.0, chunks, heap), rel=1e-9)


def test_a_long_context_costs_its_tail() -> None:
    """Blocks of 4 heads on 4 places: the last head of the long one starts last and ends alone."""
    p = parameters(cores=4, heads=4, split=False)
    heap = np.empty(4)
    even = call(p, np.full(4, 1000.0), 4.0, 1.0, heap)
    uneven = call(p, np.array([250.0, 250.0, 250.0, 3250.0]), 4.0, 1.0, heap)
    assert even == pytest.approx(1e-5 + 4 * 1040 * 4 * 5e-9)
    assert uneven > 1.1 * even
    assert uneven < even + 3250 * p.alone


def test_places() -> None:
    """One block of 80 KiB on a core of 100 KiB, two on one of 164; none where another kernel runs."""
    for name, cores, blocks in (("rtx-4090", 128, 128), ("rtx-pro-6000", 188, 188),
                                ("a100-80gb", 108, 216), ("h100", 0, 0)):  # fmt: skip
        assert places_of(load_device(name)[0], 128) == (cores, blocks)


def table(p: Records) -> tuple[F8, F8]:
    """Rows of equal decodes, and of short prompts after long prefixes."""
    rows, seconds, heap = [], [], np.empty(int(p.places))
    for n in (1, 4, 16, 64, 256):
        for context in (128, 512, 2048, 8192):
            keys = np.full(n, context + 1.0)
            rows.append((0, 0, n, context))
            seconds.append(call(p, keys, float(n), math.ceil(keys[0] / p.tile), heap))
    for context in (0, 2048, 4096, 8192):
        rows.append((16, context, 0, 0))
        seconds.append(1e-5 + p.alone * context)
    return np.array(rows, dtype=float), np.array(seconds)


def test_a_fit_gives_back_what_made_the_table() -> None:
    p = blocks_of(188, 188, 8, 4, 128, 1, 2.2e-8, 3.4e-10, 1.1e-5, 41.0, 262144.0)
    fit = fit_blocks(load_device("rtx-pro-6000")[0], SHAPE, *table(p))
    assert fit is not None
    assert fit.error < 1e-3
    assert fit.rows == 16
    assert fit.parameters[0].tolist() == pytest.approx(p.tolist(), rel=0.02)


def test_no_fit_without_its_rows() -> None:
    spec = load_device("rtx-pro-6000")[0]
    points, seconds = table(blocks_of(188, 188, 8, 4, 128, 1, 2.2e-8, 3.4e-10, 1.1e-5, 41.0, 262144.0))
    decodes = points[:, 0] == 0
    assert fit_blocks(spec, SHAPE, points[decodes], seconds[decodes]) is None
    assert fit_blocks(spec, SHAPE, points[~decodes], seconds[~decodes]) is None
    assert fit_blocks(load_device("h100")[0], SHAPE, points, seconds) is None


@pytest.mark.parametrize(
    ("run", "device", "alone_ns", "rate_GBps"),
    [("rtx4090--llama-3.1-8b", "rtx-4090", 31.2, 926), ("rtxpro6000--llama-3.1-8b", "rtx-pro-6000", 22.2, 1496)],
)
def test_measured_tables(
    run: str, device: str, alone_ns: float, rate_GBps: float, data_set: Callable[[str], Path]
) -> None:
    """Three parameters meet the measured rows within some percent, at nearly the memory's rate."""
    tables, _ = read_tables([data_set("serving_runs") / run / "kernels"], every_op=True)
    rows = tables["attention_mixed"]
    axes = ("prefill_tokens", "prefill_context", "decode_seqs", "decode_context")
    points = np.column_stack([rows[a] for a in axes]).astype(float)
    spec = load_device(device)[0]
    fit = fit_blocks(spec, SHAPE, points, rows["measured_s"].astype(float))
    assert fit is not None
    assert fit.error < 0.06
    p = fit.parameters[0]
    assert p.alone * 1e9 == pytest.approx(alone_ns, rel=0.01)
    rate = 2 * SHAPE[2] * 2 / p.shared / 1e9
    assert rate == pytest.approx(rate_GBps, rel=0.01)
    assert rate < spec.memory.bandwidth_bytes_per_s / 1e9
