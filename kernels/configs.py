"""Search spaces of the CPU kernels, and the exhaustive search over them, with every time.

The registered spaces are what `search` measures and what a model of the kernels ranks. A space names the
columns of its shapes and of its configurations; the latter are the fields of their dataclass.

Within a round all configurations of a shape run in a random order, on inputs that rotate over several times the
last-level cache. The time is the thread's time on its core, so that another process on the core costs nothing; its
cache effect is reduced by the lower quartile over the rounds. A configuration counts if the quartiles of its lower half
are close together, a shape if the machine's rates are equal before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from . import gemm
from .attention import checked, paged_inputs
from .blocked import DEFAULT as GEMM_DEFAULT
from .blocked import MOST_ROWS, REGISTERS, GemmConfig
from .ceilings import MachineRates, cache_rate, rates
from .check import require
from .flash import TILES, AttentionConfig
from .host import HostInfo, cache_bytes, this_host
from .jit import blas_threads, use_threads
from .lab import Bench, Shape
from .rounds import OnProgress
from .vector import LANES

Run = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Ready:
    """A shape with its inputs in memory, ready to run.

    Attributes
    ----------
    run : callable
        ``run(config)`` gives ``call(i)``, which computes with the i-th set of inputs.
    check : callable
        ``check(config)`` compares with the reference, and raises `check.WrongResult`.
    """

    run: Callable[[Any], Run]
    check: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """Search space of a kernel's configurations.

    Attributes
    ----------
    shape : tuple of str
        Columns of a shape.
    shapes : callable
        ``shapes(quick)``
    configs : callable
        ``configs()``: those that run on this machine, the default among them.
    default : object
        The configuration that the kernel takes where nothing is chosen.
    ready : callable
        ``ready(shape, bench)``
    """

    name: str
    shape: tuple[str, ...]
    shapes: Callable[[bool], Sequence[Shape]]
    configs: Callable[[], Sequence[Any]]
    default: Any
    ready: Callable[[Shape, Bench], Ready]

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns of a configuration in tables."""
        return tuple(f.name for f in fields(self.default))


def _gemm_shapes(quick: bool) -> Sequence[Shape]:
    sides = [(512, 512), (2048, 1024)]
    rows = [8, 16, 64, 200]
    if not quick:
        sides += [(1024, 1024), (2048, 2048), (1024, 4096), (4096, 512)]
        rows = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
    return [{"m": m, "n": n, "k": k} for n, k in sides for m in rows]


def _gemm_configs() -> Sequence[GemmConfig]:
    configs = []
    for n, m in product((4, 8), range(1, MOST_ROWS + 1)):
        for passes, columns in product((0, 8), (0, 16, 64, 256)):
            configs.append(GemmConfig(m, n, passes * m, columns))
    return [config for config in configs if not config.invalid()]


def _gemm_ready(shape: Shape, bench: Bench) -> Ready:
    m, n, k = shape["m"], shape["n"], shape["k"]
    weights, x, out = gemm.operands(m, n, k, bench)
    want = x.astype(np.float64) @ weights[0].T.astype(np.float64)

    def check(config: GemmConfig) -> None:
        out[:] = np.nan
        gemm.gemm(x, weights[0], out, bench.threads, config)
        require(out, want, "fp32", f"gemm {dict(shape)} {config}")

    return Ready(lambda config: lambda i: gemm.gemm(x, weights[i % len(weights)], out, bench.threads, config), check)


def _decode_shapes(quick: bool) -> Sequence[Shape]:
    heads = [(16, 4, 64), (32, 8, 128)]
    lengths = [256, 2048] if quick else [128, 256, 512, 1024, 2048, 4096]
    return [
        {"batch": batch, "kv_len": kv_len, "heads_q": q, "heads_kv": kv, "head_dim": dim, "window": 0}
        for q, kv, dim in heads
        for batch in ((1, 4) if quick else (1, 2, 4, 8))
        for kv_len in lengths
        if batch * kv_len * kv * dim <= 4 * 4096 * 8 * 128
    ]


