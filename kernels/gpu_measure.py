"""Measurement of the CUDA kernels on a GPU, with graphs, rotated buffers, and peak rates of the same run.

The search times every configuration that can be chosen at a launch: parts that a decode cuts its keys into, tiles of
tokens that share a pass over an expert's weights, stages of a tiled product. Each is checked, each is timed as a graph;
the copy rate before and after a shape says whether the device held still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..workloads.errors import InputError
from . import gpu
from .ceilings import Ceilings
from .check import require
from .gpu_cases import GpuCase, Prepared
from .gpu_layer_cases import CASES
from .host import HostInfo, this_host
from .lab import Shape
from .measure import LEAST, MAX_DRIFT, MeasuredShape, Measurement
from .rounds import OnProgress
from .timing import CallSeconds

PRODUCTS = {
    "H100 80GB HBM3": "H100-SXM-80GB", "H200": "H200-SXM-141GB", "A100-SXM4-80GB": "A100-SXM-80GB",
    "A100-SXM4-40GB": "a100-sxm-40gb", "L40S": "L40S-48GB", "B200": "B200-SXM-180GB",
}  # fmt: skip
"""Name of a GPU in tables, by the end of the driver's name."""
CALLS = 20
"""Number of calls in one graph."""


def open_device() -> gpu.CupyDevice:
    """Open the GPU, or refuse with a one-line error.

    Raises
    ------
    InputError
        CuPy is not installed, or finds no device.
    """
    try:
        import cupy
    except ImportError:
        raise InputError("--backend cupy", "CuPy is not installed: pip install '.[gpu]' in a checkout") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise InputError("--backend cupy", f"no CUDA device ({str(error).strip()})") from None
    if not count:
        raise InputError("--backend cupy", "no CUDA device")
    return gpu.CupyDevice()


