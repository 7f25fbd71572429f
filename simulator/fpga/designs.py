"""Search space of FPGA designs for one board and one model, and the cost of each design."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.checks import engine_of, resource_use
from ...devices.fpga_engine import ArraySpec, AttentionSpec, EngineSpec
from ...devices.spec import DeviceSpec
from ...workloads.batch import Batch
from ...workloads.layers import Run
from ...workloads.model import ModelSpec, embedding_ops, layer_ops
from ...workloads.ops import Loads, Op
from ...workloads.pareto import unbeaten
from .deploy import FpgaDeployment, deploy_fpga, image_program, stored_bytes
from .frames import run_image
from .schedules import ExpertBlock, Program, Tile

QUERIES = (1, 2, 4, 8, 16, 32, 64)
FEATURES = (8, 16, 32, 64)
TILE_KIB = (32, 64, 128, 256, 512, 1024)
MOST_SHAPES = 24
"""Maximum number of linear arrays that are combined with attention units."""
LEAST_SHARE = 0.1
"""Minimum share of the DSPs in a linear array; smaller arrays leave the board idle."""
MOST_LOADS = 3_000
"""Maximum number of loads in one step; smaller tiles are not tried, because more loads are slower."""
MOST_RUNS = 160
"""Maximum number of arrays with attention units that are run with every buffer plan, fastest estimates first."""


@dataclass(frozen=True, slots=True)
class FpgaDesign:
    """One design of the search, with its cost.

    Attributes
    ----------
    cycles : int
        Cycles of one image or step.
    latency_s, joules : float
        Latency at the design's clock [s], and energy at the board's power [J].
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
class DesignSpace:
    """Designs of one board for one model."""

    model: ModelSpec
    device: DeviceSpec
    fill: float

    @property
    def base(self) -> EngineSpec:
        return engine_of(self.device)[1]

    @property
    def limits(self) -> dict[str, float]:
        """Maximum DSPs and on-chip bytes of a design."""
        _, engine, fabric = engine_of(self.device)
        return {use.resource: use.available * self.fill for use in resource_use(engine, fabric)
                if use.resource in ("DSP slices", "on-chip bytes")}  # fmt: skip

    def excess(self, engine: EngineSpec) -> tuple[str, ...]:
        """Return the limits that a design exceeds."""
        takes = {"DSP slices": engine.dsp, "on-chip bytes": engine.buffer_bytes}
        return tuple(f"{takes[name]:,.0f} {name}, {limit:,.0f} available"
                     for name, limit in self.limits.items() if takes[name] > limit)  # fmt: skip

    def deploy(self, engine: EngineSpec) -> FpgaDeployment:
        name, _, _ = engine_of(self.device)
        processor = self.device.processors[name].model_copy(update={"engine": engine})
        device = self.device.model_copy(update={"processors": {name: processor}})
        return deploy_fpga(self.model, device, check=False)

    def program(self, deployment: FpgaDeployment) -> Program:
        return image_program(deployment)

    def run(self, engine: EngineSpec) -> FpgaDesign:
        """Simulate a design with the event engine; return its cost."""
        cycles = run_image(self.deploy(engine)).cycles
        took = cycles / engine.clock_Hz
        return FpgaDesign(engine, cycles, took, took * self.device.static_W, engine.dsp, engine.buffer_bytes)

    def designs(self) -> Iterable[EngineSpec]:
        """Generate the designs to run; each is within the limits."""
        estimates = [(self._estimate(e), e) for array in self._arrays() for e in self._attentions(array)]
        costs = np.array([(cycles, engine.dsp) for cycles, engine in estimates]).reshape(-1, 2)
        for i in unbeaten(costs, once=True)[:MOST_RUNS]:
            for buffers in self._buffers(estimates[i][1]):
                if not self.excess(buffers):
                    yield buffers

    def _arrays(self) -> list[ArraySpec]:
        """Return linear arrays on the Pareto front of multipliers and cycles, thinned evenly."""
        rows, ns, ks = (np.array(column) for column in zip(*self._matrices(), strict=True))
        most = int(self.limits["DSP slices"] / self.base.linear.dsp_per_mac)
        points = []
        for i in _steps(ks, most):
            passes_k = -(-ks // i)
            for o in _steps(ns, most // i):
                if i * o >= LEAST_SHARE * most:
                    cycles = float((rows * passes_k * -(-ns // o)).sum())
                    points.append((i * o, cycles, i, o))
        points.sort()
        costs = np.array([point[:2] for point in points], dtype=float).reshape(-1, 2)
        front = [points[i][2:] for i in unbeaten(costs, once=True)]
        if not front:
            return []  # no array has a multiplier
        picked = np.unique(np.linspace(0, len(front) - 1, MOST_SHAPES).round().astype(int))
        # Keep all of the largest arrays: they differ most in the DSPs that remain for attention.
        picked = np.unique([*picked, *range(max(0, len(front) - 6), len(front))])
        dsp = self.base.linear.dsp_per_mac
        return [ArraySpec(inputs=front[j][0], outputs=front[j][1], dsp_per_mac=dsp) for j in picked]

    def _matrices(self) -> list[tuple[float, int, int]]:
        """Return rows, outputs and inputs of every matrix of the model."""
        assert self.model.front is not None
        batch = Batch.of(chunks=[(self.model.front.tokens, 0)])
        m, run = batch.moments(self.model.windows), Run(self.model.numerics)
        ops: list[Op] = list(embedding_ops(self.model, m, run))
        for layer in self.model.layers:
            loads = Loads(np.array([1.0]), np.array([1.0]))
            ops += [op for part in layer_ops(layer, m, run, loads) for op in part]
        out: list[tuple[float, int, int]] = []
        for op in ops:
            if op.product and op.name != "router":
                out.append((op.shape["m"], int(op.shape["n"]), int(op.shape["k"])))
            elif op.routed:
                routed = batch.tokens * op.shape["top_k"]
                hidden, width = int(op.shape["hidden"]), int(op.shape["inter"])
                out.append((routed, (int(op.shape["matrices"]) - 1) * width, hidden))
                out.append((routed, hidden, width))
        return out

    def _attentions(self, array: ArraySpec) -> Iterable[EngineSpec]:
        """Generate a design without an attention unit, and one with every unit that the remaining DSPs allow.

        An array that also computes attention needs the wider multipliers of both.
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
        """Generate buffer plans: that of the base, and pairs of tiles with or without a separate attention buffer."""
        yield engine
        base, stored = engine.buffers, stored_bytes(self.model, engine)
        for kib in TILE_KIB:
            if stored / (kib * 1024) > MOST_LOADS:
                continue
            for attention_bytes in {base.attention_bytes, None}:
                update = {"weights_bytes": kib * 1024.0, "attention_bytes": attention_bytes, "embedding_bytes": None}
                yield engine.model_copy(update={"buffers": base.model_copy(update=update), "load_unit": "tile"})

    def _estimate(self, engine: EngineSpec) -> float:
        """Return the cycles of all passes without loads: a lower bound that sorts the designs."""
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
    """Return the array sides up to `most` at which some matrix needs one pass less: ceil(size / passes)."""
    sides = {-(-int(size) // j) for size in np.unique(sizes) for j in range(1, int(size) + 1)}
    return sorted(side for side in sides if side <= most)
