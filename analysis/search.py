"""Design search: array sizes, parallel queries and buffers of an FPGA board for one model.

Array shapes are enumerated where a size more saves a pass over some matrix (all others waste
multipliers), thinned to the Pareto front of multipliers and cycles, combined with attention units
and buffer plans, and run through the event engine. Clock, ports, number formats and the share of
useful cycles stay those of the board's own design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices.catalog import load_system
from ..devices.fpga.resources import engine_of, resource_use
from ..devices.fpga.spec import ArraySpec, AttentionSpec, EngineSpec
from ..devices.spec import DeviceSpec, SystemSpec
from ..simulator.fpga.deploy import (
    FpgaDeployment,
    deploy_fpga,
    image_program,
    step_program,
    stored_bytes,
)
from ..simulator.fpga.engine import run_frame
from ..simulator.fpga.frames import run_image
from ..simulator.fpga.program import ExpertBlock, Program, Tile
from ..workloads.batch import Batch
from ..workloads.catalog import load_model
from ..workloads.errors import CapacityError, InputError
from ..workloads.layers import Run
from ..workloads.model import ModelSpec, embedding_ops, layer_ops
from ..workloads.ops import Loads, Op
from ..workloads.requests.options import check_count
from .result import Result, seconds, show

Told = Callable[[int, int], None]
OBJECTIVES = ("latency", "energy")
QUERIES = (1, 2, 4, 8, 16, 32, 64)
FEATURES = (8, 16, 32, 64)
TILE_KIB = (32, 64, 128, 256, 512, 1024)
MOST_SHAPES = 24
"""Linear arrays that are combined with attention units."""
LEAST_SHARE = 0.1
"""Share of the DSPs that a linear array takes at least: smaller ones leave the board idle."""
MOST_LOADS = 3_000
"""Loads of one step up to which a tile size is tried; more of them are slower than few."""
MOST_RUNS = 160
"""Arrays with attention units that are run with every buffer plan, fastest first in estimate."""


@dataclass(frozen=True, slots=True)
class Design:
    """One point of the search.

    Attributes
    ----------
    engine : EngineSpec
    cycles : int
        Of one image or step.
    latency_s, joules : float
        At the design's clock and the board's power [s, J].
    dsp, on_chip_bytes : float
    """

    engine: EngineSpec
    cycles: int
    latency_s: float
    joules: float
    dsp: float
    on_chip_bytes: float

    def to_dict(self) -> dict[str, Any]:
        e, a = self.engine, self.engine.attention
        return {
            "inputs": e.linear.inputs,
            "outputs": e.linear.outputs,
            "queries": a.queries if a else None,
            "features": a.features if a else None,
            "load_unit": e.load_unit,
            "weight_buffer_bytes": e.buffers.weights_bytes,
            "attention_buffer_bytes": e.buffers.attention_bytes,
            "cycles": self.cycles,
            "latency_s": self.latency_s,
            "joules": self.joules,
            "dsp": self.dsp,
            "on_chip_bytes": self.on_chip_bytes,
        }

    @property
    def key(self) -> tuple[float, float, float]:
        return self.latency_s, self.dsp, self.on_chip_bytes


@dataclass(frozen=True, slots=True)
class DesignSearch(Result):
    """What a search found; see `search`.

    Attributes
    ----------
    published : Design
        The board's own design, run the same way.
    published_excess : tuple of str
        Limits that it breaks.
    front : tuple of Design
        Not worse than another in latency, DSPs and on-chip bytes at once; fastest first.
    """

    model: ModelSpec
    device: DeviceSpec
    objective: str
    limits: Mapping[str, float]
    tried: int
    published: Design
    published_excess: tuple[str, ...]
    best: Design
    front: tuple[Design, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "board": self.device.name,
            "objective": self.objective,
            "limits": dict(self.limits),
            "tried": self.tried,
            "published": self.published.to_dict(),
            "published_excess": list(self.published_excess),
            "best": self.best.to_dict(),
            "front": [design.to_dict() for design in self.front],
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [design.to_dict() for design in self.front]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        named = [("board's own", self.published), ("best", self.best)]
        step = max(1, len(self.front) // 10)
        named += [(f"front {i + 1}", self.front[i]) for i in range(step, len(self.front), step)]
        return [_row(name, design) for name, design in named]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        saved = 1 - self.best.latency_s / self.published.latency_s
        limits = ", ".join(f"{value:,.0f} {name}" for name, value in self.limits.items())
        verdict = f"The best design takes {saved:.2%} less time than the board's own"
        if saved < 0:
            verdict = (
                f"No design within the limits is as fast as the board's own ({-saved:.2%} more)"
            )
        excess = f", which breaks them: {'; '.join(self.published_excess)}"
        return [
            f"{self.model.name} on {self.device.name}: {self.tried:,} designs within {limits}",
            self.rows(),
            verdict + (excess if self.published_excess else "") + ".",
            f"Pareto front of latency, DSPs and on-chip bytes: {len(self.front)} designs.",
            "Energy is the board's power times latency, so both objectives have one order.",
        ]


def _row(name: str, design: Design) -> dict[str, Any]:
    e, a = design.engine, design.engine.attention
    return {
        "design": name,
        "linear": f"{e.linear.inputs} x {e.linear.outputs}",
        "attention": f"{a.queries} x {a.features}" if a else "on it",
        "loads": e.load_unit,
        "weight buffers": f"2 x {e.buffers.weights_bytes / 1024:,.0f} KiB",
        "time": seconds(design.latency_s),
        "J": show(design.joules),
        "DSP": show(int(design.dsp)),
        "on chip": f"{design.on_chip_bytes / 2**20:.2f} MiB",
    }


def search(
    model: str | Path | ModelSpec,
    board: str | Path | SystemSpec,
    *,
    objective: str = "latency",
    fill: float = 1.0,
    batch: int = 1,
    context: int = 2048,
    told: Told | None = None,
) -> DesignSearch:
    """Find designs for a model within a board's resources.

    Parameters
    ----------
    board : str, Path or SystemSpec
        One FPGA device, by name (``zcu104`` or ``zcu104-x1``) or file.
    objective : str
        "latency" or "energy".
    fill : float
        Share of DSPs and on-chip bytes that a design may take (0.8 closes timing easily).
    batch, context : int
        Of the decoding step of a language model; one layer of each kind stands for all.
    told : callable, optional
        Told (designs run, designs in all).

    Returns
    -------
    DesignSearch

    Raises
    ------
    InputError
        No FPGA, unknown objective, a fill outside (0, 1].
    CapacityError
        No design fits.
    """
    if objective not in OBJECTIVES:
        raise InputError("--objective", f"must be latency or energy, not {objective!r}")
    if not 0 < fill <= 1:
        raise InputError("--fill", f"must be above 0 and at most 1, not {fill:g}")
    check_count(batch, "--batch", 1)
    check_count(context, "--context", 0)
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    if spec.front is None:
        layers = tuple(layer for layer, _ in spec.groups)
        spec = replace(spec, layers=layers, vocab=0, tied=True, extra_weights=0)
    device = _device(board)
    space = _Space(spec, device, fill, Batch.of([context] * batch))
    published = space.run(space.base)
    designs, plans = [], list(space.designs())
    for i, engine in enumerate(plans):
        try:
            designs.append(space.run(engine))
        except CapacityError:
            continue  # a buffer plan that this model's matrices do not fit
        finally:
            if told is not None:
                told(i + 1, len(plans))
    if not designs:
        raise CapacityError(
            device.name, f"no design fits: needs at least 1 DSP and one buffer pair of "
            f"{2 * TILE_KIB[0]} KiB, {space.limits['DSP slices']:,.0f} DSPs and "
            f"{space.limits['on-chip bytes']:,.0f} bytes available")  # fmt: skip
    front = pareto(designs)
    best = min(designs, key=lambda d: (d.joules if objective == "energy" else d.latency_s, d.key))
    return DesignSearch(spec, device, objective, space.limits, len(designs), published,
                        space.excess(space.base), best, front)  # fmt: skip


def _device(board: str | Path | SystemSpec) -> DeviceSpec:
    """The FPGA of a system of one device."""
    if isinstance(board, SystemSpec):
        system = board
    else:
        from ..devices.catalog import device_aliases, list_devices

        name = str(board).lower()
        known = name in list_devices() or name in device_aliases()
        system = load_system(f"{board}-x1" if known else board)
    engine_of(system.device)
    return system.device


def pareto(designs: Iterable[Design]) -> tuple[Design, ...]:
    """Designs that no other beats or equals in latency, DSPs and on-chip bytes, fastest first.

    Of designs equal in all three the first is kept.
    """
    kept: list[Design] = []
    for design in sorted(designs, key=lambda d: d.key):
        if not any(all(a <= b for a, b in zip(k.key, design.key, strict=True)) for k in kept):
            kept.append(design)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Space:
    """Designs of one board for one model."""

    model: ModelSpec
    device: DeviceSpec
    fill: float
    batch: Batch

    @property
    def base(self) -> EngineSpec:
        return engine_of(self.device)[1]

    @property
    def limits(self) -> dict[str, float]:
        """DSPs and on-chip bytes that a design may take."""
        _, engine, fabric = engine_of(self.device)
        return {use.resource: use.available * self.fill for use in resource_use(engine, fabric)
                if use.resource in ("DSP slices", "on-chip bytes")}  # fmt: skip

    def excess(self, engine: EngineSpec) -> tuple[str, ...]:
        """Limits that a design breaks, in words."""
        takes = {"DSP slices": engine.dsp, "on-chip bytes": engine.buffer_bytes}
        return tuple(f"{takes[name]:,.0f} {name}, {limit:,.0f} available"
                     for name, limit in self.limits.items() if takes[name] > limit)  # fmt: skip

    def deploy(self, engine: EngineSpec) -> FpgaDeployment:
        name, _, _ = engine_of(self.device)
        processor = self.device.processors[name].model_copy(update={"engine": engine})
        device = self.device.model_copy(update={"processors": {name: processor}})
        return deploy_fpga(self.model, device, check=False)

    def program(self, d: FpgaDeployment) -> Program:
        return image_program(d) if self.model.front else step_program(d, self.batch)

    def run(self, engine: EngineSpec) -> Design:
        """Cost of a design, by the event engine."""
        d = self.deploy(engine)
        if self.model.front:
            cycles = run_image(d).cycles
        else:
            cycles = run_frame(self.program(d), engine, d.memory_bytes_per_s).cycles
        took = cycles / engine.clock_Hz
        return Design(engine, cycles, took, took * self.device.static_W, engine.dsp,
                      engine.buffer_bytes)  # fmt: skip

    def designs(self) -> Iterable[EngineSpec]:
        """Designs worth running, every one within the limits."""
        found = [
            (self._estimate(e), e) for array in self._arrays() for e in self._attentions(array)
        ]
        front: list[tuple[float, EngineSpec]] = []
        least = math.inf
        for cycles, engine in sorted(found, key=lambda x: (x[1].dsp, x[0])):
            if cycles < least:
                front.append((cycles, engine))
                least = cycles
        front.sort(key=lambda x: x[0])
        for _, engine in front[:MOST_RUNS]:
            for buffers in self._buffers(engine):
                if not self.excess(buffers):
                    yield buffers

    def _arrays(self) -> list[ArraySpec]:
        """Linear arrays on the front of multipliers and cycles, thinned evenly."""
        rows, ns, ks = (np.array(column) for column in zip(*self._matrices(), strict=True))
        most = int(self.limits["DSP slices"] / self.base.linear.dsp_per_mac)
        points = []
        for i in _steps(ks, most):
            passes_k = -(-ks // i)
            for o in _steps(ns, most // i):
                if i * o >= LEAST_SHARE * most:
                    cycles = float((rows * passes_k * -(-ns // o)).sum())
                    points.append((i * o, cycles, i, o))
        front, least = [], math.inf
        for _, cycles, i, o in sorted(points):
            if cycles < least:
                front.append((i, o))
                least = cycles
        picked = np.unique(np.linspace(0, len(front) - 1, MOST_SHAPES).round().astype(int))
        # The largest arrays differ most in what they leave for attention: all of the last few.
        picked = np.unique([*picked, *range(max(0, len(front) - 6), len(front))])
        dsp = self.base.linear.dsp_per_mac
        return [ArraySpec(inputs=front[j][0], outputs=front[j][1], dsp_per_mac=dsp) for j in picked]

    def _matrices(self) -> list[tuple[float, int, int]]:
        """Rows, outputs and inputs of every matrix of the model."""
        batch = self.batch
        if self.model.front is not None:
            batch = Batch.of(chunks=[(self.model.front.tokens, 0)])
        m, run = batch.moments(self.model.windows), Run(self.model.numerics)
        ops: list[Op] = list(embedding_ops(self.model, m, run))
        for layer in self.model.layers:
            loads = Loads(np.array([1.0]), np.array([1.0]))
            ops += [op for part in layer_ops(layer, m, run, loads) for op in part]
        out: list[tuple[float, int, int]] = []
        for op in ops:
            if op.kind == "gemm" and op.name != "router":
                out.append((op.shape["m"], int(op.shape["n"]), int(op.shape["k"])))
            elif op.kind == "experts":
                routed = batch.tokens * op.shape["top_k"]
                hidden, width = int(op.shape["hidden"]), int(op.shape["inter"])
                out.append((routed, (int(op.shape["matrices"]) - 1) * width, hidden))
                out.append((routed, hidden, width))
        return out

    def _attentions(self, array: ArraySpec) -> Iterable[EngineSpec]:
        """A design without an attention unit, and with every unit that the DSPs left allow.

        An array that also serves attention needs the wider products of both.
        """
        base, limit = self.base, self.limits["DSP slices"]
        room, old = limit - array.macs * array.dsp_per_mac, base.attention
        per_mac = old.dsp_per_mac if old else base.linear.dsp_per_mac
        shared = array.model_copy(update={"dsp_per_mac": max(array.dsp_per_mac, per_mac)})
        if shared.macs * shared.dsp_per_mac <= limit:
            yield base.model_copy(update={"linear": shared, "attention": None})
        for p in QUERIES:
            for f in FEATURES:
                unit = AttentionSpec(queries=p, features=f, dsp_per_mac=per_mac,
                                     softmax_cycles=old.softmax_cycles if old else 1.0)  # fmt: skip
                if 2 * unit.macs * per_mac <= room:
                    yield base.model_copy(update={"linear": array, "attention": unit})

    def _buffers(self, engine: EngineSpec) -> Iterable[EngineSpec]:
        """Buffer plans: the base's, and pairs of cut tiles with or without attention's own."""
        yield engine
        base, stored = engine.buffers, stored_bytes(self.model, engine)
        for kib in TILE_KIB:
            if stored / (kib * 1024) > MOST_LOADS:
                continue
            for own in {base.attention_bytes, None}:
                update = {"weights_bytes": kib * 1024.0, "attention_bytes": own,
                          "embedding_bytes": None}  # fmt: skip
                yield engine.model_copy(
                    update={"buffers": base.model_copy(update=update), "load_unit": "tile"}
                )

    def _estimate(self, engine: EngineSpec) -> float:
        """Cycles of all passes, loads left out: a lower bound that orders designs."""
        tiles = engine.model_copy(update={"load_unit": "tile"})
        rate = engine.port_bytes_per_s(1) / engine.clock_Hz
        total = 0.0
        for item in self.program(self.deploy(tiles)):
            if isinstance(item, ExpertBlock):
                total += item.tokens * item.top_k * sum(p.cycles for p in item.parts)
            else:
                work = item.work if isinstance(item, Tile) else item
                total += max([work.cycles, *(size / rate for size in work.streams)])
        return total


def _steps(sizes: npt.NDArray[np.int64], most: int) -> list[int]:
    """Array sides up to `most` at which some matrix needs a pass less: ceil(size / passes)."""
    sides = {-(-int(size) // j) for size in np.unique(sizes) for j in range(1, int(size) + 1)}
    return sorted(side for side in sides if side <= most)
