"""Task graphs: each task's resource and predecessors, the resources that share a medium, and a list scheduler.

Tasks of one resource run one after another in the order in which the graph lists them, as kernels of
a CUDA stream do. Tasks on other resources that a task waits for are its predecessors.

The list scheduler simulates, event by event, when each task of a graph runs.

This is the readable definition of a step's time with overlap. A stream starts its next task as soon
as it is free and the task's predecessors have ended. Without shared media, times are sums and maxima of the
tasks' seconds, which compiled code evaluates (`parts.overlap.compiled`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..workloads.errors import InputError

COMPUTE, DEVICE_LINK, NODE_LINK, HOST_LINK, DISK = ("compute", "device link", "node link", "host link", "disk")
"""Usual names of resources; other names are allowed."""


class SubTask(NamedTuple):
    """Work of one unit within a task; the units of a stream work in parallel.

    Attributes
    ----------
    unit, name, kind, bound : str
        The unit, the op that it runs, the op's part of the model, and the limit of the op (see the glossary).
    start, seconds : float
        From the start of the task, where nothing shares its medium [s].
    """

    unit: str
    name: str
    kind: str
    bound: str
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work.

    Attributes
    ----------
    name : str
        For messages and timelines.
    resource : str
        Stream that runs it.
    seconds : float
        Duration where nothing shares its medium [s].
    after : tuple of int
        Indices in the graph of the tasks that must end before this task starts.
    kind : str
        Label that reports count the task under; its name by default.
    chunk : int
        Chunk of the batch that the task computes; -1 for the whole batch.
    layer : int
        Layer of the model that the task is part of; -1 if none.
    parts : tuple of SubTask
        Work of each unit of the stream; empty if the stream is one unit.
    """

    name: str
    resource: str
    seconds: float
    after: tuple[int, ...] = ()
    kind: str = ""
    chunk: int = -1
    layer: int = -1
    parts: tuple[SubTask, ...] = ()

    @property
    def label(self) -> str:
        """Return the label that reports count the task under."""
        return self.kind or self.name


@dataclass(frozen=True, slots=True)
class Medium:
    """Resources that share one transfer rate, for example all transfers over PCIe.

    Attributes
    ----------
    factor : float
        Share of its rate at which each of them runs while another does: 0.5 where the medium's
        rate is simply divided, 1 where nothing is shared.
    """

    name: str
    resources: frozenset[str]
    factor: float

    def __post_init__(self) -> None:
        if not 0.0 < self.factor <= 1.0:
            raise InputError(f"medium {self.name}", f"must have a factor above 0 and at most 1, not {self.factor:g}")


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks in the order in which their streams run them.

    Raises
    ------
    InputError
        Seconds below 0, an index of a predecessor that does not exist, or tasks that wait for each other.
    """

    tasks: tuple[Task, ...]
    media: tuple[Medium, ...] = ()

    def __post_init__(self) -> None:
        for i, task in enumerate(self.tasks):
            if not 0.0 <= task.seconds < math.inf:
                raise InputError(
                    f"task {task.name!r}", f"must have a number of seconds of at least 0, not {task.seconds:g}"
                )
            for other in task.after:
                if not 0 <= other < len(self.tasks) or other == i:
                    raise InputError(
                        f"task {task.name!r}", f"waits for task {other}, which is itself or not in the graph"
                    )
        self._check_order()

    def waits(self) -> list[list[int]]:
        """Return the indices that each task waits for: its predecessors and the previous task of its stream."""
        last: dict[str, int] = {}
        out = []
        for i, task in enumerate(self.tasks):
            before = last.get(task.resource)
            out.append([*task.after, *([] if before is None else [before])])
            last[task.resource] = i
        return out

    def _check_order(self) -> None:
        """Refuse tasks that wait for each other, also through the order of their streams."""
        waits = self.waits()
        left = [len(own) for own in waits]
        following: list[list[int]] = [[] for _ in waits]
        for i, own in enumerate(waits):
            for other in own:
                following[other].append(i)
        ready = deque(i for i, count in enumerate(left) if count == 0)
        while ready:
            for i in following[ready.popleft()]:
                left[i] -= 1
                if left[i] == 0:
                    ready.append(i)
        stuck = [task.name for task, count in zip(self.tasks, left, strict=True) if count]
        if stuck:
            named = ", ".join(stuck[:4]) + (", ..." if len(stuck) > 4 else "")
            raise InputError("task graph", f"has a cycle: {named} wait for each other")


class Builder:
    """Builder of a graph: tasks are added one by one, in the order in which their streams run them."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def add(
        self, name: str, resource: str, seconds: float, after: Sequence[int] = (), kind: str = "",
        chunk: int = -1, layer: int = -1, parts: tuple[SubTask, ...] = (),
    ) -> int:  # fmt: skip
        """Append a task; return its index, which `after` of other tasks refers to."""
        task = Task(name, resource, seconds, tuple(after), kind, chunk, layer, parts)
        self.tasks.append(task)
        return len(self.tasks) - 1

    def graph(self, media: Sequence[Medium] = ()) -> Graph:
        """Return the graph of all tasks added so far.

        Raises
        ------
        InputError
            See `Graph`.
        """
        return Graph(tuple(self.tasks), tuple(media))


