"""Bounds of a design without simulation, from the roofs of its processors and its memory.

A decoding step of the whole batch lasts at least as long as its ops in sequence, each on its fastest processor, or on
all of them for shared experts. Time per token falls with the batch, so no smaller or mixed step has more tokens/s. A
forecast uses the same ops with the design's own placement and adds the prompts; it is not a bound.

Best tiles of a design's products, and the resulting efficiencies.

With ``kernel: best`` each product of a step gets its best tile on the design (`devices.tiles`); the simulation uses the
resulting shares of peak and bandwidth, over the products bound by either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from ....devices.calibrated.kernel_sets import TYPICAL
from ....devices.device import Processor, SharedMemoryDevice
from ....devices.spec import DeviceSpec, SystemSpec
from ....devices.tiles.config import KernelConfig
from ....devices.tiles.form import calls_of
from ....devices.tiles.machine import Machine, machine_of
from ....devices.tiles.rank import rank
from ....devices.tiles.store import constants
from ....simulator.deploy.placement import PLACEMENTS, processors_of, regions
from ....simulator.option import options_of
from ....simulator.scenario.options import DeployOptions
from ....simulator.step.costing import PlacedOp, StageCost
from ....workloads.errors import InputError
from ....workloads.latencies import QUANTILES
from ....workloads.ops import Op
from ...answers.step import step_of
from ...answers.usual import POLICY, framework_of

OF_TILES = "assumed: the tile model's, every product of the workloads with its best tile"
"""Source of the efficiencies."""
LEAST = 1e-3
"""Of an efficiency."""


@dataclass(frozen=True, slots=True)
class TunedDesign:
    """What a design attains with its best tiles.

    Attributes
    ----------
    compute, memory : float
        Shares of its peak and of its bandwidth; 1 where no product is bound by that.
    config : KernelConfig or None
        Tile of the product that takes longest.
    """

    compute: float
    memory: float
    config: KernelConfig | None
    processor: str

    @property
    def settings(self) -> dict[str, float]:
        """Return the two efficiencies as settings of a sweep's point."""
        head = f"system.device.processors.{self.processor}"
        return {f"{head}.compute_efficiency": self.compute, f"{head}.memory_efficiency": self.memory}

    def to_dict(self) -> dict[str, Any]:
        tile = None if self.config is None else self.config.to_dict()
        return {"compute_efficiency": self.compute, "memory_efficiency": self.memory, "tile": tile}

    def text(self) -> str:
        """Return the best tiles and the two efficiencies as text."""
        return f"tiles such as {self.config} give {self.compute:.0%} of its peak and {self.memory:.0%} of its bandwidth"

    def of(self, device: DeviceSpec) -> DeviceSpec:
        """Return the device with these efficiencies on its tuned processor."""
        xpu = device.processors[self.processor].model_copy(
            update={"compute_efficiency": self.compute, "memory_efficiency": self.memory}
        )
        return device.model_copy(update={"processors": {**device.processors, self.processor: xpu}})


def products(step: DesignStep | None) -> tuple[PlacedOp, ...]:
    """Return the ops of a workload's steps for which tiles can be chosen.

    Raises
    ------
    InputError
        A workload without a fixed number of sequences.
    """
    if step is None:
        raise InputError("design.kernel", "needs workloads with closed_loop, input_len, output_len")
    return (*step.middle.ops, *step.prompt.ops)


def tuned(device: DeviceSpec, ops: Iterable[PlacedOp]) -> TunedDesign:
    """Choose the tile of every product of steps, on a device's xPU.

    Raises
    ------
    SpecError
        No xPU whose cores and clock are known.
    """
    machine, sums = machine_of(device), {"compute": [0.0, 0.0], "memory": [0.0, 0.0]}
    name = next(n for n, p in device.processors.items() if p.kind == "xpu")
    known: dict[str, tuple[float, KernelConfig]] = {}
    longest, config = 0.0, None
    peaks = device.processors[name].peak_flops_per_s or {}
    wide = device.memory.bandwidth_bytes_per_s * device.memory.data_fraction
    for placed in ops:
        op = placed.op
        if op.kind not in ("gemm", "experts") or op.dtype not in peaks:
            continue
        took, best = _seconds(op, machine, known)
        if best is None:
            continue
        work, moved = op.flops / peaks[op.dtype], op.bytes / wide
        sums["compute" if work > moved else "memory"][0] += max(work, moved) * placed.count
        sums["compute" if work > moved else "memory"][1] += took * placed.count
        if took * placed.count > longest:
            longest, config = took * placed.count, best
    share = {k: min(1.0, max(LEAST, a / b)) if b else 1.0 for k, (a, b) in sums.items()}
    return TunedDesign(share["compute"], share["memory"], config, name)


