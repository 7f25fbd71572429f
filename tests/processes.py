"""Processes of tests: none outlives its test, and how loaded a machine is decides nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 600.0
"""Ends a test that hangs; what a verdict waits for is said by processes, not by the clock."""
Start = Callable[..., "subprocess.Popen[str]"]


def environment(*folders: str, **more: str) -> dict[str, str]:
    """Return the variables with which a process finds the modules that this one does, and those of some folders."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *filter(None, sys.path)]), **more}


def usual_signals() -> None:
    """Take signals as a terminal's child does.

    A background job, `nohup` or a CI server may have them ignored, which every process started from
    here would inherit and never be ended by.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, usual)
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process with what it started, and close its pipes."""
    if process.poll() is None:
        for pid in [*descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def descendants(process: int) -> list[int]:
    """Processes that another one started and theirs, by Linux' own list, the youngest first."""
    try:
        own = [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [pid for child in own for pid in [*descendants(child), child]]


def busy(process: subprocess.Popen[str], cpu_s: float) -> None:
    """Wait until a process and those it started have computed for so long."""
    tick = os.sysconf("SC_CLK_TCK")
    spent = 0.0
    while spent < cpu_s:
        assert process.poll() is None, "it ended before it was told to"
        time.sleep(0.02)
        spent = sum(_ticks(pid) for pid in [process.pid, *descendants(process.pid)]) / tick


def _ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _stat(pid: int) -> list[str]:
    """What Linux says of a process, from its state on; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return _stat(pid)[:1] not in ([], ["Z"])


def ends(pid: int) -> bool:
    """Whether a process ends."""
    until = time.monotonic() + PATIENCE_S
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not runs(pid)
