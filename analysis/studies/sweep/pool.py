"""Worker processes of this machine: one task each at a time, replaced when they die."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ....workloads.errors import InputError
from ...show.workers import as_worker
from .point import Outcome, evaluate

Task = tuple[str, dict[str, Any]]
"""Key and parameters of a point."""
TRIES = 2
"""Workers that may die over one point before it counts as failed."""
MAX_WORKERS = 1024


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    ready: bool = False


def run_local(tasks: Sequence[Task], version: str, workers: int) -> Iterator[tuple[Task, Outcome]]:
    """Evaluate tasks on `workers` processes, in the order they finish.

    Processes are spawned: nothing is shared with them but what a task holds. They end when this
    process does, however it ends, because their pipe then closes.

    Raises
    ------
    InputError
        A worker that ends before it is ready: no task can run then.
    """
    waiting, tries = deque(tasks), dict.fromkeys((key for key, _ in tasks), 0)
    crew = [_start() for _ in range(min(workers, len(tasks)))]
    try:
        while waiting or any(w.task for w in crew):
            for pipe in wait([w.pipe for w in crew]):
                worker = next(w for w in crew if w.pipe is pipe)
                done, outcome = worker.task, _received(worker)
                if outcome is not None and done is not None:
                    yield done, outcome
                if outcome is None and not worker.process.is_alive():
                    crew[crew.index(worker)] = _start()
                    if done is not None:
                        lost = _lost(done, tries, worker, waiting)
                        if lost is not None:
                            yield done, lost
            for worker in crew:
                if worker.ready and worker.task is None and waiting:
                    worker.task = waiting.popleft()
                    with contextlib.suppress(OSError):  # it died: its pipe tells the next round
                        worker.pipe.send((worker.task[1], version))
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _start() -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that the pipe ends with the worker
    return _Worker(process, ours)


def _received(worker: _Worker) -> Outcome | None:
    """The outcome a worker sent; None for its greeting, or where it died."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        if not worker.ready:
            raise InputError(
                "workers",
                f"one ended with exit code {worker.process.exitcode} before it could start; a "
                "script must call this under: if __name__ == '__main__':",
            ) from None
        return None
    worker.ready, worker.task = True, None
    return message if isinstance(message, Outcome) else None


def _lost(
    task: Task, tries: dict[str, int], worker: _Worker, waiting: deque[Task]
) -> Outcome | None:
    """Queue the task of a dead worker again, or give it up."""
    worker.pipe.close()
    tries[task[0]] += 1
    if tries[task[0]] < TRIES:
        waiting.append(task)
        return None
    code = worker.process.exitcode or 0
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Outcome(None, f"its worker died {TRIES} times ({how}); too little memory?")


def _work(pipe: Connection) -> None:
    """Body of a worker: points in, outcomes out, until the pipe closes."""
    as_worker()
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            point, version = pipe.recv()
            pipe.send(evaluate(point, version))
