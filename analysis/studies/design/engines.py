"""FPGA engines as spaces: the searches of arrays for encoders and of streams for language models.

Their designs come from the board's fabric, not from parameters of a description, and each is run through its
event engine: all are evaluated and simulated. What `opbyte search` says of one board these say as a design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....workloads.catalog import load_model
from ....workloads.errors import InputError, nearest
from ....workloads.yamlfile import read_yaml
from ...parallel import OnProgress
from ...show.output import STAMPS
from ...show.result import Drawing, Result
from ...show.text import Blocks, Rows, show
from ..engine_search import EngineSearch
from ..search import search
from ..sweep.expression import Expression
from .goals import read_limits

ENGINES = ("arrays", "streams")
KEYS = ("title", "engine", "board", "models", "limits")
METRICS = ("latency_s", "joules", "tokens_per_s", "joules_per_token", "dsp", "on_chip_bytes", "watts")
GOALS = {"latency_s": "min", "dsp": "min", "on_chip_bytes": "min"}


@dataclass(frozen=True, slots=True)
class EngineSpace:
    """A space of engines: of which kind, on which board, for which model."""

    title: str
    engine: str
    board: str
    models: tuple[str, ...]
    limits: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class EngineAnswer(Result):
    """Engines of a board that none beats in latency, DSPs and on-chip bytes, within the limits."""

    FILE = "design.json"
    PICTURES = ("front.png",)
    TABLES = (("designs.csv", "frame", STAMPS),)

    space: str
    found: EngineSearch
    front: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "space": self.space, "models": [self.found.model.name], "goals": GOALS,
            "board": self.found.device.name, "evaluated": self.found.tried,
            "simulated": self.found.tried, "front": [self._entry(row) for row in self.front],
            "shadow_prices": [], "headline": self.headline(),
        }  # fmt: skip

    def _entry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "parameters": {k: v for k, v in row.items() if k not in METRICS},
            "metrics": {k: v for k, v in row.items() if k in METRICS},
            "area_mm2": None, "watts": row["watts"], "usd": None, "why": self._why(row),
        }  # fmt: skip

    def _why(self, row: Mapping[str, Any]) -> str:
        used = {"DSP slices": row["dsp"], "on-chip bytes": row["on_chip_bytes"]}
        shares = {n: used[n] / limit for n, limit in self.found.limits.items() if n in used}
        name = max(shares, key=lambda n: shares[n])
        return f"{shares[name]:.0%} of the board's {name}, the resource that it takes most of"

    def records(self) -> Rows:
        return self.front

    def rows(self) -> Rows:
        step = max(1, len(self.front) // 12)
        return self.front[::step]

    def headline(self) -> str:
        best = self.front[0]
        text = ", ".join(f"{k} {show(v)}" for k, v in self._entry(best)["parameters"].items() if v)
        return (
            f"For {self.found.model.name} on {self.found.device.name}: {text}; "
            f"{show(best['latency_s'])} s. What limits it: {self._why(best)}."
        )

    def blocks(self) -> Blocks:
        return [self.headline(), f"{self.found.tried:,} engines run; {len(self.front):,} on the front", self.rows()]

    def drawings(self) -> Sequence[Drawing]:
        return self.found.drawings()


def engine_space(path: Path) -> EngineSpace | None:
    """A file's space of engines; None where it is one of devices.

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
        if key not in KEYS:
            raise InputError(f"{where}.{key}", f"unknown key{nearest(str(key), KEYS)}")
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
        raise InputError("--models", "of a space of FPGA engines is one model")
    limits = space.limits if budget is None else read_limits(budget, "", METRICS)
    streams = load_model(model).front is None
    if streams != (space.engine == "streams"):
        other = "fpga-arrays" if space.engine == "streams" else "fpga-streams"
        raise InputError("--models", f"{model} runs on the engines of {other}")
    result = search(model, space.board, progress=progress)
    rows = [{**design.to_dict(), "watts": result.device.static_W} for design in result.front]
    feasible = tuple(row for row in rows if all(limit.holds(row) for limit in limits))
    if not feasible:
        least = "; ".join(
            f"{limit.text}: {n} is from {show(min(r[n] for r in rows if r.get(n)))} on"
            for limit in limits for n in sorted(limit.names) if any(r.get(n) for r in rows)
        )  # fmt: skip
        raise InputError("--budget", f"no engine is within the limits: {least}")
    return EngineAnswer(name, result, feasible)