def _prefill_shapes(quick: bool) -> Sequence[Shape]:
    lengths = [64, 256] if quick else [32, 64, 128, 256, 512]
    return [
        {"batch": 1, "q_len": q_len, "kv_prefix": prefix, "heads_q": q, "heads_kv": kv, "head_dim": dim, "window": 0}
        for q, kv, dim in [(16, 4, 64), (32, 8, 128)]
        for q_len in lengths
        for prefix in ((0, 512) if quick else (0, 128, 512))
    ]


def _decode_configs() -> Sequence[AttentionConfig]:
    return [AttentionConfig(tile, chunk) for tile in TILES for chunk in (64, 256, 1024, 4096)]


def _prefill_configs() -> Sequence[AttentionConfig]:
    return [AttentionConfig(tile, 1024, block) for tile in TILES for block in (2, 4, 8, 16, 32)]


def _attention_ready(shape: Shape, bench: Bench) -> Ready:
    inputs = paged_inputs(shape, bench)
    want = inputs.reference()

    def check(config: AttentionConfig) -> None:
        checked(*inputs.call(bench.threads, config), want, f"attention {dict(shape)} {config}")

    return Ready(lambda config: inputs.call(bench.threads, config)[0], check)


SPACES = (
    ConfigSpace("gemm", ("m", "n", "k"), _gemm_shapes, _gemm_configs, GEMM_DEFAULT, _gemm_ready),
    ConfigSpace("attention_decode", ("batch", "kv_len", "heads_q", "heads_kv", "head_dim", "window"),
          _decode_shapes, _decode_configs, AttentionConfig(), _attention_ready),
    ConfigSpace("attention_prefill", ("batch", "q_len", "kv_prefix", "heads_q", "heads_kv", "head_dim",
                                "window"),
          _prefill_shapes, _prefill_configs, AttentionConfig(), _attention_ready),
)  # fmt: skip


F8 = npt.NDArray[np.float64]
ROUNDS, QUICK_ROUNDS = 15, 7
STEADY = 0.05
"""Largest relative spread of a configuration that counts: lower quartile over the least time, minus 1."""
DRIFT = 0.12
"""Largest relative change of a rate during a shape that counts as steady."""
TARGET_S = 3e-4
"""Least duration of a turn [s], reached by repeated calls: the clock of a thread has steps of some hundred nanoseconds,
and a call of Python costs a few microseconds."""


@dataclass(frozen=True, slots=True)
class SearchedShape:
    """Result of searching one shape of one kernel.

    Attributes
    ----------
    configs : sequence
        Configurations, in the order of `seconds`.
    seconds : float64 array, shape (configs,)
        Lower quartile over the rounds.
    spread : float64 array, shape (configs,)
        Lower quartile over the least time, minus 1.
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
        """Whether the machine's rates were steady."""
        return self.after.close_to(self.before, DRIFT)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each configuration, with the columns of the table."""
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
    """Search results for all kernel shapes, with the host's description.

    Attributes
    ----------
    core : dict of str to float
        What a core is: see `this_core`.
    """

    host: HostInfo
    core: dict[str, float]
    found: Sequence[SearchedShape]

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """Return the columns of each kernel's table: device, core, shape, configuration, time and peak rates."""
        out: dict[str, dict[str, list[Any]]] = {}
        for one in self.found:
            for row in one.rows():
                line = {"device": self.host.device, **row, **self.core}
                table = out.setdefault(one.kernel, {name: [] for name in line})
                for name, value in line.items():
                    table[name].append(value)
        return out


CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
"""Cache sizes that are assumed if the system states none: small ones of today's cores [B], so that blocks fit."""


def this_core(bench: Bench) -> dict[str, float]:
    """Return registers, caches and cache rates of the core that runs this process.

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
    *, quick: bool = False, only: Sequence[str] = (), seed: int = 0, progress: OnProgress | None = None
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
    """Search all configurations of one shape."""
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
    """Return the number of calls per turn."""
    call(0)
    began = time.thread_time()
    call(1)
    return max(1, round(TARGET_S / max(time.thread_time() - began, 1e-6)))
