"""Threads and cores: pin each thread to a core, and read how long threads waited for one. Both work only on Linux."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

TASKS = Path("/proc/self/task")


def _threads() -> list[int]:
    """System's numbers of this process's threads, oldest first."""
    return sorted(int(path.name) for path in TASKS.iterdir()) if TASKS.is_dir() else []


@contextmanager
def pinned() -> Iterator[None]:
    """Hold every thread to one core: the caller to the first, the others in turn to the rest.

    The scheduler likes to start a thread that slept on the core of the one that wakes it, most of all while the other
    core has work: two threads of a kernel then take turns on one core (products of few rows took 1.7 to 2.4 times as
    long). Threads that come to be inside stay on the caller's core: let each pool start its own before.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    thread = threading.get_native_id()
    before = {tid: os.sched_getaffinity(tid) for tid in _threads()} if len(cores) > 1 else {}
    others = [tid for tid in before if tid != thread]
    try:
        if before:
            _hold(thread, {cores[0]})
        for i, tid in enumerate(others):
            _hold(tid, {cores[1 + i % (len(cores) - 1)]})
        yield
    finally:
        for tid in _threads() if before else []:
            _hold(tid, before.get(tid, set(cores)))


def _hold(tid: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.sched_setaffinity(tid, cores)


class CoreWaits:
    """How long the threads of this process were ready to run but had no core.

    It knows the threads that there are when it is entered.
    """

    def __init__(self) -> None:
        self._files: list[int] = []

    def __enter__(self) -> Self:
        for tid in _threads():
            try:
                self._files.append(os.open(TASKS / str(tid) / "schedstat", os.O_RDONLY))
            except OSError:  # it ended, or a kernel without statistics
                continue
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file)
        self._files.clear()

    def seconds(self) -> list[float]:
        """Of each thread since it began; empty where the system does not say."""
        out = []
        for file in self._files:
            try:  # time on a core, time waiting for one (both ns), times started
                out.append(int(os.pread(file, 64, 0).split()[1]) * 1e-9)
            except OSError:  # it ended
                out.append(0.0)
        return out
