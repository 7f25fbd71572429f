"""Execution of tasks in this process, on processes of this machine that are replaced if they die, or on Dask.

A process that runs out of memory is killed without a message. It then loses only its own task, which another worker
tries once more. Workers leave signals to their parent and never outlive it: the kernel kills them with it (Linux), or a
separate thread does.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from ...workloads.errors import InputError
from ...workloads.requests.options import check_count
from ..show.interrupt import uninterrupted

T = TypeVar("T")
R = TypeVar("R")
TRIES = 2
"""Number of workers that may die during one task before the task counts as lost."""
MAX_WORKERS = 1024


def cores() -> int:
    """Return the default number of workers: one per core."""
    return os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: int | None = None
    ready: bool = False


class Crew:
    """Workers that stay until the block is left, so that many calls start them once.

    They are spawned with the first task: nothing is shared with them but what a task holds, so
    that calls and tasks must be picklable.

    Parameters
    ----------
    workers : int
        Processes at most.
    isolated : bool
        Whether a single worker is also a process, so that its death does not kill this one; otherwise it runs here.
    """

    def __init__(self, workers: int, isolated: bool = False) -> None:
        self._most, self._isolated = workers, isolated
        self._crew: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._end(self._crew)

    def _end(self, crew: Sequence[_Worker]) -> None:
        """Kill workers and remove them from the crew; they hold nothing that needs an orderly end."""
        for worker in crew:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._crew = [worker for worker in self._crew if worker not in crew]

    def run(
        self, call: Callable[[T], R], tasks: Sequence[T], lost: Callable[[str], R] | None = None
    ) -> Iterator[tuple[int, R]]:
        """Call a function with every task; yield each task's number and result as the tasks finish.

        Parameters
        ----------
        lost : callable, optional
            Makes the result of a task whose workers died, from a line that says so; without it
            that is an error.

        Raises
        ------
        InputError
            A task was lost; or a worker ended before it was ready, when no task can run.
        Exception
            What a call raised.
        """
        if self._most == 1 and not self._isolated:
            yield from ((i, call(task)) for i, task in enumerate(tasks))
            return
        waiting, tries = deque(range(len(tasks))), [0] * len(tasks)
        while len(self._crew) < min(self._most, len(tasks)):
            self._crew.append(_start())
        try:
            while waiting or any(w.task is not None for w in self._crew):
                for worker in self._crew:
                    if worker.ready and worker.task is None and waiting:
                        worker.task = waiting.popleft()
                        with suppress(OSError):  # it died: its pipe tells
                            worker.pipe.send((call, tasks[worker.task]))
                heard = wait([w.pipe for w in self._crew])
                for worker in [w for w in self._crew if w.pipe in heard]:
                    task, answer = worker.task, self._received(worker)
                    if task is None:
                        continue
                    if not isinstance(answer, str):
                        yield task, answer[0]
                        continue
                    tries[task] += 1
                    if tries[task] < TRIES:
                        waiting.append(task)
                    else:
                        why = f"its worker died {TRIES} times ({answer}); too little memory?"
                        yield task, _given_up("a simulation", why, lost)
        finally:
            self._end([w for w in self._crew if w.task is not None])

    def _received(self, worker: _Worker) -> tuple[Any] | str:
        """Return a worker's message, or how the worker died; another worker has then replaced it."""
        try:
            fine, result = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(worker)
        worker.ready, worker.task = True, None
        if not fine:
            raise result
        return (result,)

    def _replace(self, worker: _Worker) -> str:
        """Replace a worker that died by another; return the signal or exit code with which it died."""
        worker.pipe.close()
        worker.process.join()
        code = worker.process.exitcode or 0
        if not worker.ready:
            raise InputError(
                "workers",
                f"one ended with exit code {code} before it could start; a script must call this "
                "under: if __name__ == '__main__':",
            )
        self._crew[self._crew.index(worker)] = _start()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _given_up(where: str, why: str, lost: Callable[[str], R] | None) -> R:
    """Return the replacement result of a lost task; raise an error if there is no function `lost` that makes one."""
    if lost is None:
        raise InputError(where, why)
    return lost(why)


