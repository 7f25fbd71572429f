"""Results of a run with disaggregated experts: energy of the expert devices, and busy share of each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from ....devices.spec import LinkSpec
from ...deploy.deployment import Deployment
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart, Program
from ...engine.state import F8, NUM_LOG, Face, LogColumn
from ...engine.work_log import Total, WorkLog
from ...fleet.run_state import RunState
from ...quantity import Figures, Quantity
from ...step.lowering import Slots
from .holders import ATTENTION, EXPERTS, devices_apart, devices_of
from .side import Worker

LINK = "link"
FULL = 0.9
"""A stream limits the steps if it is busy for at least this share of their time."""
LATENCY = "round trip"
"""Name of the limit if no stream is busy for `FULL` of the steps' time."""


@dataclass(slots=True)
class Side(EnginePart):
    """Separate devices that store the experts of one engine."""

    deployment: Deployment  # the model on the expert devices
    slots: Slots
    work_log: WorkLog  # work and energy of the expert devices over time, under their boards' power limit
    width: int  # columns of the engine's log that belong to the attention devices
    # logs of recorded steps: energy of the work [J], and busy device-seconds of each processor
    logs: list[F8] = field(default_factory=list)
    _joules: float = 0.0

    def face(self, engine: Engine, face: Face) -> Face:
        return face._replace(exchanged=engine.step_totals.aside.busy)

    def programs(self, engine: Engine) -> Iterator[Program]:
        name = self.deployment.system.device.name
        yield name, self.slots, engine.plan.apart.plan, engine.step_totals.aside.step_totals

    @property
    def devices(self) -> int:
        """Return the number of devices that store the experts."""
        return devices_of(self.deployment)

    @property
    def tracks(self) -> tuple[str, ...]:
        """Return the names of their processors, in addition to the attention devices'."""
        return tuple(f"{name} with experts" for name in self.slots.processors)

    def taken(self, log: F8, keep: bool) -> F8:
        """Add the expert devices' columns of a log to their work log; return the attention devices' columns."""
        entries = np.zeros((len(log), NUM_LOG + log.shape[1] - self.width - 1))
        entries[:, LogColumn.START], entries[:, LogColumn.END] = log[:, LogColumn.START], log[:, LogColumn.END]
        entries[:, LogColumn.JOULES] = self._joules + np.cumsum(log[:, -1])
        self._joules = float(entries[-1, LogColumn.JOULES])
        entries[:, NUM_LOG:] = log[:, self.width : -1]
        if keep:
            joules = self.work_log.add(entries)
            self.logs.append(np.column_stack([joules, entries[:, NUM_LOG:-1]]))
        else:
            self.work_log.note(entries)
        return log[:, : self.width]


def of_engine(engine: Engine) -> Side | None:
    """Build the devices that store an engine's experts; return None without disaggregated experts."""
    d, slots = engine.deployment, engine.slots
    if d.apart is None or slots.holders is None:
        return None
    holder = d.apart.holder
    devices = float(devices_apart(d)) if engine.plan.apart.plan.shares else None
    work_log = WorkLog(holder.device.board, devices)
    side = engine.expert_side = Side(holder, slots.holders, work_log, NUM_LOG + len(slots.processors) + 1)
    return side


@dataclass(frozen=True, slots=True)
class ApartRun:
    """Results of the attention devices, the expert devices, and the link between them.

    Attributes
    ----------
    deployment : Deployment
        Deployment on the expert devices.
    attention_devices, experts_devices : int
        Devices of all replicas.
    batches : int
        Micro-batches of a step.
    attention, experts, link_busy : float
        Busy share of the time in steps; for the link, of its busier direction.
    """

    deployment: Deployment
    attention_devices: int
    experts_devices: int
    batches: int
    attention: float
    experts: float
    link_busy: float
    link: LinkSpec

    @property
    def limit(self) -> str:
        """Return the busiest of attention, experts and link; `LATENCY` if its busy share is below `FULL`."""
        shares = {ATTENTION: self.attention, EXPERTS: self.experts, LINK: self.link_busy}
        first = max(shares, key=lambda name: shares[name])
        return first if shares[first] >= FULL else LATENCY


def apart_run(deployment: Deployment, busy: F8, stepping_s: float, attention_devices: int, engines: int) -> ApartRun:
    """Return the results of engines with disaggregated experts.

    Parameters
    ----------
    busy : float64 array
        Busy seconds of each stream, summed over engines; see `.side.Aside`.
    stepping_s : float
        Time in steps, summed over engines [s].
    """
    assert deployment.apart is not None
    share = busy / stepping_s if stepping_s > 0.0 else np.zeros_like(busy)
    return ApartRun(
        deployment.apart.holder, attention_devices, devices_apart(deployment) * engines, deployment.apart.batches,
        float(share[Worker.ATTENTION]), float(share[Worker.EXPERTS]), float(max(share[Worker.OUT], share[Worker.BACK])),
        deployment.apart.link,
    )  # fmt: skip


def apart_left(_: object, served: RunState, *__: object) -> ApartRun | None:
    """Return the results of both groups of devices in a run; None without disaggregated experts."""
    engines = [engine for engine in served.engines if engine.expert_side is not None]
    if not engines:
        return None
    d = engines[0].deployment
    busy = np.sum([engine.step_totals.aside.busy for engine in engines], axis=0)
    stepping = sum(float(engine.curve()[1][-1, Total.STEPPING]) for engine in engines)
    return apart_run(d, busy, stepping, d.layout.all_devices * len(engines), len(engines))


FIGURES = Figures("experts_apart", "Disaggregated experts", (
    Quantity("experts_on", "System of the routed experts.", "deployment.system.name", label="experts on"),
    Quantity("attention_devices", "Devices that run attention.", label="attention devices"),
    Quantity("experts_devices", "Devices that run the routed experts.", label="expert devices"),
    Quantity("micro_batches", "Micro-batches of a step.", "batches", label="micro-batches"),
    Quantity("link", "Link between attention and expert devices.", inside=(
        Quantity("bytes_per_s", "Rate of one device, one way [B/s].",
                 lambda k: k.bandwidth_bytes_per_s if isfinite(k.bandwidth_bytes_per_s) else None, "B/s", "link"),
        Quantity("latency_s", "Latency of a message [s].", unit="s", label="latency"),
    )),
    Quantity("attention_busy", "Share of the step time in which attention devices are busy.", "attention", "%", "attention busy"),
    Quantity("experts_busy", "Share of the step time in which expert devices are busy.", "experts", "%", "experts busy"),
    Quantity("link_busy", "Share of the step time in which the link is busy.", "link_busy", "%", "link busy"),
    Quantity("limit", "Resource that limits the step time.", label="limited by"),
))  # fmt: skip
