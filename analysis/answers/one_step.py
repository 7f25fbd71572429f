"""A single step of a model on any system: time, energy, memory and bounds.

GPUs and processing in memory are costed op by op, with expected expert loads (`step.explicit`), FPGAs by their event
engine (`simulator.fpga`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...devices.power.cap import capped_system
from ...devices.published import PIPELINE, stream_s
from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...simulator.engine.kv import kv_rules, sequence_bytes
from ...simulator.fpga.deploy import check_schedule, deploy_fpga, step_program, stored_bytes
from ...simulator.fpga.engine import CycleShare, FrameResult, run_frame
from ...simulator.fpga.frames import serve_images
from ...simulator.scenario.options import DeployOptions
from ...simulator.scenario.place import deployed, refuse_unused
from ...simulator.step.explicit import StageCost, dealt, explicit_stage
from ...workloads.batch import Batch
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec


@dataclass(frozen=True, slots=True)
class StepLoad:
    """Work of one step: images of an encoder, or decodes of a language model.

    Attributes
    ----------
    decodes, context : int
        Decoding sequences, and the cached tokens of each.
    images : int
        Number of images, one batch on GPUs, one after another on an FPGA; 0 for a language model.
    schedule, seed : str, int
        Schedule of experts on an FPGA, and the seed of its samples.
    """

    decodes: int
    context: int
    images: int
    schedule: str
    seed: int

    @property
    def items(self) -> int:
        """Return the number of images or tokens of the step."""
        return self.images or self.decodes


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Time of one part of the model on the critical path, and what bounds most of it."""

    layer: str
    seconds: float
    bound: str


@dataclass(frozen=True, slots=True)
class StepCost:
    """Time, energy and ops of a step on one system.

    Attributes
    ----------
    seconds : float
        Duration of the step, or of all images [s].
    joules, static_joules : float
        Energy of all devices, and its part due to static or board power [J].
    deployment : Deployment or None
        Model on its devices; None on an FPGA.
    stage : StageCost or None
        Costs op by op; None if the step's time is not the sum of its ops.
    elsewhere_bytes : float
        Weights of experts for which the devices' memories have no slots [B].
    """

    seconds: float
    joules: float
    static_joules: float
    layers: tuple[LayerTime, ...]
    deployment: Deployment | None = None
    stage: StageCost | None = None
    warnings: tuple[str, ...] = ()
    elsewhere_bytes: float = 0.0


def step_cost(model: ModelSpec, system: SystemSpec, load: StepLoad, options: DeployOptions) -> StepCost:
    """Cost a step on a system.

    Raises
    ------
    InputError
        Names or degrees that do not fit the model or system.
    CapacityError
        Weights and KV cache that its memory does not hold.
    """
    if system.device.on_engine:
        capped_system(
            system, options.parts["power-cap"].power_cap, options.parts["power-cap"].clock
        )  # refuses one: its power is not modelled
        return _on_board(model, system, load, options.routing)
    made = deployed(model, system, options)
    refuse_unused(options, made)
    return step_on(made, system, load)


def needed_bytes(model: ModelSpec, system: SystemSpec, load: StepLoad) -> float:
    """Return the memory that a step needs: weights and KV cache, each stored once [B]."""
    engines = [p.engine for p in system.device.processors.values() if p.engine is not None]
    weights = stored_bytes(model, engines[0]) if engines else model.weight_bytes
    return weights + (0.0 if load.images else load.decodes * model.cache_bytes(load.context + 1))


def available_bytes(system: SystemSpec) -> float:
    """Return the usable memory of all devices [B]."""
    memory = system.device.memory
    return num_devices(system) * memory.capacity_bytes * memory.usable_fraction


def num_devices(system: SystemSpec) -> int:
    """Return the number of devices on all nodes."""
    return system.devices_per_node * system.nodes


