"""Values of overlap, of a run or of one step."""

from __future__ import annotations

from ...quantity import Figures, Quantity
from .use import OverlapRun, StepOverlap

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
    """Return the values of a run, or of a step."""
    return STEP_FIGURES if isinstance(left, StepOverlap) else FIGURES
