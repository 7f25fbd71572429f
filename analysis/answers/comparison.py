"""Result of a comparison of systems: one row for each system, break-even of experts, and the printed tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...devices.device import Processor, build_device
from ...devices.spec import SystemSpec
from ...simulator.deploy.placement import able, processors_of
from ...workloads.layers import RoutedKind, Run, is_routed
from ...workloads.model import ModelSpec
from ...workloads.numerics import Numerics
from ...workloads.ops import Loads
from ..show.declared import record, rows
from ..show.result import Drawing, Rests, Result
from ..show.text import Blocks, Records, Rows, seconds, show
from .bases import NONE, Bases, in_short, not_like_for_like
from .evidence import apart_evidence, evidence_blocks
from .interval import LEVEL, Interval, interval_dict, spoken
from .one_step import LayerTime
from .ranges import Ranges, is_measured
from .summary import degrees

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Queue of one expert at which arithmetic and traffic take equally long.

    Attributes
    ----------
    ridge_op_per_byte : float
        Ridge point of the nominal roofs [FLOP/B].
    tokens : float or None
        Tokens of the expert, with activations that share the weights' path; None if their traffic keeps the processor memory-bound.
    weights_only_tokens : float
        Tokens of the expert if activations cause no traffic.
    """

    processor: str
    ridge_op_per_byte: float
    tokens: float | None
    weights_only_tokens: float


def routed_part(model: ModelSpec) -> RoutedKind | None:
    """Return the first layer part of a model that routes tokens to experts; None for a dense model."""
    return next((layer.ffn for layer in model.layers if is_routed(layer.ffn)), None)


def break_evens(model: ModelSpec, system: SystemSpec) -> tuple[BreakEven, ...]:
    """Return the break-even of every processor that runs experts, the one that runs everything first."""
    moe, numerics = routed_part(model), model.numerics
    if moe is None:
        return ()
    return tuple(
        _break_even(p, moe, numerics, *_bytes(p, system, numerics))
        for p in able(processors_of(build_device(system.device)), "experts")
        if numerics.compute("experts") in p.peak
    )


def _break_even(
    processor: Processor, moe: RoutedKind, numerics: Numerics, weight_bytes: float, act_bytes: float
) -> BreakEven:
    """Return the break-even of one processor for the given bytes of a weight and an activation."""
    one, dtype = Loads(np.ones(1), np.ones(1)), numerics.compute("experts")
    op = moe.expert_op(one, Run(numerics))  # one expert and one token
    weights = op.weight_bytes / numerics.weight_bytes("experts")
    per_token = act_bytes * op.act_bytes / numerics.act_bytes
    tokens = processor.break_even_tokens(dtype, weight_bytes, per_token / weights)
    return BreakEven(
        processor.name, processor.ridge(dtype), None if np.isinf(tokens) else tokens,
        processor.break_even_tokens(dtype, weight_bytes),
    )  # fmt: skip


def _bytes(processor: Processor, system: SystemSpec, numerics: Numerics) -> tuple[float, float]:
    """Return the bytes of a weight, and of an activation that shares the weights' memory path."""
    engine = system.device.processors[processor.name].engine
    stored = numerics.weight_bytes("experts")
    if engine is None:
        return stored, numerics.act_bytes
    return (stored if engine.weight_bits is None else engine.weight_bits / 8), 0.0


