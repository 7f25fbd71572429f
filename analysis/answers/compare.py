"""One model on systems of any kind, side by side: a step's time, energy, memory and what binds it.

A language model decodes one step, an image encoder takes images. GPUs and processing in memory
are costed op by op as `roofline` does, FPGAs by their event engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.device import Processor, build_device
from ...devices.spec import SystemSpec
from ...simulator.batching.kv import kv_rules, sequence_bytes
from ...simulator.deploy.placement import able, processors_of
from ...simulator.fpga.deploy import check_schedule, deploy_fpga, step_program, stored_bytes
from ...simulator.fpga.engine import Share, run_frame
from ...simulator.fpga.frames import serve_images
from ...simulator.scenario.load import load
from ...simulator.scenario.option import chosen
from ...simulator.scenario.parts import DeployOptions
from ...simulator.scenario.place import deployed
from ...simulator.step.explicit import explicit_stage
from ...workloads.batch import Batch
from ...workloads.errors import CapacityError, InputError
from ...workloads.layers import RoutedKind, Run, is_routed
from ...workloads.model import ModelSpec
from ...workloads.numerics import Numerics
from ...workloads.ops import Loads
from ...workloads.requests.options import check_count, check_seed
from .comparison import BreakEven, LayerTime, SystemComparison, SystemRow
from .evidence import ENGINE_BASIS, basis_of
from .interval import step_interval
from .roofline import MAX_BATCH

MAX_IMAGES = 10_000


def compare(
    model: str | Path | ModelSpec,
    systems: Sequence[str | Path | SystemSpec],
    *,
    batch: int = 1,
    context: int = 2048,
    images: int = 1,
    layers: int | None = None,
    routing: str = "uniform",
    schedule: str = "reordered",
    dtype: str | None = None,
    kv_dtype: str | None = None,
    costs: str = "auto",
    framework: str | None = None,
    seed: int = 0,
) -> SystemComparison:
    """Cost one step of a model on several systems.

    Parameters
    ----------
    systems : sequence of str, Path or SystemSpec
        Catalog names or files; those that the model does not fit on say why.
    batch, context : int
        Decoding sequences and their cached tokens, of a language model.
    images : int
        Images of an encoder: at once on GPUs, one after another on an FPGA.
    layers : int, optional
        Only the first so many layers, without embedding and head.
    schedule : str
        Of experts on an FPGA.
    costs : str
        auto (fitted kernel models) or roofline.
    framework : str, optional
        Whose kernels GPUs run, as `simulate` takes it; typical without it.
    seed : int
        Of an FPGA's expert draws; other devices take expected loads.

    Raises
    ------
    InputError
        Unknown names, sizes out of range, no systems.
    """
    if not systems:
        raise InputError("--systems", "needs at least one system, such as h100-x1")
    check_seed(seed)
    check_count(batch, "--batch", 1, MAX_BATCH)
    check_count(context, "--context", 0)
    check_count(images, "--images", 1, MAX_IMAGES)
    loaded = [load(model, system, dtype, kv_dtype) for system in systems]
    spec = loaded[0][0]
    if layers is not None:
        check_count(layers, "--layers", 1, len(spec.layers))
        spec = replace(spec, layers=spec.layers[:layers], vocab=0, tied=True, extra_weights=0)
    how = chosen(DeployOptions, {"routing": routing, "costs": costs, "framework": framework})
    step = _Step(spec, batch, context, images if spec.front else 0, how, schedule, seed)
    rows = tuple(step.row(system) for _, system in loaded)
    return SystemComparison(
        spec, 0 if step.images else batch, 0 if step.images else context, step.images,
        step.mean_queue, rows,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Step:
    """The workload; costs itself on one system after another."""

    model: ModelSpec
    batch: int
    context: int
    images: int
    how: DeployOptions
    schedule: str
    seed: int

    @property
    def moe(self) -> RoutedKind | None:
        found = [la.ffn for la in self.model.layers if is_routed(la.ffn)]
        return found[0] if found else None

    @property
    def mean_queue(self) -> float | None:
        """Tokens of an average expert."""
        if self.moe is None:
            return None
        tokens = self.model.front.tokens if self.model.front else self.batch
        return tokens * self.moe.routed.top_k / self.moe.routed.experts

    def row(self, system: SystemSpec) -> SystemRow:
        fpga = system.device.fabric is not None
        kinds = tuple(p.kind for p in system.device.processors.values())
        devices = system.devices_per_node * system.nodes
        memory = system.device.memory
        available = devices * memory.capacity_bytes * memory.usable_fraction
        empty = SystemRow(
            system.name,
            kinds,
            devices,
            "",
            None,
            None,
            None,
            None,
            self._needed(system, devices),
            available,
            (),
            self._break_even(system),
        )
        try:
            return self._fpga(empty, system) if fpga else self._shared(empty, system)
        except CapacityError as error:
            return replace(empty, reason=str(error))

    def _needed(self, system: SystemSpec, devices: int) -> float:
        """Weights and KV cache, kept once [B]."""
        engines = [p.engine for p in system.device.processors.values() if p.engine is not None]
        weights = stored_bytes(self.model, engines[0]) if engines else self.model.weight_bytes
        cache = self.model.kv_bytes_per_token * (self.context + 1)
        cache += self.model.state_bytes_per_sequence
        return weights + (0.0 if self.images else self.batch * cache)

    def _shared(self, row: SystemRow, system: SystemSpec) -> SystemRow:
        """GPUs and processing in memory: every op of the step."""
        d = deployed(self.model, system, self.how)
        _check_cache(self, d)
        stage = explicit_stage(d, self._batches(d.replicas, d.ranks), expected=True)
        board, busy_s = d.device.board, stage.busy_s * d.replicas
        static = board.idle_joules(stage.seconds * row.devices)
        joules = board.work_joules(stage.joules * d.replicas, busy_s)
        joules += static + board.busy_joules(busy_s)
        parts: dict[str, dict[str, float]] = {}
        for op in stage.ops:
            if op.critical:
                bounds = parts.setdefault(op.op.layer, {})
                took = op.cost.seconds * op.count
                bounds[op.cost.bound] = bounds.get(op.cost.bound, 0.0) + took
        times = tuple(LayerTime(name, sum(b.values()), max(b, key=lambda k: b[k]))
                      for name, b in parts.items())  # fmt: skip
        items = self.images or self.batch
        return replace(row, latency_s=stage.seconds, items_per_s=items / stage.seconds,
                       joules=joules, static_joules=static, layers=times,
                       basis=basis_of(d), interval=step_interval(d, stage))  # fmt: skip

    def _batches(self, replicas: int, ranks: int) -> list[Batch]:
        """The step dealt to the ranks of one engine."""
        items = self.images or self.batch
        engine = -(-items // replicas)
        shares = [engine // ranks + (r < engine % ranks) for r in range(ranks)]
        if self.model.front is None:
            return [Batch.of([self.context] * n) for n in shares]
        return [Batch.of(chunks=[(self.model.front.tokens, 0)] * n) for n in shares]

    def _fpga(self, row: SystemRow, system: SystemSpec) -> SystemRow:
        """One board, its engine's events; several boards share images, not language models."""
        if row.devices > 1 and not self.images:
            raise InputError(system.name, "a language model runs on one FPGA here; use x1")
        d = deploy_fpga(self.model, system.device)
        check_schedule(d, self.schedule)
        if row.memory_bytes > row.memory_available_bytes:
            raise _too_large(system.name, self.model, row.memory_bytes, row.memory_available_bytes)
        if self.images:
            tasks = np.zeros(-(-self.images // row.devices), dtype=np.int64)
            frames = serve_images(d, tasks, schedule=self.schedule, routing=self.how.routing,
                                  seed=self.seed)  # fmt: skip
            runs, took = frames.runs, frames.makespan_s
        else:
            program = step_program(d, Batch.of([self.context] * self.batch), self.how.routing,
                                   self.seed)  # fmt: skip
            runs = (run_frame(program, d.engine, d.memory_bytes_per_s, schedule=self.schedule),)
            took = runs[0].cycles / d.engine.clock_Hz
        joules = system.device.static_W * took * row.devices
        times: dict[str, Share] = {}
        for run in runs:
            for (layer, _), share in run.parts.items():
                total = times.setdefault(layer, Share())
                total.busy += share.busy
                total.stalled += share.stalled
                total.memory_bound += share.memory_bound
        parts = tuple(
            LayerTime(name, s.cycles / d.engine.clock_Hz,
                      "memory" if 2 * (s.memory_bound + s.stalled) > s.cycles else "compute")
            for name, s in times.items() if s.cycles
        )  # fmt: skip
        return replace(row, latency_s=took, items_per_s=(self.images or self.batch) / took,
                       joules=joules, static_joules=joules, layers=parts,
                       warnings=d.warnings, basis=ENGINE_BASIS)  # fmt: skip

    def _break_even(self, system: SystemSpec) -> tuple[BreakEven, ...]:
        """Of every processor that runs experts, the one that runs everything first."""
        moe, numerics = self.moe, self.model.numerics
        if moe is None:
            return ()
        device, dtype = build_device(system.device), numerics.compute("experts")
        return tuple(
            break_even(p, moe, self.model.numerics, *_bytes(p, system, self.model))
            for p in able(processors_of(device), "experts")
            if dtype in p.peak
        )


def break_even(
    processor: Processor, moe: RoutedKind, numerics: Numerics, weight_bytes: float, act_bytes: float
) -> BreakEven:
    """Queue of one expert at which arithmetic and traffic take equally long.

    Parameters
    ----------
    weight_bytes : float
        Stored bytes of a weight [B].
    act_bytes : float
        Bytes of an activation value on the weights' path; 0 where activations have their own [B].
    """
    one, dtype = Loads(np.ones(1), np.ones(1)), numerics.compute("experts")
    op = moe.expert_op(one, Run(numerics))  # one expert and one token
    weights = op.weight_bytes / numerics.weight_bytes("experts")
    per_token = act_bytes * op.act_bytes / numerics.act_bytes
    tokens = processor.break_even_tokens(dtype, weight_bytes, per_token / weights)
    return BreakEven(
        processor.name, processor.ridge(dtype), None if np.isinf(tokens) else tokens,
        processor.break_even_tokens(dtype, weight_bytes),
    )  # fmt: skip


def _bytes(processor: Processor, system: SystemSpec, model: ModelSpec) -> tuple[float, float]:
    """Bytes per weight, and per activation that shares the weights' path."""
    engine = system.device.processors[processor.name].engine
    stored = model.numerics.weight_bytes("experts")
    if engine is None:
        return stored, model.numerics.act_bytes
    return (stored if engine.weight_bits is None else engine.weight_bits / 8), 0.0


def _check_cache(step: _Step, d: Any) -> None:
    """Refuse a batch whose KV cache does not fit beside the weights, device by device."""
    rules = kv_rules(d)
    if step.images:
        return
    own = -(-step.batch // d.layout.dp)
    need = own * float(sequence_bytes(rules, np.array([step.context + 1]))[0])
    if need > rules.capacity:
        raise CapacityError(
            d.system.name,
            f"the KV cache of {own:,} sequences does not fit: needs {need / 2**30:.2f} GiB per "
            f"device, {rules.capacity / 2**30:.2f} GiB available",
        )


def _too_large(name: str, model: ModelSpec, needed: float, available: float) -> CapacityError:
    return CapacityError(
        name,
        f"{model.name} does not fit: needs {needed / 2**30:.2f} GiB of weights and KV cache, "
        f"{available / 2**30:.2f} GiB available",
    )
