"""Exhaustive search over the configurations of the CUDA kernels: each checked, each timed, none left out.

What can be chosen at a launch: parts that a decode cuts its keys into, tiles of tokens that share a pass
over an expert's weights, stages of a tiled product. A configuration's time is a graph's, as in
`gpu_measure`; the copy rate before and after a shape says whether the device held still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import gpu
from .gpu_cases import GpuCase, Prepared
from .gpu_layer_cases import CASES
from .gpu_measure import check
from .lab import Shape
from .timing import CallSeconds

Config = Mapping[str, int]
STAGES = (2, 3, 4, 5)
DRIFT = 0.05
"""Largest change of the copy rate over a shape that counts."""


class DeviceTimer(Protocol):
    """What times calls on a device."""

    def sample(self, run: Callable[[int], object], repeats: int) -> CallSeconds:
        """Seconds of ``run(i)``."""
        ...


@dataclass(frozen=True, slots=True)
class GpuSpace:
    """What can be chosen for a kernel.

    Attributes
    ----------
    name : str
        Of its case.
    choices : callable
        ``choices(shape, cores)``: configurations, and the kernel's default one.
    """

    name: str
    choices: Callable[[Shape, int], tuple[Sequence[Config], Config]]


@dataclass(frozen=True, slots=True)
class GpuSearched:
    """One shape: every configuration with its time, and which one is the default."""

    kernel: str
    columns: Mapping[str, Any]
    configs: Sequence[Config]
    samples: Sequence[CallSeconds]
    default: int
    copy_Bps: float
    drift: float

    @property
    def steady(self) -> bool:
        """Whether the device held still."""
        return abs(self.drift) <= DRIFT

    @property
    def best(self) -> int:
        """Number of the fastest configuration."""
        return min(range(len(self.samples)), key=lambda i: self.samples[i].median_s)

    @property
    def gain(self) -> float:
        """Time of the default over the best one's."""
        return self.samples[self.default].median_s / self.samples[self.best].median_s

    def rows(self) -> list[dict[str, Any]]:
        """A row a configuration, as the table has them."""
        return [
            {**self.columns, **config, "seconds": s.median_s, "p10_s": s.p10_s, "p90_s": s.p90_s,
             "default": int(i == self.default), "copy_Bps": self.copy_Bps,
             "steady": int(self.steady)}
            for i, (config, s) in enumerate(zip(self.configs, self.samples, strict=True))
        ]  # fmt: skip


def _powers(most: int, default: int) -> list[int]:
    """Powers of two up to `most`, `most` itself and the kernel's own choice."""
    return sorted({*(1 << i for i in range(most.bit_length())), most, default})


def _splits(most: int, default: int) -> tuple[Sequence[Config], Config]:
    return [{"splits": n} for n in _powers(most, default)], {"splits": default}


def _decode(shape: Shape, cores: int) -> tuple[Sequence[Config], Config]:
    blocks = shape["batch"] * shape["heads_kv"] * -(-shape["heads_q"] // shape["heads_kv"] // 16)
    seen = min(shape["kv_len"], shape["window"] or shape["kv_len"])
    return _splits(gpu.most_splits(seen), gpu.decode_splits(cores, blocks, seen))


def _mla(shape: Shape, cores: int) -> tuple[Sequence[Config], Config]:
    blocks, longest = shape["batch"] * -(-shape["heads"] // 16), shape["kv_len"]
    return _splits(-(-longest // 64), gpu.mla_splits(cores, blocks, longest))


def _experts(shape: Shape, cores: int) -> tuple[Sequence[Config], Config]:
    default = gpu.expert_tiles(shape["tokens"] * shape["topk"] / shape["experts"])
    return [{"tiles": n} for n in (gpu.TILED, 1, 2, 4)], {"tiles": default}


def _gemm(shape: Shape, cores: int) -> tuple[Sequence[Config], Config]:
    return [{"stages": n} for n in STAGES], {"stages": gpu.STAGES}


SPACES = (
    GpuSpace("attention_decode", _decode), GpuSpace("mla_decode", _mla),
    GpuSpace("experts", _experts), GpuSpace("gemm", _gemm),
)  # fmt: skip


def search_gpu(
    device: gpu.CupyDevice,
    clock: DeviceTimer,
    copy_rate: Callable[[], float],
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    shapes: Mapping[str, Sequence[Shape]] | None = None,
) -> list[GpuSearched]:
    """Check and time every configuration of every shape.

    Parameters
    ----------
    copy_rate : callable
        Bytes per second of a copy, now.
    shapes : mapping of str to sequence, optional
        Of kernels by name; those that are measured without it.

    Raises
    ------
    WrongResult
        A configuration whose result is wrong.
    """
    cases = {case.name: case for case in CASES}
    work: list[tuple[GpuSpace, GpuCase, Shape]] = [
        (space, cases[space.name], shape)
        for space in SPACES
        if not only or space.name in only
        for shape in (shapes or {}).get(space.name) or cases[space.name].shapes(quick)
    ]
    results = []
    for done, (space, case, shape) in enumerate(work):
        if progress:
            progress(done, len(work))
        configs, default = space.choices(shape, device.cores)
        ready = case.prepare(device, shape)
        before = copy_rate()
        samples = [_timed(device, clock, ready, config, 10 if quick else 30) for config in configs]
        after = copy_rate()
        results.append(GpuSearched(space.name, ready.columns, configs, samples, configs.index(default),
                                 0.5 * (before + after), after / before - 1.0))  # fmt: skip
        device.cupy.get_default_memory_pool().free_all_blocks()
    return results


def _timed(device: gpu.CupyDevice, clock: DeviceTimer, ready: Prepared, config: Config, repeats: int) -> CallSeconds:
    check(device.cupy, ready, **config)
    return clock.sample(lambda i: ready.run(i, **config), repeats)
