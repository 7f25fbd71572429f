"""Streaming engines of an FPGA board for decoding, and their costs.

`StreamEngine` costs every op of the decode step. More multipliers help until streams limit; small tiles shorten the
wait for an op's first product but get less bandwidth from gathered reads, by the DRAM command model. Clock, slices,
instructions and the attainable share of the bandwidth are the board's own design, or FlightLLM's on a U280 if the board
has none of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ....devices.catalog import load_device
from ....devices.dram.access import share_of_pins
from ....devices.dram.layout import DataLayout
from ....devices.dram.spec import load_memory
from ....devices.published import StreamEngine
from ....devices.spec import DeviceSpec, SystemSpec
from ....simulator.deploy.deployment import deploy
from ....simulator.step.explicit import PlacedOp, explicit_stage
from ....workloads.batch import Batch
from ....workloads.errors import CapacityError, InputError, SpecError
from ....workloads.model import ModelSpec
from ....workloads.numerics import BITS, check_dtype
from ....workloads.ops import IN_SEQUENCE, Access

TEMPLATE = "flightllm"
MEMORY = "hbm2-2000"
"""DRAM whose commands say what tiles read: the boards' HBM2 runs at 1.8 Gb/s."""
STEP_MACS = 128
"""Multipliers of a slice come in multiples of this."""
TILE_KIB = (4, 8, 16, 32, 64, 128, 256, 512)
"""Tiles of one slice."""
FORMATS = ("int8", "int4")
"""Weight formats, the first that fits is taken: the engine multiplies values of at most 8 bits."""
MOST_BITS = 8.5
KV = "int8"


@dataclass(frozen=True, slots=True)
class StreamDesign:
    """One engine: multipliers of all slices, a tile of all slices, and what a step costs."""

    slices: int
    macs: int
    tile_bytes: int
    latency_s: float
    tokens_per_s: float
    joules_per_token: float
    dsp: float
    on_chip_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """Return the design as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def key(self) -> tuple[float, float, float]:
        """Sort key of a design."""
        return self.latency_s, self.dsp, self.on_chip_bytes


def stream_board(device: DeviceSpec) -> DeviceSpec:
    """A board with a streaming engine: its own, or FlightLLM's on the board's memory and fabric.

    Raises
    ------
    SpecError
        The device is not an FPGA.
    """
    if device.fabric is None:
        raise SpecError(device.name, "is not an FPGA: it has no processor with an engine")
    if any(p.kind == "fpga-stream" for p in device.processors.values()):
        return device
    processors = load_device(TEMPLATE)[0].processors
    return device.model_copy(update={"processors": processors})


def fitting(
    model: ModelSpec, board: DeviceSpec, batch: int, context: int, dtype: str | None, kv_dtype: str | None
) -> ModelSpec:
    """Return the model in the first format in which weights and caches fit."""
    for option, name in (("--dtype", dtype), ("--kv-dtype", kv_dtype)):
        if name is not None and BITS[check_dtype(name, option)] > MOST_BITS:
            raise InputError(option, f"must have 8 bits at most, as the engine's multipliers; not {name}")
    room = board.memory.capacity_bytes * board.memory.usable_fraction
    needed = 0.0
    for name in FORMATS if dtype is None else (dtype,):
        formatted = replace(model, numerics=model.numerics.with_formats(name, kv_dtype or KV))
        needed = formatted.weight_bytes + batch * (
            formatted.kv_bytes_per_token * (context + 1) + formatted.state_bytes_per_sequence
        )
        if needed <= room:
            return formatted
    raise CapacityError(
        board.name, f"{model.name} does not fit: needs {needed / 2**30:.2f} GiB of weights and KV "
        f"cache, {room / 2**30:.2f} GiB available")  # fmt: skip


@lru_cache(maxsize=64)
def tile_share(tile_bytes: float, stacks: int) -> float:
    """What tiles that lie anywhere read, over one long stream, by the DRAM command model."""
    memory = load_memory(MEMORY)
    channels = stacks * memory.organisation.channels
    spread = DataLayout(standard=MEMORY, interleave_bytes=memory.organisation.atom_bytes)
    sequential = share_of_pins(memory, spread, IN_SEQUENCE, channels).fraction
    tiles = share_of_pins(memory, spread, Access("gather", tile_bytes), channels).fraction
    return min(1.0, tiles / sequential)


class StreamSpace:
    """Designs of one board for one step of `batch` decodes at a context."""

    def __init__(self, model: ModelSpec, board: DeviceSpec, batch: int, context: int) -> None:
        self.model, self.board, self.batch = model, board, batch
        system = SystemSpec(name=f"{board.name}-x1", device=board, devices_per_node=1)
        d = deploy(model, system)
        (processor,) = d.device.processors.values()
        assert isinstance(processor.model, StreamEngine)
        self.engine = processor.model
        self.parameters = next(iter(board.processors.values())).parameters
        self.slices = int(self.engine.slices)
        self.ops: tuple[PlacedOp, ...] = explicit_stage(d, [Batch.of([context] * batch)], expected=True).ops
        self.activations = max(p.op.act_bytes for p in self.ops)

    def limits(self, fill: float) -> dict[str, float]:
        """DSPs and on-chip bytes that a design may take."""
        fabric = self.board.fabric
        assert fabric is not None
        return {"DSP slices": fabric.dsp * fill, "on-chip bytes": fabric.on_chip_bytes * fill}

    def dsp(self, macs: float) -> float:
        """Return the DSP slices of a number of multipliers."""
        return macs * self.parameters["dsp_per_mac"]

    def on_chip(self, tile: float) -> float:
        """Two tiles, and the inputs and outputs of the widest op [B]."""
        return 2 * tile + self.activations

    def plans(self, limits: Mapping[str, float]) -> list[tuple[int, int]]:
        """Multipliers and tile of every design within the limits."""
        most = int(limits["DSP slices"] / self.parameters["dsp_per_mac"] / self.slices / STEP_MACS)
        counts = sorted({round(most ** (i / 23)) for i in range(24)}) if most else []
        tiles = [kib * 1024 * self.slices for kib in TILE_KIB]
        return [(n * STEP_MACS * self.slices, tile) for n in counts for tile in tiles
                if self.on_chip(tile) <= limits["on-chip bytes"]]  # fmt: skip

    def run(self, macs: int, tile: int) -> StreamDesign:
        """Cost of a design."""
        base, stacks = self.engine.base, self.board.memory.stacks
        # What the board's own design attains, its own tiles attain.
        better = tile_share(tile, stacks) / tile_share(self.engine.tile_bytes, stacks)
        share = min(1.0, base.memory_efficiency * better)
        engine = replace(
            self.engine, macs=float(macs), tile_bytes=float(tile), base=replace(base, memory_efficiency=share)
        )
        took = sum(p.count * engine.cost(p.op).seconds for p in self.ops)
        return StreamDesign(
            self.slices, macs, tile, took, self.batch / took,
            took * self.board.static_W / self.batch, self.dsp(macs), self.on_chip(tile),
        )  # fmt: skip
