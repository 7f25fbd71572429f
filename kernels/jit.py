"""Compilation of the CPU kernels: threads, fast arithmetic, and the library's cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from types import FunctionType
from typing import Any

import numba

from ..workloads.jit import forgiving, stored

Compiled = Callable[..., Any]

ALONE_BYTES = 1 << 20
"""Traffic that one core moves in about the time that threads take to start [B] (30 us at 30 GB/s)."""

SPINS = 1000
"""Rounds that an OpenMP thread without work spins before it sleeps."""

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Optimisations that the compiler may use: sums in any order, fused multiply-adds. NaN and infinity are preserved."""


def parallel(function: Compiled) -> Compiled:
    """Compile a function whose `numba.prange` loops run on `use_threads` threads.

    Its last argument is the number of threads. For one, a clone without threads is called: starting them takes 10 to
    100 us, more than many a small kernel.
    """
    many = _cached(function, parallel=True, nogil=True)
    one = _cached(_renamed(function, "_alone"), nogil=True)

    @wraps(function)
    def choose(*args: Any) -> Any:
        return one(*args) if args[-1] == 1 else many(*args)

    return choose


def _renamed(function: Compiled, suffix: str) -> Compiled:
    """Return the function under another name.

    Numba files what it compiled by name and source, not by options: the twins of `parallel` under
    one name would take each other's code from the cache.
    """
    made = FunctionType(function.__code__, function.__globals__, function.__name__ + suffix,
                        function.__defaults__, function.__closure__)  # fmt: skip
    made.__qualname__ = function.__qualname__ + suffix
    made.__module__ = function.__module__
    return made


def threads_for(bytes_: float, threads: int) -> int:
    """Return the number of threads to start for this much traffic [B]: one below `ALONE_BYTES`."""
    return threads if bytes_ >= ALONE_BYTES else 1


def inner(function: Compiled) -> Compiled:
    """Compile a function that only compiled functions call."""
    jit: Callable[..., Callable[[Compiled], Compiled]] = numba.njit
    return jit(error_model="numpy", fastmath=FAST, no_cpython_wrapper=True)(function)


def serial(function: Compiled) -> Compiled:
    """Compile a function that runs on the caller's thread."""
    return _cached(function, nogil=True)


def _cached(function: Compiled, **options: bool) -> Compiled:
    jit: Callable[..., Callable[[Compiled], Compiled]] = numba.njit
    return stored(
        lambda cache: forgiving(jit(cache=cache, error_model="numpy", fastmath=FAST, **options)(function), threads=True)
    )


def use_threads(count: int) -> None:
    """Set the number of threads on which parallel kernels run in this process.

    Use threads of OpenMP if Numba can load it, else Numba's, unless ``NUMBA_THREADING_LAYER`` is set. Numba's own
    sleep between calls and take 100 us to start; GNU OpenMP's spin until the next call and take 2 us, and 25 us after
    more than `SPINS`. Without that bound they occupy a core that another process needs: decode attention then ran at 7
    instead of 30 GB/s on two cores shared with a third thread.
    """
    config: Any = numba.config
    if "NUMBA_THREADING_LAYER" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
        config.THREADING_LAYER = "omp" if find_spec("numba.np.ufunc.omppool") else "workqueue"
    numba.set_num_threads(count)


def max_threads() -> int:
    """Return the number of threads that parallel kernels can use: the cores available to this process."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    config: Any = numba.config
    return max(1, min(allowed or 1, int(config.NUMBA_NUM_THREADS)))


def blas_threads(count: int) -> AbstractContextManager[object]:
    """Limit NumPy's BLAS to a number of threads, if threadpoolctl is installed."""
    if find_spec("threadpoolctl") is None:
        return nullcontext()
    limit = import_module("threadpoolctl").threadpool_limits  # of the tests' extra
    limits: AbstractContextManager[object] = limit(limits=count, user_api="blas")
    return limits
