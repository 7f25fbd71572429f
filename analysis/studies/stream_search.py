"""Design search for decoding: multipliers and tiles of a streaming engine on an FPGA with HBM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ...devices.spec import DeviceSpec
from ...simulator.scenario.stream_designs import (
    STEP_MACS,
    TILE_KIB,
    StreamDesign,
    StreamSpace,
    fitting,
    stream_board,
)
from ...workloads.errors import CapacityError
from ...workloads.model import ModelSpec
from ...workloads.pareto import unbeaten
from ..parallel import Told
from ..show.result import Drawing, Rests, Result
from ..show.text import seconds, show

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class StreamSearch(Result):
    """What a search found; see `search_streams`.

    Attributes
    ----------
    published : StreamDesign
        The design that the board's description has, or FlightLLM's.
    front : tuple of StreamDesign
        Not worse than another in latency, DSPs and on-chip bytes at once; fastest first.
    """

    model: ModelSpec
    device: DeviceSpec
    batch: int
    context: int
    limits: Mapping[str, float]
    tried: int
    published: StreamDesign
    best: StreamDesign
    front: tuple[StreamDesign, ...]
    described: tuple[Rests, ...] = ()

    def rests(self) -> Sequence[Rests]:
        return self.described

    def headline(self) -> str:
        return self.verdict()

    def drawings(self) -> Sequence[Drawing]:
        return [front_drawing(self)]

    def verdict(self) -> str:
        """What the best design reaches."""
        rate, energy = show(self.best.tokens_per_s), show(self.best.joules_per_token)
        return f"The best design decodes {rate} tokens/s at {energy} J a token."

    @property
    def formats(self) -> str:
        """Number formats of weights and KV cache."""
        numerics = self.model.numerics
        return f"{numerics.weight_format('ffn')} weights, {numerics.kv} KV cache"

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.name, "board": self.device.name, "batch": self.batch,
            "context": self.context, "weights": self.model.numerics.weight_format("ffn"),
            "kv": self.model.numerics.kv, "limits": dict(self.limits), "tried": self.tried,
            "published": self.published.to_dict(), "best": self.best.to_dict(),
            "tokens_per_s": self.best.tokens_per_s,
            "joules_per_token": self.best.joules_per_token,
            "front": [design.to_dict() for design in self.front],
        }  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [design.to_dict() for design in self.front]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        named = shown_designs(self.published, self.best, self.front, 8)
        return [_row(name, design) for name, design in named]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        limits = ", ".join(f"{value:,.0f} {name}" for name, value in self.limits.items())
        return [
            (
                f"{self.model.name} on {self.device.name}: {self.batch:,} decodes at context "
                f"{self.context:,}, {self.formats}; {self.tried:,} designs within {limits}"
            ),
            self.rows(),
            self.verdict(),
            *front_remarks(self.front),
        ]


D = TypeVar("D")


class Front(Protocol):
    """What searches for designs have in common."""

    @property
    def model(self) -> ModelSpec: ...
    @property
    def device(self) -> DeviceSpec: ...
    @property
    def published(self) -> Listed: ...
    @property
    def best(self) -> Listed: ...
    def frame(self) -> pd.DataFrame: ...


class Listed(Protocol):
    """A design as plain data."""

    def to_dict(self) -> dict[str, Any]: ...


def front_drawing(found: Front) -> Drawing:
    """The figure of a search's front."""
    from ..plots.designs import pareto_front

    title = f"{found.model.name} on {found.device.name}: designs on the Pareto front"
    own, best = found.published.to_dict(), found.best.to_dict()
    figure = pareto_front(found.frame(), own, best, title)
    return Drawing(figure, "Designs that none beats in latency, DSPs and on-chip bytes at once.")


def front_remarks(front: Sequence[object]) -> tuple[str, str]:
    """What is said of the designs that none beats."""
    return (
        f"Pareto front of latency, DSPs and on-chip bytes: {len(front)} designs.",
        "Energy is the board's power times latency, so both objectives have one order.",
    )


def shown_designs(published: D, best: D, front: Sequence[D], most: int) -> list[tuple[str, D]]:
    """Designs that a table shows, by name: of a long front about `most`, evenly spread."""
    step = max(1, len(front) // most)
    chosen = [(f"front {i + 1}", front[i]) for i in range(step, len(front), step)]
    return [("board's own", published), ("best", best), *chosen]


def _row(name: str, design: StreamDesign) -> dict[str, Any]:
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
    told: Told | None = None,
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
        The device is no FPGA.
    CapacityError
        The model does not fit the board's memory, or no design its fabric.
    """
    board = stream_board(device)
    space = StreamSpace(
        fitting(model, board, batch, context, dtype, kv_dtype), board, batch, context
    )
    limits = space.limits(fill)
    plans = space.plans(limits)
    designs = []
    for i, (macs, tile) in enumerate(plans):
        designs.append(space.run(macs, tile))
        if told is not None:
            told(i + 1, len(plans))
    if not designs:
        least = space.dsp(STEP_MACS * space.slices)
        raise CapacityError(
            board.name, f"no design fits: needs at least {least:,.0f} DSP slices and "
            f"{space.on_chip(TILE_KIB[0] * 1024 * space.slices):,.0f} on-chip bytes, "
            f"{limits['DSP slices']:,.0f} and {limits['on-chip bytes']:,.0f} available")  # fmt: skip
    costs = np.array([design.key for design in designs])
    front = tuple(designs[i] for i in unbeaten(costs, once=True))
    own = space.run(int(space.parameters["macs"]), int(space.parameters["tile_bytes"]))
    best = min(designs, key=lambda d: d.key)
    return StreamSearch(space.model, board, batch, context, limits, len(designs), own, best, front)
