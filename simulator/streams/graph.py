"""A task graph: what runs on which resource, after what, and which resources share a medium.

Tasks of one resource run one after another in the order in which the graph lists them, as kernels of
a CUDA stream do. What they wait for on other resources are their predecessors.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...workloads.errors import InputError

COMPUTE, DEVICE_LINK, NODE_LINK, HOST_LINK, DISK = ("compute", "device link", "node link", "host link", "disk")
"""Usual names of resources; any other name is one too."""


class SubTask(NamedTuple):
    """What one unit does within a task: units of a stream work side by side.

    Attributes
    ----------
    unit, name, kind, bound : str
        Which unit, the op that it runs, the part of the model that is of, and what bounds it.
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
        Places in the graph of the tasks that must have ended.
    kind : str
        What reports count it as; its name by default.
    chunk : int
        Which chunk of a batch it is of; -1 where it is of all of it.
    layer : int
        Which layer of the model it is of; -1 where it is of none.
    parts : tuple of SubTask
        What its units do; nothing where the stream is one unit.
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
        """What reports count it as."""
        return self.kind or self.name


@dataclass(frozen=True, slots=True)
class Medium:
    """Resources that share a rate: what PCIe carries, for example.

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
            raise InputError(f"medium {self.name}", f"needs a factor above 0 and up to 1, not {self.factor:g}")


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks in the order in which their streams run them.

    Raises
    ------
    InputError
        Seconds below 0, a predecessor that there is none of, or tasks that wait for each other.
    """

    tasks: tuple[Task, ...]
    media: tuple[Medium, ...] = ()

    def __post_init__(self) -> None:
        for i, task in enumerate(self.tasks):
            if not 0.0 <= task.seconds < math.inf:
                raise InputError(f"task {task.name!r}", f"needs seconds of at least 0, not {task.seconds:g}")
            for other in task.after:
                if not 0 <= other < len(self.tasks) or other == i:
                    raise InputError(f"task {task.name!r}", f"comes after task {other}, which it cannot")
        self._check_order()

    def waits(self) -> list[list[int]]:
        """What each task waits for: its predecessors and the one before it on its stream."""
        last: dict[str, int] = {}
        out = []
        for i, task in enumerate(self.tasks):
            before = last.get(task.resource)
            out.append([*task.after, *([] if before is None else [before])])
            last[task.resource] = i
        return out

    def _check_order(self) -> None:
        """Refuse tasks that wait for each other, be it through the order of their streams."""
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
    """Puts a graph together task by task, in the order of the streams."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def add(
        self, name: str, resource: str, seconds: float, after: Sequence[int] = (), kind: str = "",
        chunk: int = -1, layer: int = -1, parts: tuple[SubTask, ...] = (),
    ) -> int:  # fmt: skip
        """Append a task; returns its place, for `after` of others."""
        task = Task(name, resource, seconds, tuple(after), kind, chunk, layer, parts)
        self.tasks.append(task)
        return len(self.tasks) - 1

    def graph(self, media: Sequence[Medium] = ()) -> Graph:
        """The graph so far.

        Raises
        ------
        InputError
            See `Graph`.
        """
        return Graph(tuple(self.tasks), tuple(media))
