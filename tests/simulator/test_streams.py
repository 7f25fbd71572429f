"""Does the list scheduler keep to physics, and to closed forms?

Expected values: the longest resource and the sum of all tasks bound every makespan; FSMoE's four
closed forms (arXiv 2501.10714, section 4.2); sums of a batch and of its parts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.papers.fsmoe.schedules import add_chunks, makespans
from opbyte.simulator.parts.overlap.chunking import ChunkSize, chunk_tokens, even_halves, half_moments
from opbyte.simulator.parts.overlap.tracks import ways
from opbyte.simulator.streams import Builder, Graph, Medium, Task, run
from opbyte.workloads.batch import (
    BASE_MOMENTS,
    DECODE_KV,
    DECODES,
    PREFILL_KV,
    PREFILL_PAIRS,
    PREFILL_RECT,
    PREFILL_TOKENS,
    PREFILLS,
    TOKENS,
    WINDOW_MOMENTS,
    Batch,
)
from opbyte.workloads.errors import InputError

RESOURCES = ("compute", "device link", "node link", "host link", "disk")
times = st.one_of(st.just(0.0), st.floats(1e-6, 10.0))


@st.composite
def graphs(draw: st.DrawFn, media: bool = False) -> Graph:
    tasks = []
    for i in range(draw(st.integers(1, 14))):
        after = draw(st.lists(st.integers(0, i - 1), max_size=3)) if i else []
        tasks.append(Task(f"t{i}", draw(st.sampled_from(RESOURCES)), draw(times), tuple(after)))
    shared = frozenset(draw(st.lists(st.sampled_from(RESOURCES), min_size=2, max_size=4)))
    factor = draw(st.floats(0.5, 1.0))
    return Graph(tuple(tasks), (Medium("shared", shared, factor),) if media else ())


@given(graphs())
def test_no_makespan_is_below_its_longest_resource_or_above_the_sum(graph: Graph) -> None:
    line = run(graph)
    busy = line.busy()
    assert max(busy.values()) <= line.makespan * (1 + 1e-12)
    assert line.makespan <= sum(task.seconds for task in graph.tasks) * (1 + 1e-12)
    for task, start, end in zip(graph.tasks, line.starts, line.ends, strict=True):
        assert end == start + task.seconds
        assert all(line.ends[i] <= start for i in task.after)


@given(graphs())
def test_what_counts_adds_up_to_the_makespan(graph: Graph) -> None:
    line = run(graph)
    exposed = line.exposed()
    assert sum(exposed) == pytest.approx(line.makespan, rel=1e-9, abs=1e-15)
    for own, start, end in zip(exposed, line.starts, line.ends, strict=True):
        assert -1e-12 <= own <= (end - start) * (1 + 1e-12) + 1e-12
    others = sum(t.seconds for t in graph.tasks if t.resource != "compute")
    assert sum(line.hidden().values()) <= others * (1 + 1e-9)


@given(graphs(media=True))
def test_a_shared_medium_never_helps_and_its_full_rate_costs_nothing(graph: Graph) -> None:
    line, free = run(graph), run(Graph(graph.tasks))
    assert line.makespan >= free.makespan * (1 - 1e-9)
    whole = Graph(graph.tasks, tuple(Medium(m.name, m.resources, 1.0) for m in graph.media))
    assert run(whole).makespan == pytest.approx(free.makespan, rel=1e-12)
    # At half its rate each, two of them take as long as one after the other: no more than in a row.
    assert line.makespan <= 4 * sum(t.seconds for t in graph.tasks) * (1 + 1e-9)


def test_two_tasks_share_a_medium_by_hand() -> None:
    # 2 s and 3 s at 0.6: the first ends at 2 / 0.6, when 1 s of the other is left.
    tasks = (Task("a", "device link", 2.0), Task("b", "node link", 3.0))
    line = run(Graph(tasks, (Medium("pcie", frozenset({"device link", "node link"}), 0.6),)))
    assert line.ends == pytest.approx((2 / 0.6, 2 / 0.6 + 1.0))


@given(st.lists(times, min_size=1, max_size=50))
def test_one_stream_is_the_sum_to_the_last_bit(seconds: list[float]) -> None:
    total = 0.0
    for each in seconds:
        total += each
    tasks = tuple(Task(str(i), "compute", each) for i, each in enumerate(seconds))
    assert run(Graph(tasks)).makespan == total


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ((Task("a", "x", 1.0, (1,)), Task("b", "y", 1.0, (0,))), "cycle: a, b wait for each other"),
        ((Task("a", "x", 1.0, (1,)), Task("b", "x", 1.0)), "cycle: a, b"),
        ((Task("a", "x", -1.0),), "seconds of at least 0, not -1"),
        ((Task("a", "x", float("nan")),), "seconds of at least 0, not nan"),
        ((Task("a", "x", 1.0, (7,)),), "waits for task 7"),
    ],
)
def test_bad_graphs_are_refused_in_a_line(tasks: tuple[Task, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Graph(tasks)


def test_a_medium_of_no_rate_is_refused() -> None:
    with pytest.raises(InputError, match="medium pcie: must have a factor above 0"):
        Medium("pcie", frozenset({"a", "b"}), 0.0)


@pytest.mark.parametrize("text", ["twobatch", "pipelined", "pipelined:3", "pipelined:0", "", "none:2"])
def test_unknown_ways_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--overlap"):
        ways(text)


def three_streams(r: int, a: float, g: float, x: float, s: float, gar: float) -> float:
    """FSMoE's schedule: D, AG, X, RS, C on the streams between nodes, within one and of compute."""
    b = Builder()
    d = [b.add(f"D{i}", "node link", a) for i in range(r)]
    gathered = [b.add(f"AG{i}", "device link", g, [d[i]]) for i in range(r)]
    done = [b.add(f"X{i}", "compute", x, [gathered[i]]) for i in range(r)]
    summed = [b.add(f"RS{i}", "device link", s, [done[i]]) for i in range(r)]
    b.add("GAR", "node link", gar)
    for i in range(r):
        b.add(f"C{i}", "node link", a, [summed[i]])
    return run(b.graph()).makespan


