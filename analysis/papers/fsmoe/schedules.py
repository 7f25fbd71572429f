"""The schedules that FSMoE compares, for one layer's forward and backward pass.

A layer is attention between a gather and a scatter within the node, and experts in chunks. Backward each exchange moves
the same bytes and each computation takes twice as long; then the gradients of the previous layer's dense part are
summed over the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opbyte.extend import InputError, nearest
from opbyte.extend.streams import COMPUTE, DEVICE_LINK, NODE_LINK, Builder, Graph, Medium

from .layer import F8, Times

COMMUNICATION = "communication"
"""One stream of all exchanges, within nodes and between them."""

ORDERS = {
    "serial": (COMPUTE, COMPUTE),
    "pipelined": (COMMUNICATION, COMMUNICATION),
    "three-stream": (NODE_LINK, DEVICE_LINK),
}
"""Name -> streams of the exchanges between nodes and of those within one."""

DISPATCH, GATHER, EXPERTS, SCATTER, RETURN, GRADIENT = (
    "dispatch", "gather", "experts", "scatter", "return", "gradient",
)  # fmt: skip


def streams_of_order(order: str) -> tuple[str, str]:
    """Streams of the exchanges between nodes and of those within one.

    Raises
    ------
    InputError
        An unknown order.
    """
    if order not in ORDERS:
        raise InputError(f"order {order!r}", f"unknown order{nearest(order, ORDERS)}")
    return ORDERS[order]


def add_chunks(
    builder: Builder, order: str, chunks: int, after: Sequence[int] = (), gradient: bool = False
) -> list[int]:
    """Add the tasks of a layer's chunks, without their seconds; returns those that end it.

    Streams run all dispatches (each with its gather, if one stream has both) before the returns. With a `gradient` its
    all-reduce runs between them on the stream between nodes.

    Parameters
    ----------
    after : sequence of int
        Tasks before the layer.

    Raises
    ------
    InputError
        An unknown order.
    """
    between, within = streams_of_order(order)
    gathered, ends = [], []
    for i in range(chunks):
        sent = builder.add(DISPATCH, between, 0.0, after, chunk=i)
        gathered.append(builder.add(GATHER, within, 0.0, [sent], chunk=i))
    done = [builder.add(EXPERTS, COMPUTE, 0.0, [gathered[i]], chunk=i) for i in range(chunks)]
    if gradient:
        builder.add(GRADIENT, between, 0.0, after)
    for i in range(chunks):
        summed = builder.add(SCATTER, within, 0.0, [done[i]], chunk=i)
        ends.append(builder.add(RETURN, between, 0.0, [summed], chunk=i))
    return ends


DEGREES = tuple(range(1, 9))
"""Numbers of chunks that are tried."""
FORWARD, BACKWARD = 1, 2
"""Times that computation takes in each pass."""
SUMMING = "gradients"
"""Stream of the gradients' all-reduce in parallel with the dense part: a separate communicator, between nodes."""
BESIDE, LATE = "gradient in parallel with the dense part", "gradient at the end"
"""Slices of the all-reduce; `GRADIENT` is the one between the chunks."""

SHARED = Medium("PCIe", frozenset({DEVICE_LINK, NODE_LINK, COMMUNICATION, SUMMING}), 0.6)
"""Both links of a node on PCIe. The factor is assumed, after seeing the mean of testbed A: at 0.5 an overlap of the
two gains nothing, at 1 they are independent."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One schedule.

    Attributes
    ----------
    order : str
        Of the chunks; see `streams.orders`.
    gradient : str
        Position of the all-reduce: "late" after everything, "beside" in parallel with the dense part's backward pass,
        "sliced" over that and, for the rest, between the chunks.
    apart : bool
        Whether the passes choose their number of chunks each for itself.
    """

    order: str
    gradient: str
    apart: bool


