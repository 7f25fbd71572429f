"""Worker processes: they leave signals to their parent, and never outlive it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

from .interrupt import end_children


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes, killed where the block is left by an exception."""
    pool = new_pool(count)
    try:
        yield pool
    except BaseException:
        end_children()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def new_pool(count: int) -> ProcessPoolExecutor:
    """A pool of spawned processes that end with this one; shutting it down is the caller's."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=as_worker)


def as_worker() -> None:
    """Make this process a worker: to be called first thing in it."""
    # A terminal sends an interrupt to every process; the parent acts on it for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
