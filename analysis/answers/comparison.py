"""What a comparison of systems says: a row a system, and the tables that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...simulator.deploy.break_even import BreakEven
from ...simulator.scenario.one_step import LayerTime
from ...workloads.model import ModelSpec
from ..show.result import Drawing, Rests, Result
from ..show.text import seconds, show
from .bases import NONE, Bases, in_short, not_like_for_like
from .evidence import evidence
from .evidence_table import evidence_blocks
from .interval import LEVEL, Interval, interval_dict, spoken
from .ranges import Ranges, is_measured
from .summary import degrees

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SystemRow:
    """Result of one system; the values are None if the model does not fit.

    Attributes
    ----------
    kinds : tuple of str
        Of its processors: "xpu", "logic-pim", "fpga", ...
    reason : str
        Why it does not fit, with needed and available; empty where it does.
    latency_s : float or None
        Of the step, or of all images.
    items_per_s : float or None
        Tokens or images per second.
    joules, static_joules : float or None
        Of the step, all devices; the part that is static or board power.
    memory_bytes, memory_available_bytes : float
        Weights and KV cache of all devices, and their usable memory [B].
    bases : Bases
        Basis of its times and energy.
    interval : Interval or None
        Factors on its time, see `interval`; None if too small a part is based on measurements.
    rests : Rests or None
        Its description with sources, and how it is deployed.
    ranges : Ranges or None
        The part of the step that is out of range; None on an engine.
    framework : str or None
        Framework of its kernels; None if no engine's are known.
    """

    system: str
    kinds: tuple[str, ...]
    devices: int
    reason: str
    latency_s: float | None
    items_per_s: float | None
    joules: float | None
    static_joules: float | None
    memory_bytes: float
    memory_available_bytes: float
    layers: tuple[LayerTime, ...]
    break_even: tuple[BreakEven, ...]
    warnings: tuple[str, ...] = ()
    bases: Bases = NONE
    interval: Interval | None = None
    rests: Rests | None = None
    ranges: Ranges | None = None
    framework: str | None = None

    @property
    def layout(self) -> str:
        """Parallel degrees and placement; empty on an engine."""
        d = self.rests and self.rests.deployment
        return f"{degrees(d)}, {d.placement}" if d else ""

    def evidence(self) -> list[dict[str, Any]]:
        """Return the evidence of its times; nothing for an engine."""
        d = self.rests and self.rests.deployment
        return evidence(d, self.rests.sources) if d and self.rests else []

    def to_dict(self, items: int) -> dict[str, Any]:
        joules = None if self.joules is None else self.joules / items
        return {
            "system": self.system, "basis": self.bases.times, "energy_basis": self.bases.energy,
            "kinds": list(self.kinds), "devices": self.devices, "fits": not self.reason,
            "layout": self.layout or None, "framework": self.framework, "reason": self.reason,
            "latency_s": self.latency_s,
            "latency_interval": interval_dict(self.latency_s, self.interval),
            "out_of_range": None if self.ranges is None else self.ranges.to_dict(),
            "items_per_s": self.items_per_s, "joules": self.joules,
            "static_joules": self.static_joules, "joules_per_item": joules,
            "memory_bytes": self.memory_bytes,
            "memory_available_bytes": self.memory_available_bytes,
            "layers": [asdict(part) for part in self.layers],
            "break_even": [asdict(queue) for queue in self.break_even],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SystemComparison(Result):
    """All systems; see `compare`."""

    FILE = "compare.json"
    PICTURES = ("compare.png",)

    model: ModelSpec
    batch: int
    context: int
    images: int
    mean_queue: float | None
    table: tuple[SystemRow, ...]
    why: bool = False

    @property
    def items(self) -> int:
        """Tokens or images of a step."""
        return self.images or self.batch

    @property
    def item(self) -> str:
        """What is counted: "image" or "token"."""
        return "image" if self.images else "token"

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(w for row in self.table for w in row.warnings)

    @property
    def workload(self) -> str:
        """Return a description of the step."""
        if self.images:
            return f"{self.images:,} image{'s' * (self.images > 1)}"
        return f"{self.batch:,} decodes at context {self.context:,}"

    def remarks(self) -> Sequence[str]:
        return self.warnings

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.name, "layers": len(self.model.layers), "batch": self.batch,
            "context": self.context, "images": self.images, "item": self.item,
            "mean_queue": self.mean_queue,
            "rows": [row.to_dict(self.items) for row in self.table],
            "warnings": list(self.warnings),
        }  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        nested = ("layers", "break_even", "latency_interval", "out_of_range")
        return [
            {k: v for k, v in row.to_dict(self.items).items() if k not in nested} | {"kinds": "+".join(row.kinds)}
            for row in self.table
        ]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        out = []
        for row in self.table:
            joules = None if row.joules is None else row.joules / self.items
            first = row.break_even[0] if row.break_even else None
            memory = f"{row.memory_bytes / 2**30:,.2f} of {row.memory_available_bytes / 2**30:,.1f}"
            out.append(
                {
                    "system": row.system, "time": seconds(row.latency_s),
                    f"{LEVEL:.0%} interval": spoken(row.interval) if row.interval else None,
                    f"{self.item}s/s": show(row.items_per_s), f"J/{self.item}": show(joules),
                    "memory GiB": memory, "longest part": _longest(row),
                    "break-even queue": _queue(first),
                    "priced by": in_short(row.bases, is_measured(row.ranges)),
                }
            )  # fmt: skip
        return out

    def layer_rows(self) -> list[dict[str, Any]]:
        """Time of every part on every system, with what binds it."""
        names = dict.fromkeys(x.layer for row in self.table for x in row.layers)
        return [
            {"part": name}
            | {row.system: next((f"{seconds(x.seconds)}, {x.bound}" for x in row.layers
                                 if x.layer == name), None) for row in self.table if not row.reason}
            for name in names
        ]  # fmt: skip

    @property
    def title(self) -> str:
        """Title of the plot."""
        layers = len(self.model.layers)
        return f"{self.model.name}, {layers} layer{'s' * (layers > 1)}: {self.workload}"

    def layer_frame(self) -> pd.DataFrame:
        """Return the time of every part on every system, as the plot needs it."""
        import pandas as pd

        return pd.DataFrame(
            [(row.system, x.layer, x.seconds, x.bound) for row in self.table for x in row.layers],
            columns=["system", "layer", "seconds", "bound"],
        )

    def rests(self) -> Sequence[Rests]:
        return [row.rests for row in self.table if row.rests is not None]

    def headline(self) -> str:
        """Which system is fastest, by how much, and where the time of it goes."""
        timed = [row for row in self.table if row.latency_s and not row.reason]
        if not timed:
            return "No system fits."
        best, *rest = sorted(timed, key=lambda row: row.latency_s or 0.0)
        text = f"{best.system} is fastest: {seconds(best.latency_s)} a step, most of it in "
        text += _longest(best) + "."
        for row in rest[:3]:
            ratio = (row.latency_s or 0.0) / (best.latency_s or 1.0)
            text += f" {row.system} takes {ratio:.2f} times as long."
        return text

    def drawings(self) -> Sequence[Drawing]:
        from ..plots.comparisons import comparison

        figure = comparison(self.frame(), self.layer_frame(), self.title, self.item)
        return [Drawing(figure, f"Time, energy of one {self.item}, and where the time goes.")]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        out: list[str | Sequence[Mapping[str, Any]]] = [self.title, self.rows()]
        out += [f"{row.system} left out: {row.reason}" for row in self.table if row.reason]
        if any(not row.reason for row in self.table):
            out.append(self.layer_rows())
        timed = [row for row in self.table if row.latency_s is not None and not row.reason]
        if any(sum(x.seconds for x in r.layers) > 1.001 * (r.latency_s or 0.0) for r in timed):
            out.append("Parts side by side count in full: they may add up to more than the step.")
        out += not_like_for_like((r.system, r.bases) for r in timed)
        out += self._served()
        shown = [(r.evidence(), r.system, r.ranges) for r in self.table if r.layout and not r.reason]
        out += evidence_blocks(shown, self.why)
        if self.mean_queue is not None:
            out.append(
                f"An expert has {show(self.mean_queue)} tokens on average; with fewer than the "
                "break-even queue it waits for its weights (never: its activations take longer "
                "than the arithmetic; in brackets without them)."
            )
        return out

    def _served(self) -> list[str]:
        """Layouts and whose kernels these are."""
        text = "; ".join(
            f"{r.system} {r.layout}, {r.framework or 'no engine'}'s kernels" for r in self.table if r.layout
        )
        return [f"Laid out: {text} (--framework). One step, so no scheduler."] if text else []


def _queue(break_even: BreakEven | None) -> str:
    """Break-even of the main processor; in brackets where only weights are counted."""
    if break_even is None:
        return "-"
    if break_even.tokens is None:
        return f"never ({show(break_even.weights_only_tokens)})"
    return show(break_even.tokens)


def _longest(row: SystemRow) -> str:
    if not row.layers:
        return "does not fit"
    top = max(row.layers, key=lambda x: x.seconds)
    share = top.seconds / sum(x.seconds for x in row.layers)
    return f"{top.layer} {share:.0%}, {top.bound}"