@dataclass(frozen=True, slots=True)
class Timeline:
    """Start and end of every task of a graph.

    Attributes
    ----------
    starts, ends : tuple of float
        Of each task [s], from the start of the first.
    """

    graph: Graph
    starts: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def makespan(self) -> float:
        """Return the end of the last task [s]; 0 without tasks."""
        return max(self.ends, default=0.0)

    def busy(self) -> dict[str, float]:
        """Return the time that each resource runs tasks [s], by name of the resource."""
        out: dict[str, float] = {}
        for task, start, end in zip(self.graph.tasks, self.starts, self.ends, strict=True):
            out[task.resource] = out.get(task.resource, 0.0) + (end - start)
        return out

    def exposed(self) -> tuple[float, ...]:
        """Return the seconds of each task that count towards the makespan; their sum is the makespan.

        An instant counts for the task of the `COMPUTE` resource where that runs one, else for the task that began last of
        those that the graph lists before the next one there. A task's other seconds are hidden behind those.
        """
        out = [0.0] * len(self.starts)
        end = self.makespan
        for i in self._on(COMPUTE):
            out[i] = self.ends[i] - self.starts[i]
        others = [i for i, t in enumerate(self.graph.tasks) if t.resource != COMPUTE]
        for low, high, following in self._gaps(end):
            covered = high
            while covered > low:
                running = [i for i in others if self.starts[i] < covered <= self.ends[i]]
                before = [i for i in running if i < following] or running
                latest = max(before, key=lambda i: self.starts[i])
                bottom = max(low, self.starts[latest])
                out[latest] += covered - bottom
                covered = bottom
        return tuple(out)

    def hidden(self) -> dict[tuple[str, str], float]:
        """Return the time that tasks of one label ran behind compute tasks of another [s].

        Keys are (label of what is hidden, label of what it is hidden behind).
        """
        tasks, out = self.graph.tasks, dict[tuple[str, str], float]()
        mains = self._on(COMPUTE)
        others = [i for i, task in enumerate(tasks) if task.resource != COMPUTE]
        begin = 0
        for i in sorted(others, key=lambda i: self.starts[i]):
            while begin < len(mains) and self.ends[mains[begin]] <= self.starts[i]:
                begin += 1
            for j in mains[begin:]:
                if self.starts[j] >= self.ends[i]:
                    break
                both = min(self.ends[i], self.ends[j]) - max(self.starts[i], self.starts[j])
                if both > 0.0:
                    key = tasks[i].label, tasks[j].label
                    out[key] = out.get(key, 0.0) + both
        return out

    def _on(self, resource: str) -> list[int]:
        """Return the indices of a resource's tasks in order."""
        return [i for i, task in enumerate(self.graph.tasks) if task.resource == resource]

    def _gaps(self, end: float) -> list[tuple[float, float, int]]:
        """Return start and end of compute's idle intervals before `end` [s], and the next compute task."""
        out, free = [], 0.0
        for i in self._on(COMPUTE):
            if self.starts[i] > free:
                out.append((free, self.starts[i], i))
            free = max(free, self.ends[i])
        return [*out, (free, end, len(self.starts))] if end > free else out


def run(graph: Graph) -> Timeline:
    """Simulate a graph event by event and return its timeline.

    Examples
    --------
    >>> two = Graph((Task("send", "link", 2.0), Task("work", "compute", 3.0)))
    >>> run(two).makespan
    3.0
    """
    tasks, waits = graph.tasks, graph.waits()
    left = [len(own) for own in waits]
    following: list[list[int]] = [[] for _ in tasks]
    for i, own in enumerate(waits):
        for other in own:
            following[other].append(i)
    starts, ends = [0.0] * len(tasks), [0.0] * len(tasks)
    running: dict[int, float] = {}  # the end of each at its present rate
    rates: dict[int, float] = {}
    now, ready = 0.0, [i for i, count in enumerate(left) if count == 0]
    while ready or running:
        for i in ready:
            starts[i], running[i], rates[i] = now, now + tasks[i].seconds, 1.0
        if graph.media:
            busy = {tasks[i].resource for i in running if running[i] > now}
            for i, end in running.items():
                rate = _rate(tasks[i].resource, busy, graph.media)
                if rate != rates[i]:
                    running[i], rates[i] = now + (end - now) * rates[i] / rate, rate
        now = min(running.values())
        ready = []
        for i in [i for i, end in running.items() if end <= now]:
            ends[i] = now
            del running[i]
            for other in following[i]:
                left[other] -= 1
                if left[other] == 0:
                    ready.append(other)
    return Timeline(graph, tuple(starts), tuple(ends))


def _rate(resource: str, busy: set[str], media: Sequence[Medium]) -> float:
    """Return the rate of a resource shared with others; with several media the slowest limits it."""
    shared = [m.factor for m in media if resource in m.resources and len(busy & m.resources) > 1]
    return min(shared, default=1.0)
