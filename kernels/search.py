"""Exhaustive search over a CPU kernel's configurations, with every time.

Within a round all configurations of a shape run in a random order, on inputs that rotate over several times the
last-level cache. The time is the thread's time on its core, so that another process on the core costs nothing; its
cache effect is reduced by the lower quartile over the rounds. A configuration counts if the quartiles of its lower half
are close together, a shape if the machine's rates are equal before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocked import REGISTERS
from .ceilings import MachineRates, cache_rate, rates
from .configs import SPACES, ConfigSpace
from .host import HostInfo, cache_bytes, this_host
from .jit import blas_threads, use_threads
from .lab import Bench, Shape
from .vector import LANES

F8 = npt.NDArray[np.float64]
ROUNDS, QUICK_ROUNDS = 15, 7
STEADY = 0.05
"""Largest spread of a configuration that counts: lower quartile over the least time, less 1."""
DRIFT = 0.12
"""Largest change of a rate from before a shape to after it."""
TARGET_S = 3e-4
"""Calls are repeated within a turn until it takes this long: the clock of a thread has steps of
some hundred nanoseconds, and a call of Python costs a few microseconds."""


@dataclass(frozen=True, slots=True)
class SearchedShape:
    """One shape of one kernel.

    Attributes
    ----------
    configs : sequence
        Configurations, in the order of `seconds`.
    seconds : float64 array, shape (configs,)
        Lower quartile over the rounds.
    spread : float64 array, shape (configs,)
        Of that over the least time, less 1.
    """

    kernel: str
    shape: Shape
    configs: Sequence[Any]
    seconds: F8
    spread: F8
    before: MachineRates
    after: MachineRates

    @property
    def steady(self) -> bool:
        """Whether the machine held still."""
        return self.after.close_to(self.before, DRIFT)

    def rows(self) -> list[dict[str, Any]]:
        """A row a configuration, as the table has them."""
        rates = MachineRates.average([self.before, self.after])
        return [
            {
                "kernel": self.kernel, **self.shape, **asdict(config), "seconds": float(seconds),
                "spread": float(spread), "steady": int(self.steady and spread <= STEADY),
                "read_Bps": rates.read_Bps, "fma_flops_per_s": rates.fma_flops_per_s,
            }
            for config, seconds, spread in zip(self.configs, self.seconds, self.spread, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelSearch:
    """All shapes, and the machine.

    Attributes
    ----------
    core : dict of str to float
        What a core is: see `this_core`.
    """

    host: HostInfo
    core: dict[str, float]
    found: Sequence[SearchedShape]

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """Columns of each kernel's table: device, core, shape, configuration, time, ceilings."""
        out: dict[str, dict[str, list[Any]]] = {}
        for one in self.found:
            for row in one.rows():
                line = {"device": self.host.device, **row, **self.core}
                table = out.setdefault(one.kernel, {name: [] for name in line})
                for name, value in line.items():
                    table[name].append(value)
        return out


CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
"""Sizes where the system tells none: small ones of today's cores [B], so that blocks fit."""


def this_core(bench: Bench) -> dict[str, float]:
    """Registers, caches and cache rates of the core this runs on.

    Returns
    -------
    dict
        ``lanes``, ``registers``, ``l1_bytes`` to ``l3_bytes``, ``l2_Bps``, ``l3_Bps``.
    """
    caches = cache_bytes()
    sizes = [float(caches.get(level, assumed)) for level, assumed in CACHES.items()]
    return {
        "lanes": LANES, "registers": REGISTERS, "l1_bytes": sizes[0], "l2_bytes": sizes[1],
        "l3_bytes": sizes[2], "l2_Bps": cache_rate(bench, sizes[1] / 2),
        "l3_Bps": cache_rate(bench, min(4.0 * sizes[1], sizes[2] / 2)),
    }  # fmt: skip


def search(
    *, quick: bool = False, only: Sequence[str] = (), seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> KernelSearch:
    """Time every configuration of every shape on one thread.

    Parameters
    ----------
    quick : bool
        Fewer shapes and rounds.
    only : sequence of str
        Names of spaces; all without it.
    progress : callable, optional
        Called with (shapes done, shapes in all).

    Raises
    ------
    WrongResult
        A configuration disagrees with the reference: its shape is not timed.
    """
    use_threads(1)
    rng = np.random.default_rng(seed)
    with blas_threads(1):
        bench = Bench((256 if quick else 512) << 20, 1, seed)
        work = [(s, shape) for s in SPACES if not only or s.name in only for shape in s.shapes(quick)]
        results = []
        for number, (space, shape) in enumerate(work):
            if progress:
                progress(number, len(work))
            results.append(_one(space, shape, bench, QUICK_ROUNDS if quick else ROUNDS, rng))
        core = this_core(bench)
    return KernelSearch(this_host(1), core, results)


def _one(space: ConfigSpace, shape: Shape, bench: Bench, rounds: int, rng: np.random.Generator) -> SearchedShape:
    """Every configuration of a shape."""
    ready, configs = space.ready(shape, bench), list(space.configs())
    for config in configs:
        ready.check(config)
    calls = [ready.run(config) for config in configs]
    repeats = [_repeats(call) for call in calls]
    before = rates(bench)
    taken = np.empty((rounds, len(calls)))
    turn = 0
    for r in range(rounds):
        for c in rng.permutation(len(calls)):
            began = time.thread_time()
            for _ in range(repeats[c]):
                calls[c](turn)
                turn += 1
            taken[r, c] = (time.thread_time() - began) / repeats[c]
    seconds = np.quantile(taken, 0.25, axis=0)
    return SearchedShape(space.name, shape, configs, seconds, seconds / taken.min(0) - 1.0, before, rates(bench))


def _repeats(call: Callable[[int], object]) -> int:
    """Calls of a turn."""
    call(0)
    began = time.thread_time()
    call(1)
    return max(1, round(TARGET_S / max(time.thread_time() - began, 1e-6)))
