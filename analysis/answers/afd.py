"""Attention and experts on separate devices: what a step takes, what limits it, and the best batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ...devices.catalog import describe_system
from ...devices.spec import SystemSpec
from ...simulator.batching.kv import kv_rules, sequence_bytes
from ...simulator.deploy.deployment import Deployment
from ...simulator.option import chosen
from ...simulator.parts.experts_apart.one_step import (
    MOST_BATCHES,
    Apart,
    ApartStep,
    GroupMemory,
    apart_of,
    apart_step,
    memories,
)
from ...simulator.parts.experts_apart.schedule import enough, step_seconds
from ...simulator.scenario.load import load
from ...simulator.scenario.one_step import num_devices
from ...simulator.scenario.options import DeployOptions
from ...simulator.scenario.place import deployed, refuse_unused
from ...simulator.step.explicit import dealt, explicit_stage
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count
from ..show.result import Rests, Result
from ..show.text import seconds, show
from .evidence import evidence
from .step import MAX_BATCH
from .usual import kernels_as_usual

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import DeployOptionsKeywords

TRIED = (1, 2, 3, 4)
"""Micro-batches that are tried unless a number is given."""
BATCH = 256
"""Sequences where neither they nor a limit of time is given."""
NOTES = (
    (
        "A micro-batch's times are means over layers with experts; the link's is one way. Loads of experts are "
        "expectations. Every chosen expert receives and returns one vector over the link; energy of the link "
        "and of its ends on the devices is not counted."
    ),
)


@dataclass(frozen=True, slots=True)
class LayoutStep:
    """A step of one layout.

    Attributes
    ----------
    batches : int or None
        Micro-batches; None where attention and experts share devices.
    seconds, joules : float
        Of the step [s], [J].
    usd_per_hour : float or None
        Of all devices.
    """

    layout: str
    devices: int
    batches: int | None
    sequences: int
    seconds: float
    joules: float
    usd_per_hour: float | None
    step: ApartStep | None = None

    @property
    def tokens_per_s(self) -> float:
        """Of all sequences."""
        return self.sequences / self.seconds

    def record(self) -> dict[str, Any]:
        """Numbers in SI units."""
        usd, step = self.usd_per_hour, self.step
        busy = step.busy() if step is not None else {}
        return {
            "layout": self.layout, "devices": self.devices, "micro_batches": self.batches,
            "sequences": self.sequences, "step_s": self.seconds, "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_of_a_device": self.tokens_per_s / self.devices,
            "joules_per_token": self.joules / self.sequences,
            "usd_per_million_tokens": None if usd is None
            else usd / 3600.0 / self.tokens_per_s * 1e6,
            "limit": None if step is None else step.limit,
            "attention_s": None if step is None else step.attention_s,
            "experts_s": None if step is None else step.experts_s,
            "link_s": None if step is None else step.link_s,
            **{f"{name}_busy": busy.get(name) for name in ("attention", "experts", "link")},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Afd(Result):
    """Steps with attention and experts on separate devices; see `afd`."""

    apart: Apart
    memory: GroupMemory
    context: int
    tpot: float | None
    found: tuple[LayoutStep, ...]
    against: LayoutStep | None
    missed: str
    sources: tuple[Mapping[str, str], Mapping[str, str]]

    @property
    def best(self) -> LayoutStep:
        """The row of most tokens a second."""
        return max(self.found, key=lambda row: row.tokens_per_s)

    def to_dict(self) -> dict[str, Any]:
        a, memory = self.apart, self.memory
        return {
            "model": a.attention.model.name,
            "attention_on": a.attention.system.name,
            "experts_on": a.experts.system.name,
            "tp": a.attention.layout.tp,
            "dp": a.attention.layout.dp,
            "ep": a.experts.layout.ep,
            "link": {"bytes_per_s": a.rate if np.isfinite(a.rate) else None, "latency_s": a.latency_s},
            "context": self.context,
            "tpot_limit_s": self.tpot,
            "memory": {
                "attention_weights_bytes": memory.attention_weights,
                "attention_usable_bytes": memory.attention,
                "sequence_bytes": memory.sequence,
                "sequences_of_a_rank": memory.most,
                "experts_weights_bytes": memory.experts_weights,
                "experts_usable_bytes": memory.experts,
            },
            "rows": self.records(),
            "best": self.best.record(),
            "closed_form_s": self.closed_form_s(),
            "evidence": [
                {"devices": flag, **row}
                for flag, d, sources in zip(
                    ("attention", "experts"), (a.attention, a.experts), self.sources, strict=True
                )
                for row in evidence(d, sources)
            ],
        }

    def closed_form_s(self) -> float | None:
        """MegaScale-Infer's formula of the best row; None where its micro-batches are too few [s].

        Of means over layers, without what stands before the first and after the last.
        """
        step = self.best.step
        assert step is not None
        times = step.attention_s, step.experts_s, step.link_s, len(step.sizes)
        visits = sum(task.name == "experts" for task in step.timeline.graph.tasks)
        return step_seconds(*times, visits // len(step.sizes)) if enough(*times) else None

    def records(self) -> Sequence[Mapping[str, Any]]:
        rows = [row.record() for row in self.found]
        return rows if self.against is None else [*rows, self.against.record()]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "layout": row["layout"], "micro-batches": row["micro_batches"] or "-",
                "sequences": f"{row['sequences']:,}", "step": seconds(row["step_s"]),
                "tokens/s of a device": f"{row['tokens_per_s_of_a_device']:,.0f}",
                "J/token": show(row["joules_per_token"]),
                "$/M tokens": "-" if row["usd_per_million_tokens"] is None
                else f"{row['usd_per_million_tokens']:.3f}",
                "attention": _time(row, "attention"), "experts": _time(row, "experts"),
                "link": _time(row, "link"), "limit": row["limit"] or "-",
            }
            for row in self.records()
        ]  # fmt: skip

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        a, memory, best = self.apart, self.memory, self.best
        names = f"attention on {a.attention.system.name}, experts on {a.experts.system.name}"
        rate = "free" if not np.isfinite(a.rate) else f"{a.rate / 1e9:g} GB/s a device"
        text = f"{a.attention.model.name}, {names}: decodes at context {self.context:,}"
        if self.tpot is not None:
            text += f", at most {seconds(self.tpot)} a token"
        out: list[str | Sequence[Mapping[str, Any]]] = [
            f"{text}; tp {a.attention.layout.tp}, dp {a.attention.layout.dp}, ep {a.experts.layout.ep}",
            (
                f"link: {rate}, {seconds(a.latency_s)} a message. Memory of a device: "
                f"{memory.attention_weights / 2**30:.1f} GiB of weights and {memory.most:,} sequences a rank with "
                f"attention, {memory.experts_weights / 2**30:.1f} of {memory.experts / 2**30:.1f} GiB with experts."
            ),
            self.rows(),
            self._headline(best),
        ]
        return [*out, *([self.missed] if self.missed else []), *NOTES]

    def _headline(self, best: LayoutStep) -> str:
        """Which is best, and how it stands against the devices that do both."""
        assert best.step is not None
        many = "es" * ((best.batches or 0) > 1)
        text = f"Best with {best.batches} micro-batch{many}, limited by {best.step.limit}"
        if self.against is None:
            return f"{text}."
        mine, other = (row.tokens_per_s / row.devices for row in (best, self.against))
        return f"{text}: {mine / other:.2f}x the tokens per second of a device of {self.against.layout}."

    def headline(self) -> str:
        """One sentence for a report."""
        return self._headline(self.best)

    def rests(self) -> Sequence[Rests]:
        """Both systems."""
        return [
            Rests(d.system, sources, d)
            for d, sources in zip((self.apart.attention, self.apart.experts), self.sources, strict=True)
        ]


def _time(row: Mapping[str, Any], name: str) -> str:
    """Time of a micro-batch and how much of the step the stream works."""
    took = row[f"{name}_s"]
    return "-" if took is None else f"{seconds(took)} ({row[f'{name}_busy']:.0%})"


def afd(
    model: str | Path | ModelSpec, attention_on: str | Path | SystemSpec,
    experts_on: str | Path | SystemSpec, *, batch: int | None = None, context: int = 4096,
    tpot: float | None = None, micro_batches: int | None = None, link: str | None = None,
    against: str | Path | SystemSpec | None = None, **options: Unpack[DeployOptionsKeywords],
) -> Afd:  # fmt: skip
    """Cost a step of decodes with attention and routed experts on separate devices.

    Parameters
    ----------
    model : str, Path or spec
        Catalog name or file.
    attention_on, experts_on : str, Path or spec
        Systems: one for the routed experts, one for everything else and the KV cache.
    batch : int, optional
        Sequences of a step, of all micro-batches.
    context : int
        Cached tokens of each.
    tpot : float, optional
        Instead of `batch`: most seconds a step; the largest batch within it, and within memory, is found [s].
    micro_batches : int, optional
        How many; from 1 to 4 without it.
    link : str, optional
        Between both: a name, ``free``, or a device's rate one way [GB/s] with a latency [us] behind a comma;
        without it the slower of both systems' networks.
    against : str, Path or spec, optional
        A system whose devices do both, at the same limit or with as many sequences.
    **options
        Of `simulator.scenario.options.DeployOptions`: degrees of the attention devices, placement of the experts.
        Exchange and overlap apply only to `against`.

    Raises
    ------
    InputError
        What cannot be split so, or does not fit.

    Notes
    -----
    The step is a task graph (`simulator.parts.experts_apart.schedule`); of equal layers and enough micro-batches it takes
    what MegaScale-Infer's formula says (arXiv 2504.02263, section 4.1).
    """
    context = check_count(context, "--context", 0)
    if batch is not None and tpot is not None:
        raise InputError("--tpot", "finds the batch; remove --batch")
    if tpot is not None and not 0 < tpot < 1e6:
        raise InputError("--tpot", f"must be a time above 0 s, not {tpot:g}")
    batch = check_count(BATCH if batch is None else batch, "--batch", 1, MAX_BATCH)
    if micro_batches is not None:
        check_count(micro_batches, "--micro-batches", 1, MOST_BATCHES)
    how = chosen(DeployOptions, options)
    for name in ("all_to_all", "overlap", "ep") if against is None else ():
        if how.option(name) is not None:
            reason = "is of devices that do both: it needs --against"
            raise InputError(f"--{name.replace('_', '-')}", reason)
    spec, one = load(model, attention_on, how.dtype, how.kv_dtype)
    spec, other = load(spec, experts_on)
    how = kernels_as_usual(how, one, other)
    spec = spec.of_length(context + 1)
    a = apart_of(spec, one, other, how, link)
    memory = memories(a, context)
    tried = TRIED if micro_batches is None else (micro_batches,)
    rows = [row for n in tried if (row := _apart_row(a, memory, batch, context, tpot, n))]
    if not rows:
        assert tpot is not None
        least = min(apart_step(a, a.attention.layout.dp * n, context, n).seconds for n in tried)
        raise InputError(
            "--tpot", f"{seconds(tpot)} is less than a step of one sequence a rank takes, {seconds(least)}"
        )
    plain, missed = None, ""
    if against is not None:
        plain, missed = _plain_row(spec, against, how, batch, context, tpot)
    beside_attention, beside_experts = (
        {} if isinstance(s, SystemSpec) else describe_system(s)[1] for s in (attention_on, experts_on)
    )
    return Afd(a, memory, context, tpot, tuple(rows), plain, missed, (beside_attention, beside_experts))


def most_of(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, where all below one that does do; 0 if none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _apart_row(
    apart: Apart, memory: GroupMemory, batch: int, context: int, tpot: float | None, n: int
) -> LayoutStep | None:
    """A step of `n` micro-batches; None where no batch keeps the limit."""
    if tpot is not None:
        unit = n * apart.attention.layout.dp
        limit = tpot
        per_rank = most_of(lambda k: apart_step(apart, unit * k, context, n).seconds <= limit, memory.most // n)
        if not per_rank:
            return None
        batch = unit * per_rank
    step = apart_step(apart, batch, context, n)
    prices = [d.system.device.price_USD_per_hour for d in (apart.attention, apart.experts)]
    usd = None
    if all(prices):
        usd = sum(float(p or 0.0) * k for p, k in zip(prices, apart.devices, strict=True))
    names = f"{apart.attention.system.name} + {apart.experts.system.name}"
    return LayoutStep(names, sum(apart.devices), n, batch, step.seconds, sum(step.joules), usd, step)


def _plain_row(
    model: ModelSpec, system: str | Path | SystemSpec, how: DeployOptions, batch: int, context: int, tpot: float | None
) -> tuple[LayoutStep | None, str]:
    """A step of devices that do both; None and why where no batch keeps the limit."""
    _, where = load(model, system)
    d = deployed(model, where, how)
    refuse_unused(how, d)
    rules = kv_rules(d)
    sequence = float(sequence_bytes(rules, np.array([context + 1]))[0])
    most = int(rules.capacity / sequence)
    ranks = d.layout.dp
    if tpot is not None:
        limit = tpot
        per_rank = most_of(lambda n: _plain_step(d, n * ranks, context)[0] <= limit, most)
        if not per_rank:
            return None, f"{d.system.name} keeps {seconds(tpot)} at no batch."
        batch = per_rank * ranks
    elif -(-batch // ranks) > most:
        raise CapacityError(d.system.name, f"{batch:,} sequences do not fit: at most {most * ranks:,}")
    took, joules = _plain_step(d, batch, context)
    price, devices = where.device.price_USD_per_hour, num_devices(where)
    usd = None if price is None else price * devices
    return LayoutStep(d.system.name, devices, None, batch, took, joules, usd), ""


def _plain_step(deployment: Deployment, batch: int, context: int) -> tuple[float, float]:
    """Seconds and joules of a step of all devices."""
    stage = explicit_stage(deployment, dealt(deployment, -(-batch // deployment.replicas), context), expected=True)
    board, devices = deployment.device.board, num_devices(deployment.system)
    busy = stage.busy_within(deployment.layout.all_devices / deployment.replicas) * deployment.replicas
    joules = board.work_joules(stage.joules * deployment.replicas, busy)
    joules += board.idle_joules(stage.seconds * devices) + board.busy_joules(busy)
    return stage.seconds, joules
