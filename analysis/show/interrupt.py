"""Interrupts: ending a command without half-written files.

Python handles a signal only between two of its instructions, so a long call of compiled code would delay it. Compiled
code therefore runs without the interpreter's lock, and a thread waits in parallel: if the main thread has not ended
within `GRACE_S` of a signal, it ends the process and its children. Unfinished files are always removed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

GRACE_S = 1.2
"""Time for an orderly end; with the start of the thread it stays below two seconds."""
SIGNALS = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)

_unfinished: set[Callable[[], None]] = set()


class Ended(BaseException):
    """Raised if a signal ends the process; `code` is the exit status (128 + signal number).

    It is not a `KeyboardInterrupt`, because the option parser ends the process silently on one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)  # SimPy copies an exception from its class and arguments
        self.code = 128 + number

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.code - 128).name}"


@contextmanager
def endable() -> Iterator[None]:
    """Let signals end the block quickly, without unfinished files or worker processes.

    Raises
    ------
    Ended
        Instead of `KeyboardInterrupt`, on the first of `SIGNALS`.
    """
    taken = {n: h for n in SIGNALS if (h := signal.getsignal(n)) is not signal.SIG_IGN}  # ignored under nohup
    if threading.current_thread() is not threading.main_thread() or not taken:
        yield
        return
    lines: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        lines.append(number)
        if len(lines) == 1:  # a second signal must not interrupt the clean-up
            end_children()
            raise Ended(number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    unraisable = sys.unraisablehook
    # Python drops what a finalizer raises. Then `_watch` ends the process, and the line of an end is enough.
    sys.unraisablehook = lambda dropped: None if isinstance(dropped.exc_value, Ended) else unraisable(dropped)
    try:
        with _handled(end, taken, writer):
            threading.Thread(target=_watch, args=(reader, taken), daemon=True).start()
            yield
    except Exception:
        if lines:  # an extension that was being imported reports `Ended` as an error of its own
            raise Ended(lines[0]) from None
        raise
    finally:
        sys.unraisablehook = unraisable
        os.close(writer)  # the thread reads the end of the pipe, and ends


def _watch(reader: int, taken: Collection[int]) -> None:
    """Wait for a signal, then at most `GRACE_S` for the main thread to end; after that, end the process."""
    deadline: float | None = None
    number = 0
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        if not select.select([reader], [], [], left)[0]:
            _end_now(number)
        data = os.read(reader, 1)
        if not data:
            os.close(reader)
            return
        if deadline is None and data[0] in taken:
            number, deadline = data[0], time.monotonic() + GRACE_S


def _end_now(number: int) -> None:
    for remove in list(_unfinished):
        with suppress(Exception):
            remove()
    with suppress(Exception):
        end_children()
    with suppress(OSError):
        os.write(2, f"opbyte: error: {Ended(number)}\n".encode())
    os._exit(128 + number)


def end_children() -> None:
    """Kill the worker processes of this process; they have no files to clean up."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()


@contextmanager
def whole(remove: Callable[[], None]) -> Iterator[None]:
    """Register `remove` during the block; it is called if the process must end immediately."""
    _unfinished.add(remove)
    try:
        yield
    finally:
        _unfinished.discard(remove)


@contextmanager
def heard(tell: Callable[[int], object]) -> Iterator[None]:
    """Let the first signal call `tell` with its number, so that the block can end in order.

    A second signal ends the block as `endable` does.
    """
    if not (before := _handlers()):
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        for n, handler in before.items():
            signal.signal(n, handler)
        tell(number)

    with _handled(end, before):
        yield


def _handlers() -> dict[int, Any]:
    """Return the current handlers of signals; empty outside the main thread, because only it can replace them."""
    main = threading.current_thread() is threading.main_thread()
    return {n: h for n in SIGNALS if main and callable(h := signal.getsignal(n))}


@contextmanager
def _handled(
    end: Callable[[int, FrameType | None], object], before: dict[int, Any], writer: int = -1
) -> Iterator[None]:
    """Handle signals by `end` while a block runs, and as before afterwards.

    The pipe `writer` receives their numbers. Without it `_watch` hears of none, and does not end the process.
    """
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals off until the end of a short block that must not be left half done."""
    if not (before := _handlers()):
        yield
        return
    pending: list[int] = []
    with _handled(lambda number, frame: pending.append(number), before):
        yield
    for number in pending[:1]:
        signal.raise_signal(number)
