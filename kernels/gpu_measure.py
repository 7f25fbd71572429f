"""Measure the CUDA kernels on a GPU: graphs over rotated buffers, events, ceilings of the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..workloads.errors import InputError
from . import gpu
from .ceilings import Ceilings
from .check import require
from .gpu_cases import Prepared
from .gpu_layer_cases import CASES
from .host import HostInfo, this_host
from .measure import LEAST, MAX_DRIFT, MeasuredShape, Measurement
from .timing import CallSeconds

PRODUCTS = {
    "H100 80GB HBM3": "H100-SXM-80GB", "H200": "H200-SXM-141GB", "A100-SXM4-80GB": "A100-SXM-80GB",
    "A100-SXM4-40GB": "a100-sxm-40gb", "L40S": "L40S-48GB", "B200": "B200-SXM-180GB",
}  # fmt: skip
"""End of a driver's name of a GPU -> the tables' name of the product."""
CALLS = 20
"""Calls in one graph."""


def open_device() -> gpu.CupyDevice:
    """The GPU, or one clear line.

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
    """Seconds of a call by CUDA graphs on a separate stream."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def sample(self, run: Callable[[int], object], repeats: int) -> CallSeconds:
        """Time `CALLS` calls in one graph, `repeats` times; the buffers take turns."""
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
        """The same without a graph, for libraries that allocate: launches included."""
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
    """Bytes per second of copying 256 MiB, read and written bytes counted."""
    count = 64 << 20
    a, b = (cupy.ones(count, "float32") for _ in range(2))
    return 8 * count / timer.sample(lambda i: cupy.copyto(b, a), 5).median_s


def matmul_rate(cupy: Any, timer: Timer, size: int) -> float:
    """FLOP/s of cuBLAS in fp16 on random square matrices."""
    a, b = (cupy.random.standard_normal((size, size), dtype="float32").astype("float16") for _ in range(2))
    out = cupy.empty((size, size), "float16")
    return 2.0 * size**3 / timer.sample(lambda i: cupy.matmul(a, b, out=out), 5).median_s


def measure_gpu(
    *, quick: bool = False, only: Sequence[str] = (), lenient: bool = False,
    progress: Callable[[int, int], None] | None = None,
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
    """The machine with its GPU in the processor's place."""
    cp = device.cupy
    properties = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)
    title = properties["name"].decode()
    name = next((v for k, v in PRODUCTS.items() if title.endswith(k)), title.replace(" ", "-"))
    driver = str(cp.cuda.runtime.driverGetVersion())
    return replace(
        this_host(device.cores), cpu=title, name=name, libraries={**this_host(1).libraries, "driver": driver}
    )


def check(cupy: Any, ready: Prepared, **config: int) -> None:
    """Run once on poisoned outputs, and compare.

    Raises
    ------
    WrongResult
    """
    ready.poison()
    ready.run(0, **config)
    cupy.cuda.Device().synchronize()
    got, want = ready.results()
    require(np.asarray(got), want, ready.format_, f"{dict(ready.columns)} {config}")
