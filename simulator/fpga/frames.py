"""Images served by one FPGA: open-loop arrivals or a closed loop, task switches, latency and energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from ...workloads.errors import InputError
from ...workloads.vit_requests import ImageRouter, check_images, make_image_router
from .deploy import FpgaDeployment, image_program
from .engine import Caches, FrameResult, run_frame
from .schedules import SCHEDULES, ExpertBlock, Steps

I8 = npt.NDArray[np.int64]
F8 = npt.NDArray[np.float64]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Frames:
    """Served images, one entry per image, in order of arrival.

    Attributes
    ----------
    task : int64 array, shape (images,)
        Task of each image.
    arrival_s, start_s, end_s : float64 arrays, shape (images,)
        Time of arrival, start and end of each image [s].
    runs : tuple of FrameResult
        Simulated engine of each image.
    clock_Hz, board_W : float
        Clock of the engine [Hz], and constant power of the board [W].
    """

    task: I8
    arrival_s: F8
    start_s: F8
    end_s: F8
    runs: tuple[FrameResult, ...]
    clock_Hz: float
    board_W: float

    @property
    def cycles(self) -> int:
        """Cycles in which the engine worked."""
        return sum(run.cycles for run in self.runs)

    @property
    def latency_s(self) -> F8:
        """Time from arrival to end of each image, shape (images,) [s]."""
        return self.end_s - self.arrival_s

    @property
    def makespan_s(self) -> float:
        """Time from the first arrival to the last end [s]."""
        return float(self.end_s.max() - self.arrival_s.min())

    @property
    def joules(self) -> float:
        """Energy of the board over the whole run, including idle times [J]."""
        return self.board_W * self.makespan_s


def serve_images(
    d: FpgaDeployment,
    tasks: I8,
    *,
    arrivals: F8 | None = None,
    in_flight: int = 1,
    schedule: str = "reordered",
    routing: str = "uniform",
    seed: int = 0,
    forget: bool = True,
    progress: OnProgress | None = None,
) -> Frames:
    """Serve images one after another, in order of arrival.

    Parameters
    ----------
    tasks : int64 array, shape (images,)
        Task of each image.
    arrivals : float64 array, shape (images,), optional
        Arrival times [s]; by default a closed loop keeps `in_flight` images in the system.
    seed : int
        Seed of the routing; the same image, task and layer have the same sample in every run.
    forget : bool
        Whether a task switch empties the expert caches.
    progress : callable, optional
        Called with (images finished, images in total).

    Raises
    ------
    InputError
        No images, unknown names, or a model that takes no images.
    """
    check_images(len(tasks))
    if in_flight < 1:
        raise InputError("--in-flight", f"must be at least 1, not {in_flight}")
    SCHEDULES[schedule]  # reports an unknown name before the run
    program, router = image_program(d), _router(d, tasks, routing, seed)
    spec = d.engine.cache
    caches = Caches(int(spec.experts) if spec else 0, spec.policy if spec else "lru")
    env = simpy.Environment()
    server = simpy.Resource(env)
    n, clock = len(tasks), d.engine.clock_Hz
    stamps = np.zeros((3, n))
    runs: list[FrameResult] = []

    def one(i: int) -> Steps:
        stamps[0, i] = env.now
        with server.request() as turn:
            yield turn
            stamps[1, i] = env.now
            if forget and i and tasks[i] != tasks[i - 1]:
                caches.switch_task()
            routes = _routes(router, i, int(tasks[i]))
            run = run_frame(program, d.engine, d.memory_bytes_per_s, schedule=schedule, routes=routes, caches=caches)
            runs.append(run)
            yield env.timeout(run.cycles / clock)
            stamps[2, i] = env.now
        if progress is not None:
            progress(i + 1, n)

    def source() -> Steps:
        if arrivals is None:
            room = simpy.Container(env, in_flight, in_flight)
            for i in range(n):
                yield room.get(1)
                env.process(_then_free(one(i), room))
            return
        for i in range(n):
            yield env.timeout(max(0.0, float(arrivals[i]) - env.now))
            env.process(one(i))

    def _then_free(steps: Steps, room: simpy.Container) -> Steps:
        yield env.process(steps)
        room.put(1)

    env.process(source())
    env.run()
    return Frames(tasks, stamps[0], stamps[1], stamps[2], tuple(runs), clock, d.device.static_W)


def run_image(
    d: FpgaDeployment,
    *,
    schedule: str = "reordered",
    routing: str = "uniform",
    seed: int = 0,
    image: int = 0,
    task: int = 0,
) -> FrameResult:
    """Simulate a single image on an idle engine."""
    router = _router(d, np.array([task]), routing, seed)
    return run_frame(image_program(d), d.engine, d.memory_bytes_per_s, schedule=schedule,
                     routes=_routes(router, image, task))  # fmt: skip


def num_tasks(d: FpgaDeployment) -> int:
    """Return the number of tasks, each with a gate; 1 for a dense model."""
    return int(getattr(d.moe, "tasks", 1))


def _router(d: FpgaDeployment, tasks: I8, routing: str, seed: int) -> ImageRouter | None:
    if d.moe is None:
        return None
    count = num_tasks(d)
    if len(tasks) and not 0 <= int(tasks.min()) <= int(tasks.max()) < count:
        raise InputError("tasks", f"must be in [0, {count - 1}] for {d.model.name}")
    return make_image_router(routing, tasks=count, layers=d.model.moe_layers,
                             experts=d.moe.routed.experts, top_k=d.moe.routed.top_k,
                             seed=seed)  # fmt: skip


def _routes(router: ImageRouter | None, image: int, task: int) -> Callable[[ExpertBlock], Any]:
    def draw(block: ExpertBlock) -> Any:
        if router is None:
            return None
        return router.sequence(image, task, block.index, block.tokens)

    return draw
