"""Attention and experts on separate devices: what a step takes, what limits it, and the best batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

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
from ..show.declared import record, rows, text
from ..show.result import Rests, Result
from ..show.text import Blocks, Records, Rows, seconds
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

    @property
    def tokens_per_s_of_a_device(self) -> float:
        return self.tokens_per_s / self.devices

    @property
    def joules_per_token(self) -> float:
        return self.joules / self.sequences

    @property
    def usd_per_million_tokens(self) -> float | None:
        return None if self.usd_per_hour is None else self.usd_per_hour / 3600.0 / self.tokens_per_s * 1e6


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

    @property
    def every(self) -> tuple[LayoutStep, ...]:
        """The rows, with the row of the devices that do both at the end."""
        return self.found if self.against is None else (*self.found, self.against)

    @property
    def rate(self) -> float | None:
        """Of the link [B/s]; None where it is free."""
        return self.apart.rate if np.isfinite(self.apart.rate) else None

    @property
    def speed(self) -> str:
        """The same for people."""
        return "free" if self.rate is None else f"{self.rate / 1e9:g} GB/s a device"

    @property
    def limit(self) -> str:
        """The limit of time, as the heading has it."""
        return "" if self.tpot is None else f", at most {seconds(self.tpot)} a token"

    def evidence(self) -> Records:
        """Of both groups of devices."""
        groups = zip(("attention", "experts"), (self.apart.attention, self.apart.experts), self.sources, strict=True)
        return [{"devices": flag, **row} for flag, d, sources in groups for row in evidence(d, sources)]

    def closed_form_s(self) -> float | None:
        """MegaScale-Infer's formula of the best row; None where its micro-batches are too few [s].

        Of means over layers, without what stands before the first and after the last.
        """
        step = self.best.step
        assert step is not None
        times = step.attention_s, step.experts_s, step.link_s, len(step.sizes)
        visits = sum(task.name == "experts" for task in step.timeline.graph.tasks)
        return step_seconds(*times, visits // len(step.sizes)) if enough(*times) else None

    def records(self) -> Rows:
        return [record(row) for row in self.every]

    def rows(self) -> Rows:
        return rows(self.every)

    def blocks(self) -> Blocks:
        missed = [self.missed] if self.missed else []
        return [text(self, "heading"), text(self, "memory"), self.rows(), self._headline(self.best), *missed, *NOTES]

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