def _seconds(
    op: Op, machine: Machine, known: dict[str, tuple[float, KernelConfig]]
) -> tuple[float, KernelConfig | None]:
    """Return an op's time with its kernels' best tiles [s], and its first kernel's tiles; None without kernels."""
    took, first = 0.0, None
    for form, shape in calls_of(op):
        key = f"{form.name} {sorted(shape.items())}"
        if key not in known:
            best = rank(form, machine, shape, constants(form.constants(machine, shape)).p).top(1)[0]
            known[key] = best.seconds, best.config
        took += known[key][0]
        first = first or known[key][1]
    return took, first


WHOLE = "xpu-only"
"""A rule that leaves every op whole: the design's own places it then."""
DEPLOY = frozenset(p.name for p in options_of(DeployOptions))

BOUNDED = DEPLOY | {
    "closed_loop", "requests", "input_len", "output_len", "lengths", "seed", "seeds", "warmup", "stop", "policy",
    "engine", "token_budget", "max_seqs", "max_model_len", "prompt_room", "price", "capex", "years",
    "usd_per_kWh", "pue", "grid_gCO2_per_kWh",
}  # fmt: skip
"""Options under which bounds hold: drafts, sessions or replicas make more tokens of a step than they know."""


@dataclass(frozen=True, slots=True)
class Ops:
    """The ops of one step: of the slowest rank, without exchanges, and what these take [s]."""

    ops: tuple[PlacedOp, ...]
    exchanged_s: float