def step_on(deployment: Deployment, system: SystemSpec, load: StepLoad) -> StepCost:
    """Cost every op of a step on GPUs and processing in memory."""
    if not load.images:
        _check_cache(deployment, load)
    if any(p.kind == PIPELINE for p in system.device.processors.values()):
        return _pipelined(deployment, system, load)
    # Every pipeline stage has a share of the batch; all shares are in flight at the same time.
    waves = min(deployment.layout.pp, load.items)
    items, front = -(-load.items // (deployment.replicas * waves)), deployment.model.front
    batches = (
        dealt(deployment, items, load.context)
        if front is None
        else dealt(deployment, 0, 0, [(front.tokens, 0)] * items)
    )
    stage = explicit_stage(deployment, batches, expected=True)
    engine = deployment.layout.all_devices / (deployment.replicas * waves)
    board, busy_s = deployment.device.board, stage.busy_within(engine) * deployment.replicas * waves
    static = board.idle_joules(stage.seconds * num_devices(system))
    work = board.work_joules(stage.joules * deployment.replicas * waves, busy_s)
    parts: dict[str, dict[str, float]] = {}
    for (layer, bound), took in stage.times(lambda p: (p.op.layer, p.cost.bound)).items():
        parts.setdefault(layer, {})[bound] = took
    times = tuple(
        LayerTime(layer, sum(bounds.values()), max(bounds, key=lambda k: bounds[k])) for layer, bounds in parts.items()
    )
    joules = work + (static + board.busy_joules(busy_s))
    if stage.fetch is not None:
        times += (LayerTime("expert fetches", stage.fetch.waited_s, "link"),)
    away = sum(deployment.elsewhere(s) for s in range(deployment.layout.pp)) * deployment.layout.devices
    return StepCost(stage.seconds, joules, static, times, deployment, stage, elsewhere_bytes=away)


def _pipelined(deployment: Deployment, system: SystemSpec, load: StepLoad) -> StepCost:
    """Return a pipeline of operators with images distributed over devices: the slowest operator limits the rate."""
    front = deployment.model.front
    if front is None:
        raise CapacityError(system.name, "is a pipeline for images: it has no KV cache")
    devices = num_devices(system)
    one = explicit_stage(deployment, dealt(deployment, 0, 0, [(front.tokens, 0)]), expected=True)
    interval = max(placed.cost.seconds for placed in one.ops)
    took = stream_s(interval, len(deployment.model.layers), -(-load.images // devices))
    joules = deployment.device.board.idle_joules(took * devices)
    busy = one.times(lambda p: p.op.layer)
    parts = tuple(LayerTime(layer, seconds, "compute") for layer, seconds in busy.items())
    return StepCost(took, joules, joules, parts, deployment)


def _on_board(model: ModelSpec, system: SystemSpec, load: StepLoad, routing: str) -> StepCost:
    """Return a step on FPGA boards, simulated by the engine's events; only images can use several boards."""
    devices = num_devices(system)
    if devices > 1 and not load.images:
        raise InputError(system.name, "only one FPGA is simulated for a language model; use the system with -x1")
    d = deploy_fpga(model, system.device)
    check_schedule(d, load.schedule)
    needed, available = needed_bytes(model, system, load), available_bytes(system)
    if needed > available:
        raise CapacityError(
            system.name,
            f"{model.name} does not fit: needs {needed / 2**30:.2f} GiB of weights and KV cache, "
            f"{available / 2**30:.2f} GiB available",
        )
    runs: tuple[FrameResult, ...]
    if load.images:
        tasks = np.zeros(-(-load.images // devices), dtype=np.int64)
        frames = serve_images(d, tasks, schedule=load.schedule, routing=routing, seed=load.seed)
        runs, took = frames.runs, frames.makespan_s
    else:
        batch = Batch.of([load.context] * load.decodes)
        program = step_program(d, batch, routing, load.seed)
        runs = (run_frame(program, d.engine, d.memory_bytes_per_s, schedule=load.schedule),)
        took = runs[0].cycles / d.engine.clock_Hz
    joules = system.device.static_W * took * devices
    return StepCost(took, joules, joules, _parts(runs, d.engine.clock_Hz), warnings=d.warnings)


def _parts(runs: tuple[FrameResult, ...], clock_Hz: float) -> tuple[LayerTime, ...]:
    """Return the time of every model part, summed over all runs of a board's engine."""
    times: dict[str, CycleShare] = {}
    for run in runs:
        for (layer, _), share in run.parts.items():
            total = times.setdefault(layer, CycleShare())
            total.busy += share.busy
            total.stalled += share.stalled
            total.memory_bound += share.memory_bound
    return tuple(
        LayerTime(name, s.cycles / clock_Hz, "memory" if 2 * (s.memory_bound + s.stalled) > s.cycles else "compute")
        for name, s in times.items()
        if s.cycles
    )


def _check_cache(deployment: Deployment, load: StepLoad) -> None:
    """Refuse a batch whose KV cache does not fit with the weights on each device."""
    rules = kv_rules(deployment)
    sequences = -(-load.decodes // deployment.layout.dp)
    need = sequences * float(sequence_bytes(rules, np.array([load.context + 1]))[0])
    if need > rules.capacity:
        raise CapacityError(
            deployment.system.name,
            f"the KV cache of {sequences:,} sequences does not fit: needs {need / 2**30:.2f} GiB per "
            f"device, {rules.capacity / 2**30:.2f} GiB available",
        )