@dataclass(frozen=True, slots=True)
class SystemRow:
    """Result of one system; the values are None if the model does not fit.

    Attributes
    ----------
    kinds : tuple of str
        Kinds of the system's processors: "xpu", "logic-pim", "fpga", ...
    reason : str
        Why the model does not fit, with needed and available memory; empty if it fits.
    latency_s : float or None
        Duration of the step, or of all images [s].
    items_per_s : float or None
        Tokens or images per second [1/s].
    joules, static_joules : float or None
        Energy of the step on all devices, and its part due to static or board power [J].
    memory_bytes, memory_available_bytes : float
        Weights and KV cache of all devices, and their usable memory [B].
    bases : Bases
        Basis of the times and energies.
    interval : Interval or None
        Factors on `latency_s`, see `interval`; None if too small a part is based on measurements.
    rests, holder : Rests or None
        Description of the system with its sources and its deployment; `holder` is the separate system of the experts.
    ranges : Ranges or None
        The part of the step that is out of range; None on an FPGA.
    framework : str or None
        Serving framework whose kernels are assumed; None if no kernels of a framework are known.
    items : int
        Tokens or images of the step.
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
    holder: Rests | None = None
    ranges: Ranges | None = None
    framework: str | None = None
    items: int = 1

    @property
    def layout(self) -> str:
        """Return the parallel degrees and the placement as text; empty on an FPGA."""
        d = self.rests and self.rests.deployment
        batches = f", micro-batches {d.apart.batches}" if d and d.apart else ""
        return f"{degrees(d)}, {d.placement}{batches}" if d else ""

    def evidence(self) -> Records:
        """Return the evidence of the step's times; empty on an FPGA."""
        d = self.rests and self.rests.deployment
        return (
            apart_evidence(d, self.rests.sources, self.holder.sources if self.holder else {})
            if d and self.rests
            else []
        )

    @property
    def fits(self) -> bool:
        return not self.reason

    @property
    def layout_or_none(self) -> str | None:
        return self.layout or None

    @property
    def latency_interval(self) -> dict[str, Any] | None:
        """Return the interval of the step's time for JSON."""
        return interval_dict(self.latency_s, self.interval)

    @property
    def joules_per_item(self) -> float | None:
        return None if self.joules is None else self.joules / self.items

    @property
    def spoken(self) -> str | None:
        """Return the interval of the step's time as text."""
        return spoken(self.interval) if self.interval else None

    @property
    def longest(self) -> str:
        """Return the part of the model that takes the most time, with its share and its bound."""
        if not self.layers:
            return "does not fit"
        top = max(self.layers, key=lambda x: x.seconds)
        return f"{top.layer} {top.seconds / sum(x.seconds for x in self.layers):.0%}, {top.bound}"

    @property
    def queue(self) -> str:
        """Return the break-even of the main processor, in brackets if only the traffic of weights is counted."""
        if not self.break_even:
            return "-"
        first = self.break_even[0]
        return f"never ({show(first.weights_only_tokens)})" if first.tokens is None else show(first.tokens)

    @property
    def priced(self) -> str:
        """Return the basis of the step's time in a few words."""
        return in_short(self.bases, is_measured(self.ranges))


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
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> int:
        """Tokens or images of a step."""
        return self.images or self.batch

    @property
    def item(self) -> str:
        """Return the unit of work that is counted: "image" or "token"."""
        return "image" if self.images else "token"

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.notes, *(w for row in self.table for w in row.warnings))

    @property
    def workload(self) -> str:
        """Return a description of the step."""
        if self.images:
            return f"{self.images:,} image{'s' * (self.images > 1)}"
        return f"{self.batch:,} decodes at context {self.context:,}"

    def remarks(self) -> Sequence[str]:
        return self.warnings

    def records(self) -> Rows:
        nested = ("layers", "break_even", "latency_interval", "out_of_range")
        records = ((row, record(row)) for row in self.table)
        return [{k: v for k, v in r.items() if k not in nested} | {"kinds": "+".join(row.kinds)} for row, r in records]

    def rows(self) -> Rows:
        shown = {"interval": f"{LEVEL:.0%} interval", "rate": f"{self.item}s/s", "energy": f"J/{self.item}"}
        return [{shown.get(label, label): cell for label, cell in row.items()} for row in rows(self.table)]

    def layer_rows(self) -> Records:
        """Return the time of every part of the model on every system, with its bound."""
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
        rests = [r for row in self.table for r in (row.rests, row.holder) if r is not None]
        return list({r.system.name: r for r in rests}.values())

    def headline(self) -> str:
        """Return a sentence that names the fastest system, its lead, and the part that takes most of its time."""
        timed = [row for row in self.table if row.latency_s and not row.reason]
        if not timed:
            return "No system fits."
        best, *rest = sorted(timed, key=lambda row: row.latency_s or 0.0)
        text = f"{best.system} is fastest: {seconds(best.latency_s)} a step, most of it in "
        text += best.longest + "."
        for row in rest[:3]:
            ratio = (row.latency_s or 0.0) / (best.latency_s or 1.0)
            text += f" {row.system} takes {ratio:.2f} times as long."
        return text

    def drawings(self) -> Sequence[Drawing]:
        from ..plots.bars import comparison

        figure = comparison(self.frame(), self.layer_frame(), self.title, self.item)
        return [Drawing(figure, f"Time, energy of one {self.item}, and where the time goes.")]

    def blocks(self) -> Blocks:
        out: Blocks = [self.title, self.rows()]
        out += [f"{row.system} left out: {row.reason}" for row in self.table if row.reason]
        if any(not row.reason for row in self.table):
            out.append(self.layer_rows())
        timed = [row for row in self.table if row.latency_s is not None and not row.reason]
        if any(sum(x.seconds for x in r.layers) > 1.001 * (r.latency_s or 0.0) for r in timed):
            out.append("Parts that run in parallel count in full: they may add up to more than the step.")
        out += not_like_for_like((r.system, r.bases) for r in timed)
        out += self._served()
        shown = [(r.evidence(), r.system, r.ranges) for r in self.table if r.layout and not r.reason]
        out += evidence_blocks(shown, self.why)
        if self.mean_queue is not None:
            out.append(
                f"An expert has {show(self.mean_queue)} tokens on average. With fewer than the break-even tokens it waits for its "
                "weights. `never`: its activations always take longer than its arithmetic; in brackets: weights only."
            )
        return out

    def _served(self) -> list[str]:
        """Return a sentence with each system's parallel layout and the engine whose kernels it uses."""
        text = "; ".join(
            f"{r.system} {r.layout}, {r.framework or 'no engine'}'s kernels" for r in self.table if r.layout
        )
        return [f"Layouts: {text} (--framework). One step, so no scheduler."] if text else []