@dataclass(frozen=True, slots=True)
class DesignStep:
    """Steps of a layout for the bounds of designs.

    Attributes
    ----------
    decode, middle : Ops
        Of all sequences, at the least context that they have, and at the mean one.
    prompt : Ops
        Ops of one prompt.
    batch : int
        Sequences of the whole system.
    devices, passes : int
        Devices of the system; batches under way at a time: pipeline stages.
    rule, splitter : str
        Of its placement; experts may run on two processors at once where it shares.
    measured : bool
        Times come from fitted kernels: bounds take nominal roofs.
    output_len : int
        Mean tokens of a request.
    """

    decode: Ops
    middle: Ops
    prompt: Ops
    batch: int
    devices: int
    passes: int
    rule: str
    splitter: str
    measured: bool
    output_len: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Time of one step [s] and dynamic energy of all its ops [J], as bounds or as a forecast."""

    seconds: float
    joules: float


def step_for(system: SystemSpec, model: str, workload: Mapping[str, Any]) -> DesignStep | None:
    """Return the steps of a workload with a fixed number of sequences; None for other workloads."""
    batch, context, length = (workload.get(n) for n in ("closed_loop", "input_len", "output_len"))
    known = all(name in BOUNDED for name, value in workload.items() if value is not None)
    alone = workload.get("overlap") in (None, "none") and not system.mapping.separate
    if batch is None or context is None or length is None or not known or not alone:
        return None
    fixed = workload.get("lengths") in (None, "fixed")
    options = step_options(workload, system)
    rule = str(options.get("placement") or system.mapping.placement)
    options["placement"] = WHOLE

    def ops(decodes: int, at: int, prompt: int) -> Ops:
        return _ops(step_of(model, system, decodes, at, prompt, options)[1])

    d, stage = step_of(model, system, int(batch), int(context) if fixed else 1, 0, options)
    return DesignStep(
        _ops(stage), ops(int(batch), int(context) + int(length) // 2, 0), ops(0, 0, int(context)),
        int(batch), d.system.nodes * d.system.devices_per_node, len(stage.stages), rule,
        d.system.mapping.splitter, d.device.measured, int(length),
    )  # fmt: skip


def step_options(workload: Mapping[str, Any], system: SystemSpec) -> dict[str, Any]:
    """Options of a step of a workload, with the kernels that its simulation has."""
    options = {k: v for k, v in workload.items() if k in DEPLOY}
    policy = None if workload.get("engine") else workload.get("policy") or POLICY
    framework = options.get("framework") or framework_of(policy, [system], options.get("costs") or "auto")
    return options | {"framework": framework or TYPICAL}


def _ops(stage: StageCost) -> Ops:
    """Return the ops of the slowest rank, without partial sums: those depend on the placement of experts."""
    critical = [p for p in stage.ops if p.critical]
    local = tuple(p for p in critical if not p.op.exchange and p.op.kind != "partial_sums")
    sent = sum(p.cost.seconds * p.count for p in critical if p.op.exchange)
    return Ops(tuple(_merged(local)), sent)


def _merged(ops: Sequence[PlacedOp]) -> Iterator[PlacedOp]:
    """Merge equal ops of consecutive layers into one with a count; experts are separate."""
    last: PlacedOp | None = None
    for placed in ops:
        if last is not None and _equal(last, placed):
            last = replace(last, count=last.count + placed.count)
            continue
        if last is not None:
            yield last
        last = placed
    if last is not None:
        yield last


def _equal(a: PlacedOp, b: PlacedOp) -> bool:
    one, other = a.op, b.op
    if (one.kind, one.flops, one.bytes, a.devices) != (other.kind, other.flops, other.bytes, b.devices):
        return False
    if one.loads is None or other.loads is None:
        return False  # dense ops come with their count
    return bool(np.array_equal(one.loads.tokens, other.loads.tokens))


def reach(step: DesignStep, built: SharedMemoryDevice) -> Reach:
    """The least time and energy of a decoding step on a device."""
    processors = processors_of(built)
    seconds, joules = step.decode.exchanged_s, 0.0
    for placed in step.decode.ops:
        able = [p for p in processors if p.can_run(placed.op.kind)]
        took, spent = _least(placed, able, step)
        seconds += took * placed.count
        joules += spent * placed.count * placed.devices
    return Reach(seconds, joules)


def priced(step_ops: Ops, step: DesignStep, built: SharedMemoryDevice, mixed: bool) -> Reach:
    """Return a step's time and energy if the design's placement rule assigns its ops to processors."""
    seconds, joules = step_ops.exchanged_s, 0.0
    for count, part in groupby(step_ops.ops, key=lambda p: (p.count, p.devices)):
        placed = regions([p.op for p in part], built, step.rule, mixed, step.splitter)
        for region in built.run(placed):
            seconds += region.seconds * count[0]
            spent = sum(cost.total_joules for _, _, cost in region.ops)
            joules += spent * count[0] * count[1]
    return Reach(seconds, joules)


def _least(placed: PlacedOp, able: Sequence[Processor], step: DesignStep) -> tuple[float, float]:
    """Return the least time [s] and the least dynamic energy [J] of one op over all processors that can run it."""
    op, shared = placed.op, PLACEMENTS[step.rule].shares
    joules = 0.0 if step.measured else min(p.base.cost(op).total_joules for p in able)
    if step.measured or any(p.model is not p.base for p in able):
        roofs = [(p.peak[op.dtype], p.bandwidth, 0.0) for p in able]
    else:
        roofs_found = [p.base.roof(op.dtype) for p in able]
        roofs = [(r.peak * r.compute_efficiency, r.bandwidth * r.memory_efficiency, r.launch_s) for r in roofs_found]
    if shared and op.routed and len(able) > 1:
        peak, wide = sum(r[0] for r in roofs), sum(r[1] for r in roofs)
        return max(op.flops / peak, op.bytes / wide) + min(r[2] for r in roofs), joules
    return min(max(op.flops / r[0], op.bytes / r[1]) + r[2] for r in roofs), joules


def at_best(reached: Reach, step: DesignStep, device: DeviceSpec, price: float | None) -> dict[str, float]:
    """Return bounds of metrics: the highest tokens/s, and the least energy and cost per token."""
    rate = step.batch * step.passes / reached.seconds
    static = device.static_W * step.devices / rate
    joules = reached.joules / step.batch
    out = {
        "output_tokens_per_s": rate,
        "tokens_per_s_per_device": rate / step.devices,
        "joules_per_token": joules + static,
    }
    if price:
        out["usd_per_million_tokens"] = price * step.devices / 3600 / rate * 1e6
    return out


def forecast(step: DesignStep, built: SharedMemoryDevice, device: DeviceSpec, price: float | None) -> dict[str, float]:
    """Return the forecast of a request: its decodes at the mean context, and a prompt for each sequence."""
    decode = priced(step.middle, step, built, False)
    prompt = priced(step.prompt, step, built, True)
    seconds = decode.seconds + prompt.seconds * step.batch / step.output_len
    joules = decode.joules + prompt.joules * step.batch / step.output_len
    out = at_best(Reach(seconds, joules), step, device, price)
    times = {f"{name}_{q}": seconds for name in ("tpot_s", "tbt_s") for q in QUANTILES}
    more = {"tokens_per_s_per_user": 1 / seconds, "ttft_s_mean": prompt.seconds}
    return out | times | more
