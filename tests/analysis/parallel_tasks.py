"""Tasks of `test_parallel`, where spawned workers can import them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from opbyte.workloads.errors import CapacityError


def square(number: int) -> int:
    return number * number


def die_over_three(number: int) -> int:
    """Stands for a simulation that runs out of memory."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(file: str) -> str:
    """Its first worker dies, the next one does not."""
    if not Path(file).exists():
        Path(file).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return file


def refuse(number: int) -> int:
    if number == 2:
        raise CapacityError("a model", "needs 2 GiB, has 1")
    return number


def whole(number: int) -> tuple[int, Callable[[], int]]:
    return number, lambda: number
