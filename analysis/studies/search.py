"""Design search: array sizes, parallel queries and buffers of an FPGA board for one encoder.

For language models see `stream_search`. Only array sizes that save a pass over a matrix are tried, thinned to the
Pareto front of multipliers and cycles, combined with attention units and buffer plans, and simulated. Clock, ports,
number formats and utilisation are the board's own design.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...devices.catalog import describe_system, device_aliases, list_devices
from ...devices.fpga.resources import engine_of
from ...devices.spec import SystemSpec
from ...simulator.fpga.designs import TILE_KIB, DesignSpace, FpgaDesign
from ...workloads.catalog import load_model
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count
from ..parallel import OnProgress
from ..show.result import Rests
from ..show.text import seconds, show
from .engine_search import EngineSearch, explored
from .stream_search import StreamSearch, search_streams

OBJECTIVES = ("latency", "energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignSearch(EngineSearch):
    """Arrays and buffers for an encoder; `published_excess` are limits that the board's own design breaks."""

    objective: str
    published_excess: tuple[str, ...]

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
            "front": self.records(),
        }

    def searched(self) -> str:
        return f"{self.tried:,} designs"

    def verdict(self) -> str:
        saved = 1 - self.best.latency_s / self.published.latency_s
        verdict = f"The best design takes {saved:.2%} less time than the board's own"
        if saved < 0:
            verdict = f"No design within the limits is as fast as the board's own ({-saved:.2%} more)"
        excess = f", which breaks them: {'; '.join(self.published_excess)}"
        return verdict + (excess if self.published_excess else "") + "."

    def row(self, name: str, design: FpgaDesign) -> dict[str, Any]:
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
    dtype: str | None = None,
    kv_dtype: str | None = None,
    progress: OnProgress | None = None,
) -> DesignSearch | StreamSearch:
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
        Of the decoding step of a language model.
    dtype, kv_dtype : str, optional
        Its number formats; see `search_streams`.
    progress : callable, optional
        Called with (designs run, designs in all).

    Returns
    -------
    DesignSearch or StreamSearch
        Of an image encoder, arrays and buffers; of a language model, a streaming engine.

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
    where = _board(board)
    device = where.system.device
    if spec.front is None:
        result = search_streams(
            spec, device, fill=fill, batch=batch, context=context, dtype=dtype, kv_dtype=kv_dtype, progress=progress
        )
        return replace(result, described=(where,))
    if (dtype, kv_dtype) != (None, None):
        raise InputError("--dtype", "is for language models; arrays have their own formats")
    engine_of(device)
    space = DesignSpace(spec, device, fill)
    published = space.run(space.base)
    designs, front = explored(list(space.designs()), space.run, progress)
    if not designs:
        raise CapacityError(
            device.name, f"no design fits: needs at least 1 DSP and one buffer pair of "
            f"{2 * TILE_KIB[0]} KiB, {space.limits['DSP slices']:,.0f} DSPs and "
            f"{space.limits['on-chip bytes']:,.0f} bytes available")  # fmt: skip
    best = min(designs, key=lambda d: (d.joules if objective == "energy" else d.latency_s, d.key))
    return DesignSearch(
        model=spec, device=device, objective=objective, limits=space.limits, tried=len(designs),
        published=published, published_excess=space.excess(space.base), best=best, front=front,
        described=(where,),
    )  # fmt: skip


def _board(board: str | Path | SystemSpec) -> Rests:
    """The system of one FPGA, with its sources."""
    if isinstance(board, SystemSpec):
        rests = Rests(board, {})
    else:
        name = str(board).lower()
        known = name in list_devices() or name in device_aliases()
        rests = Rests(*describe_system(f"{board}-x1" if known else board))
    system = rests.system
    if system.devices_per_node * system.nodes > 1:
        raise InputError("--board", f"{system.name} is several devices; name one")
    return rests
