"""Design search for decoding: multipliers and tiles of a streaming engine on an FPGA with HBM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...devices.spec import DeviceSpec
from ...simulator.scenario.stream_designs import STEP_MACS, TILE_KIB, StreamDesign, StreamSpace, fitting, stream_board
from ...workloads.errors import CapacityError
from ...workloads.model import ModelSpec
from ..parallel import OnProgress
from ..show.text import seconds, show
from .engine_search import EngineSearch, explored


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSearch(EngineSearch):
    """Streaming engines for the decoding step of a language model."""

    batch: int
    context: int

    def verdict(self) -> str:
        rate, energy = show(self.best.tokens_per_s), show(self.best.joules_per_token)
        return f"The best design decodes {rate} tokens/s at {energy} J a token."

    def searched(self) -> str:
        numerics = self.model.numerics
        formats = f"{numerics.weight_format('ffn')} weights, {numerics.kv} KV cache"
        step = f"{self.batch:,} decodes at context {self.context:,}"
        return f"{step}, {formats}; {self.tried:,} designs"

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.name, "board": self.device.name, "batch": self.batch,
            "context": self.context, "weights": self.model.numerics.weight_format("ffn"),
            "kv": self.model.numerics.kv, "limits": dict(self.limits), "tried": self.tried,
            "published": self.published.to_dict(), "best": self.best.to_dict(),
            "tokens_per_s": self.best.tokens_per_s,
            "joules_per_token": self.best.joules_per_token, "front": self.records(),
        }  # fmt: skip

    def row(self, name: str, design: StreamDesign) -> dict[str, Any]:
        return {
            "design": name,
            "MACs": f"{design.slices} x {design.macs // design.slices:,}",
            "tile": f"{design.slices} x {design.tile_bytes // design.slices // 1024:,} KiB",
            "time": seconds(design.latency_s),
            "tokens/s": show(design.tokens_per_s),
            "J/token": show(design.joules_per_token),
            "DSP": show(int(design.dsp)),
            "on chip": f"{design.on_chip_bytes / 2**20:.2f} MiB",
        }


def search_streams(
    model: ModelSpec,
    device: DeviceSpec,
    *,
    fill: float = 1.0,
    batch: int = 1,
    context: int = 2048,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    progress: OnProgress | None = None,
) -> StreamSearch:
    """Find streaming engines for the decode step of a language model.

    Parameters
    ----------
    dtype, kv_dtype : str, optional
        Formats; without `dtype` the first of int8 and int4 that fits the memory, and int8 caches.

    Raises
    ------
    InputError
        A format that the engine's multipliers do not take.
    SpecError
        The device is not an FPGA.
    CapacityError
        The model does not fit the board's memory, or no design its fabric.
    """
    board = stream_board(device)
    space = StreamSpace(fitting(model, board, batch, context, dtype, kv_dtype), board, batch, context)
    limits = space.limits(fill)
    designs, front = explored(space.plans(limits), lambda plan: space.run(*plan), progress)
    if not designs:
        least = space.dsp(STEP_MACS * space.slices)
        raise CapacityError(
            board.name, f"no design fits: needs at least {least:,.0f} DSP slices and "
            f"{space.on_chip(TILE_KIB[0] * 1024 * space.slices):,.0f} on-chip bytes, "
            f"{limits['DSP slices']:,.0f} and {limits['on-chip bytes']:,.0f} available")  # fmt: skip
    reference = space.run(int(space.parameters["macs"]), int(space.parameters["tile_bytes"]))
    best = min(designs, key=lambda d: d.key)
    return StreamSearch(
        model=space.model, device=board, batch=batch, context=context, limits=limits, tried=len(designs),
        published=reference, best=best, front=front,
    )  # fmt: skip
