"""FPGA engines as spaces: arrays and buffers for an encoder, streaming engines for a language model (`opbyte search`).

Their designs come from the board's fabric, not from parameters of a description, and each is run through its
event engine: all are evaluated and simulated. Clock, ports, number formats and utilisation are the board's own design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, device_aliases, list_devices
from ....devices.checks import engine_of
from ....devices.spec import DeviceSpec, SystemSpec
from ....simulator.fpga.designs import TILE_KIB, DesignSpace
from ....workloads.catalog import load_model
from ....workloads.errors import CapacityError, InputError, check_known
from ....workloads.model import ModelSpec
from ....workloads.requests.options import check_count
from ....workloads.yamlfile import read_yaml
from ...parallel import OnProgress
from ...parallel.study import Study
from ...show.declared import record
from ...show.output import STAMPS
from ...show.result import Drawing, Rests, Result
from ...show.text import Blocks, Records, Rows, show
from ..sweep.expression import Expression
from . import stream_designs as streams
from .goals import read_limits

ENGINES = ("arrays", "streams")
KEYS = ("title", "engine", "board", "models", "limits")
METRICS = ("latency_s", "joules", "tokens_per_s", "joules_per_token", "dsp", "on_chip_bytes", "watts")
GOALS = {"latency_s": "min", "dsp": "min", "on_chip_bytes": "min"}
SHOWN = 10
"""About how many designs of a long front are printed, evenly spread."""


@dataclass(frozen=True, slots=True)
class EngineSpace:
    """A space of engines: of which kind, on which board, for which model."""

    title: str
    engine: str
    board: str
    models: tuple[str, ...]
    limits: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnswer(Result):
    """Engines of a board that none beats in latency, DSPs and on-chip bytes, within the limits.

    Attributes
    ----------
    served : str
        What is run of the model, as text.
    limits : mapping of str to float
        What designs may take of the board.
    published, best : FpgaDesign or StreamDesign
        The board's own design, run the same way, and the fastest one.
    excess : tuple of str
        Limits that the board's own design exceeds.
    front : tuple of these
        Fastest first.
    """

    FILE = "design.json"
    PICTURES = ("front.png",)
    TABLES = (("designs.csv", "frame", STAMPS),)

    space: str
    model: ModelSpec
    device: DeviceSpec
    served: str
    limits: Mapping[str, float]
    tried: int
    published: Any
    best: Any
    front: tuple[Any, ...]
    excess: tuple[str, ...] = ()
    described: tuple[Rests, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        front = [self._entry(row) for row in self.records()]
        return record(self) | {"models": [self.model.name], "goals": GOALS, "front": front, "shadow_prices": []}

    def _entry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "parameters": {k: v for k, v in row.items() if k not in METRICS},
            "metrics": {k: v for k, v in row.items() if k in METRICS},
            "area_mm2": None, "watts": row["watts"], "usd": None, "why": self._why(row),
        }  # fmt: skip

    def _why(self, row: Mapping[str, Any]) -> str:
        used = {"DSP slices": row["dsp"], "on-chip bytes": row["on_chip_bytes"]}
        shares = {n: used[n] / limit for n, limit in self.limits.items() if n in used}
        name = max(shares, key=lambda n: shares[n])
        return f"{shares[name]:.0%} of the board's {name}, the resource that it takes most of"

    def rests(self) -> Sequence[Rests]:
        return self.described

    def records(self) -> Records:
        return [{**design.to_dict(), "watts": self.device.static_W} for design in self.front]

    def rows(self) -> Rows:
        """Return table rows: the board's published design, the best design, and about `SHOWN` designs of the front."""
        step = max(1, len(self.front) // SHOWN)
        chosen = [(f"front {i + 1}", self.front[i]) for i in range(step, len(self.front), step)]
        named = [("board's own", self.published), ("best", self.best), *chosen]
        return [{"design": name, **design.to_dict()} for name, design in named]

    def headline(self) -> str:
        best = self.records()[0]
        text = ", ".join(f"{k} {show(v)}" for k, v in self._entry(best)["parameters"].items() if v)
        return (
            f"For {self.model.name} on {self.device.name}: {text}; "
            f"{show(best['latency_s'])} s. What limits it: {self._why(best)}."
        )

    def blocks(self) -> Blocks:
        limits = ", ".join(f"{value:,.0f} {name}" for name, value in self.limits.items())
        return [
            f"{self.model.name} on {self.device.name}: {self.served}{self.tried:,} designs within {limits}",
            self.rows(), self.headline(),
            *([f"The board's own design exceeds the limits: {'; '.join(self.excess)}."] if self.excess else []),
            f"Pareto front of latency, DSPs and on-chip bytes: {len(self.front):,} designs.",
        ]  # fmt: skip

    def drawings(self) -> Sequence[Drawing]:
        from ...plots.tradeoffs import pareto_front

        title = f"{self.model.name} on {self.device.name}: designs on the Pareto front"
        figure = pareto_front(self.frame(), self.published.to_dict(), self.best.to_dict(), title)
        text = "Designs that none beats in latency, DSPs and on-chip bytes at once."
        return [Drawing(figure, text)]


def search(
    model: str | Path | ModelSpec,
    board: str | Path | SystemSpec,
    *,
    fill: float = 1.0,
    batch: int = 1,
    context: int = 2048,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    progress: OnProgress | None = None,
) -> EngineAnswer:
    """Find designs for a model within a board's resources.

    Energy is the board's power times latency, so the fastest design takes the least.

    Parameters
    ----------
    board : str, Path or SystemSpec
        One FPGA device, by name (``zcu104`` or ``zcu104-x1``) or file.
    fill : float
        Share of DSPs and on-chip bytes that a design may take (0.8 closes timing easily).
    batch, context : int
        Of the decoding step of a language model.
    dtype, kv_dtype : str, optional
        Its number formats; without `dtype` the first of int8 and int4 that fits the memory, and int8 caches.
    progress : callable, optional
        Called with (designs run, designs in all).

    Returns
    -------
    EngineAnswer
        Of an image encoder, arrays and buffers; of a language model, a streaming engine.

    Raises
    ------
    InputError
        No FPGA, a fill outside (0, 1], or a format that the engine's multipliers do not take.
    CapacityError
        The model does not fit the board's memory, or no design its fabric.
    """
    if not 0 < fill <= 1:
        raise InputError("--fill", f"must be above 0 and at most 1, not {fill:g}")
    check_count(batch, "--batch", 1)
    check_count(context, "--context", 0)
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    where = _board(board)
    device = where.system.device
    if spec.front is None:
        device = streams.stream_board(device)
        fitting = streams.fitting(spec, device, batch, context, dtype, kv_dtype)
        answer = _streams(streams.StreamSpace(fitting, device, batch, context), fill, progress)
        served = f"{batch:,} decodes at context {context:,}, {answer.served}; "
        answer = replace(answer, served=served)
    elif (dtype, kv_dtype) != (None, None):
        raise InputError("--dtype", "is for language models; arrays have their own formats")
    else:
        engine_of(device)
        answer = _arrays(DesignSpace(spec, device, fill), progress)
    return replace(answer, described=(where,))


def _arrays(space: DesignSpace, progress: OnProgress | None) -> EngineAnswer:
    """Return the best designs of an encoder's engine, over array sizes, attention units and buffers."""
    limits, published = space.limits, space.run(space.base)
    least = (
        f"needs at least 1 DSP and one buffer pair of {2 * TILE_KIB[0]} KiB, {limits['DSP slices']:,.0f} DSPs and "
        f"{limits['on-chip bytes']:,.0f} bytes"
    )
    tried, front = _explored(space.designs(), space.run, progress, space.device, least)
    return EngineAnswer(
        space="fpga-arrays", model=space.model, device=space.device, served="", limits=limits, tried=tried,
        published=published, best=front[0], front=front, excess=space.excess(space.base),
    )  # fmt: skip


def _streams(space: streams.StreamSpace, fill: float, progress: OnProgress | None) -> EngineAnswer:
    """Return the best designs of a streaming engine, over multipliers and tiles."""
    limits, numerics, parameters = space.limits(fill), space.model.numerics, space.parameters
    least = (
        f"needs at least {space.dsp(streams.STEP_MACS * space.slices):,.0f} DSP slices and "
        f"{space.on_chip(streams.TILE_KIB[0] * 1024 * space.slices):,.0f} on-chip bytes, "
        f"{limits['DSP slices']:,.0f} and {limits['on-chip bytes']:,.0f}"
    )
    tried, front = _explored(space.plans(limits), lambda plan: space.run(*plan), progress, space.board, least)
    return EngineAnswer(
        space="fpga-streams", model=space.model, device=space.board, limits=limits, tried=tried, best=front[0],
        front=front, published=space.run(int(parameters["macs"]), int(parameters["tile_bytes"])),
        served=f"{numerics.weight_format('ffn')} weights, {numerics.kv} KV cache",
    )  # fmt: skip


def _explored(
    plans: Iterable[Any], run: Callable[[Any], Any], progress: OnProgress | None, board: DeviceSpec, least: str
) -> tuple[int, tuple[Any, ...]]:
    """Return how many plans fit, and the designs that are not dominated, fastest first.

    A design's `key` is what it costs. A buffer plan may not fit this model's matrices.
    """
    study: Study[Any, Any] = Study(run, lambda design: design.key, refusals=(CapacityError,))
    designs, _ = study.fitting(list(plans), progress)
    if not designs:
        raise CapacityError(board.name, f"no design fits: {least} available (--fill)")
    return len(designs), tuple(study.front(designs))


def _board(board: str | Path | SystemSpec) -> Rests:
    """Return the system of one FPGA, with the sources of its numbers."""
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


def engine_space(path: Path) -> EngineSpace | None:
    """Return the engine space that a file describes; None if the file describes a space of devices.

    Raises
    ------
    InputError
        A wrong key or kind of engine.
    """
    raw = read_yaml(path)
    block = raw.get("design")
    if not isinstance(block, dict) or "engine" not in block:
        return None
    where = f"{path}: design"
    for key in block:
        check_known(f"{where}.{key}", key, KEYS, "unknown key")
    if block["engine"] not in ENGINES:
        raise InputError(f"{where}.engine", f"must be arrays or streams, not {block['engine']!r}")
    models = tuple(block.get("models") or ())
    return EngineSpace(
        str(block.get("title", path.stem)), block["engine"], str(block.get("board", "")), models,
        read_limits(block.get("limits"), where, METRICS),
    )  # fmt: skip


def engines(
    name: str, space: EngineSpace, models: Sequence[str] | None, budget: str | None, progress: OnProgress | None
) -> EngineAnswer:
    """Search the engines of a space's board for one model.

    Raises
    ------
    InputError
        Several models, one of the other kind, or no engine within the limits.
    """
    (model, *others) = models or space.models or ("",)
    if others or not model:
        raise InputError("--models", "must be one model for a space of FPGA engines")
    limits = space.limits if budget is None else read_limits(budget, "", METRICS)
    if (load_model(model).front is None) != (space.engine == "streams"):
        other = "fpga-arrays" if space.engine == "streams" else "fpga-streams"
        raise InputError("--models", f"{model} needs another space of engines: use {other}")
    answer = search(model, space.board, progress=progress)
    pairs = list(zip(answer.records(), answer.front, strict=True))
    feasible = tuple(design for row, design in pairs if all(limit.holds(row) for limit in limits))
    if not feasible:
        rows = [row for row, _ in pairs]
        least = "; ".join(
            f"{limit.text}: {n} is from {show(min(r[n] for r in rows if r.get(n)))} on"
            for limit in limits for n in sorted(limit.names) if any(r.get(n) for r in rows)
        )  # fmt: skip
        raise InputError("--budget", f"no engine is within the limits: {least}")
    return replace(answer, space=name, best=feasible[0], front=feasible)
