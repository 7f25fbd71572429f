"""Reported overlap of exchanges with computation, for a run or a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ...deploy.deployment import Deployment
from ...quantity import Figures, Quantity
from ...results.record import Run, typical
from ...step.explicit import StageCost, explicit_stage
from .explicit import hidden_s

TIMES = (
    Quantity("exchange", "The exchange.", "name", label="exchange"),
    Quantity("seconds", "Its time [s].", unit="s", label="time"),
    Quantity("exposed_s", "What of it is not hidden [s].", unit="s", label="not hidden"),
    Quantity("hidden_s", "What computation hides [s].", unit="s", label="hidden"),
)
STEP = (
    Quantity("asked", "What was asked for.", label="asked"),
    Quantity("way", "What runs.", label="runs"),
    Quantity("step_seconds_without", "Time of the step without overlap [s].", "plain_s", "s", "step without"),
    Quantity("exchanges", "Exchanges of the step.", inside=(
        *TIMES, Quantity("behind", "What hides it [s].", label="hidden behind"),
    )),
)  # fmt: skip
STEP_FIGURES = Figures("overlap", "Overlap", STEP, after="layers")
USUAL = (
    Quantity("sequences", "Sequences of a rank."),
    Quantity("tokens", "Tokens of a rank.", label="tokens"),
    Quantity("step_seconds", "Time of the step [s].", unit="s", label="step"),
    *STEP,
)
FIGURES = Figures("overlap", "Overlap", (
    Quantity("asked", "What was asked for.", label="asked"),
    Quantity("exchanges", "Exchanges of the whole run, on one device.", inside=TIMES),
    Quantity("usual_steps", "A usual step of decodes, and one with a prompt.", inside=(
        Quantity("decodes", "Of decodes.", lambda u: u["decodes"], inside=USUAL),
        Quantity("decodes and a prompt", "Of decodes and a prompt.", lambda u: u["decodes and a prompt"], inside=USUAL),
    )),
), after="layers", late=True)  # fmt: skip


def figures(left: OverlapRun | StepOverlap) -> Figures:
    """Return the declared values of a run, or of a step."""
    return STEP_FIGURES if isinstance(left, StepOverlap) else FIGURES


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange: its time, its hidden time and its exposed time [s]; `behind` gives the hidden time by what hides it [s]."""

    name: str
    seconds: float
    exposed_s: float
    hidden_s: float
    behind: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StepOverlap:
    """Overlap of one step, with the time of the same step without overlap [s]."""

    asked: str
    way: str
    plain_s: float
    exchanges: list[Exchange]
    step_seconds: float
    sequences: int = 0
    tokens: int = 0

    @classmethod
    def of(
        cls, deployment: Deployment, stage: StageCost, plain_s: float, sequences: int = 0, tokens: int = 0
    ) -> StepOverlap:
        """Return the overlap of a step."""
        sums: dict[str, list[float]] = {}
        for placed in stage.ops:
            if placed.critical and placed.op.exchange:
                took = placed.cost.seconds * placed.count
                op_sums = sums.setdefault(placed.op.name, [0.0, 0.0])
                op_sums[0] += took
                op_sums[1] += took * placed.exposed
        behind = hidden_s(stage.timelines)
        overlaps = [
            Exchange(
                name,
                total,
                exposed,
                total - exposed,
                {other: s for (op_sums, other), s in behind.items() if op_sums == name},
            )
            for name, (total, exposed) in sums.items()
        ]
        return cls(
            deployment.parts.get("overlap", "none"), stage.way, plain_s, overlaps, stage.seconds, sequences, tokens
        )


@dataclass(frozen=True)
class OverlapRun:
    """Overlap in a run."""

    run: Run

    @property
    def asked(self) -> str:
        """Requested value of ``--overlap``."""
        return str(self.run.deployment.parts.get("overlap", "none"))

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """Return the exchanges of the whole run, for one device."""
        d, out = self.run.deployment, []
        together = d.layout.devices / d.replicas
        for op in self.run.ops:
            if op.layer == "communication":
                busy = op.busy_s / together
                out.append(Exchange(op.name, busy, min(op.wall_s, busy), max(busy - op.wall_s, 0.0), {}))
        return out

    @cached_property
    def usual_steps(self) -> dict[str, StepOverlap]:
        """Return a typical decode step, and one with a prompt, equal on every rank."""
        d, out = self.run.deployment, dict[str, StepOverlap]()
        for name, batch in zip(("decodes", "decodes and a prompt"), typical(self.run), strict=True):
            stage, plain = (
                explicit_stage(deployment, [batch] * d.ranks, expected=True) for deployment in (d, d.without("overlap"))
            )
            out[name] = StepOverlap.of(d, stage, plain.seconds, len(batch.q_len), batch.tokens)
        return out


def overlap_left(run: Run, *_: object) -> OverlapRun | None:
    """Return the overlap of a run; None if no overlap was requested."""
    return None if run.deployment.parts.get("overlap", "none") == "none" else OverlapRun(run)