def _start() -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    with uninterrupted():  # a signal ends the children that are known of, so that none is half one
        process.start()
    theirs.close()  # so that the pipe ends with the worker
    return _Worker(process, ours)


def _work(pipe: Connection) -> None:
    """Run tasks from a pipe and send their results back until the pipe closes; this is a worker's main function."""
    # A terminal sends an interrupt to every process; the parent acts on it for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        pipe.send((True, None))  # ready
        while True:
            call, task = pipe.recv()
            try:
                answer = pickle.dumps((True, call(task)))
            except Exception as error:  # noqa: BLE001  # the parent's matter
                error.add_note(f"in a worker:\n{traceback.format_exc()}")
                answer = pickle.dumps((False, error))
            pipe.send_bytes(answer)


PR_SET_PDEATHSIG = 1
"""Option of prctl(2) for the signal that a process receives when the thread that started it ends."""


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, at any time."""
    parent = parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent.pid:  # it ended before the kernel was asked
        os._exit(1)


def _end_with_parent() -> None:
    """End this process with its parent, in the middle of a task too."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


PER_THREAD = 4
"""Maximum number of tasks that wait at the scheduler for each thread of a worker."""


CONNECT_S = 30.0
"""Time to wait for a scheduler's response [s]."""


def run_cluster(
    call: Callable[[T], R], tasks: Sequence[T], lost: Callable[[str], R] | None, address: str
) -> Iterator[tuple[int, R]]:
    """Run tasks as `local.Crew.run` does, on the cluster whose scheduler has that address.

    Files that tasks name must be at the same path on every worker. A worker that dies is the
    scheduler's matter: it tries a task elsewhere, and gives up after a few.

    Raises
    ------
    InputError
        If Dask is not installed, no scheduler responds, or a task was lost without `lost`.
    """
    try:
        distributed: Any = import_module("distributed")  # its types are partial
    except ImportError:
        raise InputError("--dask", "needs Dask: pip install '.[cluster]' in a checkout") from None
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = f"no scheduler responds there ({str(error) or type(error).__name__})"
        raise InputError(f"--dask {address!r}", reason) from None
    left = iter(enumerate(tasks))
    running: dict[str, int] = {}

    def submit(number: int, task: T) -> Any:
        future = client.submit(call, task, pure=False)
        running[future.key] = number
        return future

    try:
        threads = max(sum(client.nthreads().values()), 1)
        first = [submit(*task) for task in islice(left, PER_THREAD * threads)]
        with client.as_current():
            finished = distributed.as_completed(first)
        for future in finished:
            number = running.pop(future.key)
            failure = future.exception()
            why = " ".join(f"the cluster gave up: {type(failure).__name__}: {failure}".split())
            outcome = future.result() if failure is None else _given_up("--dask", why, lost)
            following = next(left, None)
            if following is not None:
                finished.add(submit(*following))
            yield number, outcome
    finally:
        client.close()


@dataclass(frozen=True, slots=True)
class Workers:
    """Options of a command's workers.

    Attributes
    ----------
    count : int, optional
        Processes of this machine at most; one a core by default.
    dask : str, optional
        Address of a Dask scheduler, instead of processes.
    isolated : bool
        See `Crew`.

    Raises
    ------
    InputError
        Workers together with a cluster, or too many.
    """

    count: int | None = None
    dask: str | None = None
    isolated: bool = False

    def __post_init__(self) -> None:
        if self.dask is not None and self.count is not None:
            raise InputError("--workers", "cannot be combined with --dask; the cluster has its own workers")
        if self.count is not None:
            check_count(self.count, "--workers", 1, MAX_WORKERS)

    def each(
        self, call: Callable[[T], R], tasks: Sequence[T], lost: Callable[[str], R] | None = None
    ) -> Generator[tuple[int, R], None, None]:
        """Run tasks as `Crew.run` does; closing the generator ends the workers."""
        if not tasks:
            return
        if self.dask is not None:
            yield from run_cluster(call, tasks, lost, self.dask)
            return
        with Crew(min(self.count or cores(), len(tasks)), self.isolated) as crew:
            yield from crew.run(call, tasks, lost)


HERE = Workers(1)
"""One task after another in this process."""