positive = st.floats(0.01, 10.0)


@given(st.integers(1, 8), positive, positive, positive, positive, st.one_of(st.just(0.0), positive))
def test_fsmoe_closed_forms(r: int, a: float, g: float, x: float, s: float, gar: float) -> None:
    """Each of the four is a path through the schedule, and the longest of them its makespan."""
    found = three_streams(r, a, g, x, s, gar)
    between = 2 * r * a + gar
    compute = 2 * a + g + s + r * x
    gathers_first = 2 * r * a + g + s
    within = 2 * a + r * (g + s)
    for bound in (between, compute, gathers_first, within):
        assert found >= bound * (1 - 1e-12)
    # One figure for both directions within a node, as the paper's cases take them: no other path.
    even = three_streams(r, a, g, x, g, gar)
    four = (between, 2 * a + 2 * g + r * x, 2 * r * a + 2 * g if r > 1 else 0.0, 2 * a + 2 * r * g)
    assert even == pytest.approx(max(four), rel=1e-12)


@given(st.integers(0, 5000), st.sampled_from((2, 4, 8, 16)))
def test_chunks_hold_every_token_once(tokens: int, chunks: int) -> None:
    each = [chunk_tokens(float(tokens), chunks, i) for i in range(chunks)]
    assert sum(each) == tokens
    assert max(each) - min(each) <= 1
    assert each == sorted(each, reverse=True)


lengths = st.integers(0, 20_000)


@given(
    st.lists(lengths, max_size=9),
    st.lists(st.tuples(st.integers(1, 4000), lengths), max_size=5),
    st.sampled_from(((0,), (0, 128))),
    st.integers(0, 7),
)
def test_halves_hold_every_sum_once(
    decodes: list[int], chunks: list[tuple[int, int]], windows: tuple[int, ...], padding: int
) -> None:
    m = np.append(Batch.of(decodes, chunks).moments(windows).values, 0.25)
    m[TOKENS] += padding
    halves = np.zeros((2, m.size))
    for size in (ChunkSize.BIG, ChunkSize.SMALL):
        half_moments(m, len(windows), size, halves[size])
    both = halves.sum(axis=0)
    kept = [TOKENS, DECODES, PREFILL_TOKENS]
    kept += [
        BASE_MOMENTS + WINDOW_MOMENTS * w + at
        for w in range(len(windows)) for at in (DECODE_KV, PREFILL_PAIRS, PREFILL_RECT)
    ]  # fmt: skip
    assert both[kept] == pytest.approx(m[kept], rel=1e-12)
    assert both[-1] == pytest.approx(m[-1] if decodes else 0.0)
    # Keys are read again by the second half of a prompt that is cut, and only by that.
    for w in range(len(windows)):
        at = BASE_MOMENTS + WINDOW_MOMENTS * w + PREFILL_KV
        assert both[at] >= m[at] * (1 - 1e-12)
        if len(chunks) % 2 == 0 and all(half[PREFILLS] == len(chunks) / 2 for half in halves):
            assert both[at] == pytest.approx(m[at], rel=1e-12)
        assert (halves[:, at] % 1.0 == 0.0).all()  # as kernels take them
    assert (halves[ChunkSize.BIG] == halves[ChunkSize.SMALL]).all() or not even_halves(m, len(windows))
    assert (halves >= 0).all()
    for half in halves:
        assert half[TOKENS] >= half[DECODES] + half[PREFILL_TOKENS]


@given(graphs(media=True), st.lists(st.floats(0.0, 3.0), min_size=1, max_size=4))
def test_many_graphs_at_once_are_each_its_own(graph: Graph, factors: list[float]) -> None:
    seconds = np.array([[f * task.seconds for task in graph.tasks] for f in factors])
    found = makespans(graph, seconds)
    for row, makespan in zip(seconds, found, strict=True):
        tasks = tuple(replace(t, seconds=float(s)) for t, s in zip(graph.tasks, row, strict=True))
        assert makespan == pytest.approx(run(replace(graph, tasks=tasks)).makespan, rel=1e-9)


def test_orders_of_a_layer() -> None:
    """One stream is the sum; two of exchange and computation overlap; three are FSMoE's schedule."""
    seconds = {"dispatch": 2.0, "gather": 3.0, "experts": 4.0, "scatter": 3.0, "return": 2.0}

    def span(order: str, chunks: int) -> float:
        builder = Builder()
        add_chunks(builder, order, chunks)
        tasks = tuple(replace(t, seconds=seconds[t.name]) for t in builder.tasks)
        return run(Graph(tasks)).makespan

    assert span("serial", 3) == 3 * 14.0
    assert span("three-stream", 3) == three_streams(3, 2.0, 3.0, 4.0, 3.0, 0.0)
    assert span("three-stream", 3) < span("pipelined", 3) < span("serial", 3)
    with pytest.raises(InputError, match="order 'four-stream'"):
        span("four-stream", 1)