SCHEMES: Mapping[str, Scheme] = {
    "tutel": Scheme("pipelined", "late", False),
    "improved": Scheme("pipelined", "beside", False),
    "noiio": Scheme("pipelined", "sliced", True),
    "fsmoe": Scheme("three-stream", "sliced", True),
}


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Layers under one schedule.

    Attributes
    ----------
    seconds : float64 array, shape (n,)
        Both passes.
    forward, backward : int64 array, shape (n,)
        Chosen numbers of chunks.
    """

    seconds: F8
    forward: np.ndarray
    backward: np.ndarray


def schedule(name: str, times: Times, media: Sequence[Medium] = ()) -> Scheduled:
    """Run layers under a schedule, with the numbers of chunks that take least."""
    scheme = SCHEMES[name]
    slices = sliced(scheme, times)
    ahead, back = (
        np.stack([spans(scheme.order, times, r, work, gradients, media) for r in DEGREES])
        for work, gradients in ((FORWARD, {}), (BACKWARD, slices))
    )
    degrees = np.array(DEGREES)
    if not scheme.apart:
        both = ahead + back
        best = both.argmin(axis=0)
        return Scheduled(both.min(axis=0), degrees[best], degrees[best])
    return Scheduled(ahead.min(axis=0) + back.min(axis=0), degrees[ahead.argmin(axis=0)], degrees[back.argmin(axis=0)])


def sliced(scheme: Scheme, times: Times) -> dict[str, F8]:
    """Seconds of the slices of the gradients' all-reduce, each with the line's alpha."""
    alpha, slope = times.alpha["gradient"], times.slope["gradient"]
    total = alpha + slope
    if scheme.gradient == "late":
        return {LATE: total}
    if scheme.gradient == "beside":
        return {BESIDE: total}
    room = BACKWARD * times.of("attention") + times.of("mp_gather") + times.of("mp_scatter")
    part = np.where(room > alpha, np.minimum(room, total), 0.0)
    moved = np.where(part > 0.0, part - alpha, 0.0)
    rest = np.where(total <= room, 0.0, alpha + slope - moved)
    return {BESIDE: part, GRADIENT: rest}


def graph_of(order: str, chunks: int, work: int, slices: Mapping[str, F8], media: Sequence[Medium] = ()) -> Graph:
    """Tasks of one pass, without their seconds."""
    builder = Builder()
    if work == FORWARD:
        add_chunks(builder, order, chunks, _add_dense(builder, order, (), False))
        return builder.graph(media)
    ends = add_chunks(builder, order, chunks, (), GRADIENT in slices)
    ends = _add_dense(builder, order, ends, BESIDE in slices)
    if LATE in slices:
        builder.add(LATE, streams_of_order(order)[0], 0.0, ends)
    return builder.graph(media)


def _add_dense(builder: Builder, order: str, after: Sequence[int], gradient: bool) -> list[int]:
    """Add attention between its exchanges within the node, and a slice of the gradient in parallel."""
    between, within = streams_of_order(order)
    if gradient:
        builder.add(BESIDE, between if order == "three-stream" else SUMMING, 0.0, after)
    first = builder.add("mp_gather", within, 0.0, after)
    middle = builder.add("attention", COMPUTE, 0.0, [first])
    return [builder.add("mp_scatter", within, 0.0, [middle])]


def seconds_of(graph: Graph, times: Times, chunks: int, work: int, slices: Mapping[str, F8]) -> F8:
    """Seconds of every task of a pass, shape (layers, tasks)."""

    def one(name: str) -> F8:
        if name in slices:
            return slices[name]
        if name == EXPERTS:
            return work * times.of(name, chunks)
        if name == "attention":
            return work * times.of(name)
        if name.startswith("mp_"):
            return times.of(name)
        return times.of("dispatch" if name == RETURN else name, chunks)

    return np.stack([one(task.name) for task in graph.tasks], axis=1)


def spans(order: str, times: Times, chunks: int, work: int, slices: Mapping[str, F8], media: Sequence[Medium]) -> F8:
    """Return the seconds of one pass of every layer in the given chunks."""
    graph = graph_of(order, chunks, work, slices, media)
    return makespans(graph, seconds_of(graph, times, chunks, work, slices))


def makespans(graph: Graph, seconds: F8) -> F8:
    """Return the makespans of many graphs that differ only in their tasks' seconds.

    Parameters
    ----------
    graph : Graph
        What waits for what; its own seconds are not read.
    seconds : float64 array, shape (n, tasks)
        Of the tasks of each graph [s].

    Returns
    -------
    float64 array, shape (n,)
    """
    n, count = seconds.shape
    names = list(dict.fromkeys(task.resource for task in graph.tasks))
    on = np.array([[task.resource == name for name in names] for task in graph.tasks])
    masks = [np.array([name in medium.resources for name in names]) for medium in graph.media]
    follows = np.zeros((count, count), dtype=np.int64)  # [before, after]
    for i, waits in enumerate(graph.waits()):
        for other in waits:
            follows[other, i] += 1
    left = np.tile(follows.sum(axis=0), (n, 1))
    rest, done, now = seconds.copy(), np.zeros((n, count), dtype=np.bool_), np.zeros(n)
    while not done.all():
        running = (left == 0) & ~done
        rate = np.ones((n, count))
        busy = (running & (rest > 0.0)) @ on
        for medium, mask in zip(graph.media, masks, strict=True):
            shared = (busy & mask).sum(axis=1) > 1
            slowed = shared[:, None] & (on @ mask)[None, :]
            rate = np.where(slowed, np.minimum(rate, medium.factor), rate)
        wait = np.where(running, rest / rate, np.inf)
        step = wait.min(axis=1)
        ended = running & (wait <= step[:, None])
        going = np.where(np.isfinite(step), step, 0.0)
        now += going
        rest = np.where(running, rest - rate * going[:, None], rest)
        done |= ended
        left -= ended.astype(np.int64) @ follows
    return now