class Timer:
    """Timer of calls with CUDA graphs on a separate stream."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def sample(self, run: Callable[[int], object], repeats: int) -> CallSeconds:
        """Time a graph of `CALLS` calls `repeats` times; calls use the buffers in turn."""
        cp = self.cupy
        with self.stream:
            for i in range(3):
                run(i)  # compiles, and warms the memory pool and the libraries' workspaces
            self.stream.synchronize()
            self.stream.begin_capture()
            for i in range(CALLS):
                run(i)
            graph = self.stream.end_capture()
            graph.launch(self.stream)
            times = []
            for _ in range(repeats):
                start, stop = cp.cuda.Event(), cp.cuda.Event()
                start.record(self.stream)
                graph.launch(self.stream)
                stop.record(self.stream)
                stop.synchronize()
                times.append(cp.cuda.get_elapsed_time(start, stop) * 1e-3 / CALLS)
        return CallSeconds.of(times, [True] * len(times))

    def eager(self, run: Callable[[int], object], repeats: int) -> CallSeconds:
        """Time calls without a graph, launches included, for libraries that allocate memory."""
        cp = self.cupy
        times = []
        with self.stream:
            run(0)
            for _ in range(repeats):
                start, stop = cp.cuda.Event(), cp.cuda.Event()
                start.record(self.stream)
                for i in range(CALLS):
                    run(i)
                stop.record(self.stream)
                stop.synchronize()
                times.append(cp.cuda.get_elapsed_time(start, stop) * 1e-3 / CALLS)
        return CallSeconds.of(times, [True] * len(times))


def copy_rate(cupy: Any, timer: Timer) -> float:
    """Return the bytes per second of a copy of 256 MiB, counting bytes read and written."""
    count = 64 << 20
    a, b = (cupy.ones(count, "float32") for _ in range(2))
    return 8 * count / timer.sample(lambda i: cupy.copyto(b, a), 5).median_s


def matmul_rate(cupy: Any, timer: Timer, size: int) -> float:
    """Return the FLOP/s of cuBLAS in fp16 on random square matrices."""
    a, b = (cupy.random.standard_normal((size, size), dtype="float32").astype("float16") for _ in range(2))
    out = cupy.empty((size, size), "float16")
    return 2.0 * size**3 / timer.sample(lambda i: cupy.matmul(a, b, out=out), 5).median_s


def measure_gpu(
    *, quick: bool = False, only: Sequence[str] = (), lenient: bool = False,
    progress: OnProgress | None = None,
) -> Measurement:  # fmt: skip
    """Measure the CUDA kernels; see `kernels.measure.measure` for the parameters."""
    device = open_device()
    cp = device.cupy
    timer = Timer(cp)
    host = gpu_host(device)
    copy = copy_rate(cp, timer)
    gemm = matmul_rate(cp, timer, 4096 if quick else 8192)
    work = [(case, shape) for case in CASES if not only or case.name in only for shape in case.shapes(quick)]
    rows: list[MeasuredShape] = []
    rejected: list[MeasuredShape] = []
    for done, (case, shape) in enumerate(work):
        if progress:
            progress(done, len(work))
        ready = case.prepare(device, shape)
        check(cp, ready)
        before = copy_rate(cp, timer)
        taken = timer.sample(ready.run, 10 if quick else 30)
        other = None if ready.other is None else timer.eager(ready.other, 10 if quick else 30)
        after = copy_rate(cp, timer)
        drift = after / before - 1.0
        reason = f"copy rate changed by {drift:+.0%}" if abs(drift) > MAX_DRIFT else ""
        row = MeasuredShape(case.name, case.family, ready.columns, taken, other, ready.flops, ready.bytes,
                  0.5 * (before + after), drift, reason)  # fmt: skip
        assert taken.taken >= LEAST
        (rows if lenient or not reason else rejected).append(row)
        cp.get_default_memory_pool().free_all_blocks()
    return Measurement(host, Ceilings(copy, copy, gemm, gemm), rows, rejected)


def gpu_host(device: gpu.CupyDevice) -> HostInfo:
    """Return the machine with its GPU as the processor."""
    cp = device.cupy
    properties = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)
    title = properties["name"].decode()
    name = next((v for k, v in PRODUCTS.items() if title.endswith(k)), title.replace(" ", "-"))
    driver = str(cp.cuda.runtime.driverGetVersion())
    return replace(
        this_host(device.cores), cpu=title, name=name, libraries={**this_host(1).libraries, "driver": driver}
    )


def check(cupy: Any, ready: Prepared, **config: int) -> None:
    """Run a kernel once on poisoned outputs and compare the result.

    Raises
    ------
    WrongResult
    """
    ready.poison()
    ready.run(0, **config)
    cupy.cuda.Device().synchronize()
    got, want = ready.results()
    require(np.asarray(got), want, ready.format_, f"{dict(ready.columns)} {config}")


Config = Mapping[str, int]
STAGES = (2, 3, 4, 5)
DRIFT = 0.05
"""Largest relative change of the copy rate during a shape that counts as steady."""


class DeviceTimer(Protocol):
    """Interface of timers for calls on a device."""

    def sample(self, run: Callable[[int], object], repeats: int) -> CallSeconds:
        """Return the seconds of ``run(i)``."""
        ...


@dataclass(frozen=True, slots=True)
class GpuSpace:
    """Search space of a GPU kernel.

    Attributes
    ----------
    name : str
        Name of its case.
    choices : callable
        ``choices(shape, cores)``: configurations, and the kernel's default one.
    """

    name: str
    choices: Callable[[Shape, int], tuple[Sequence[Config], Config]]


@dataclass(frozen=True, slots=True)
class GpuSearched:
    """Result of one shape: every configuration with its time, and the number of the default."""

    kernel: str
    columns: Mapping[str, Any]
    configs: Sequence[Config]
    samples: Sequence[CallSeconds]
    default: int
    copy_Bps: float
    drift: float

    @property
    def steady(self) -> bool:
        """Whether the device's copy rate was steady."""
        return abs(self.drift) <= DRIFT

    @property
    def best(self) -> int:
        """Number of the fastest configuration."""
        return min(range(len(self.samples)), key=lambda i: self.samples[i].median_s)

    @property
    def gain(self) -> float:
        """Ratio of the default configuration's time to the best one's."""
        return self.samples[self.default].median_s / self.samples[self.best].median_s

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each configuration, with the columns of the table."""
        return [
            {**self.columns, **config, "seconds": s.median_s, "p10_s": s.p10_s, "p90_s": s.p90_s,
             "default": int(i == self.default), "copy_Bps": self.copy_Bps,
             "steady": int(self.steady)}
            for i, (config, s) in enumerate(zip(self.configs, self.samples, strict=True))
        ]  # fmt: skip


def _powers(most: int, default: int) -> list[int]:
    """Return the powers of two up to `most`, and `most` and `default`."""
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
    progress: OnProgress | None = None,
    shapes: Mapping[str, Sequence[Shape]] | None = None,
) -> list[GpuSearched]:
    """Check and time every configuration of every shape.

    Parameters
    ----------
    copy_rate : callable
        Bytes per second of a copy, now.
    shapes : mapping of str to sequence, optional
        Shapes of kernels by name; by default the measured shapes.

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
