"""Results of speculative decoding in a run or a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....workloads.speculators import expected_tokens
from ...quantity import Figures, Quantity

if TYPE_CHECKING:
    from ...fleet.run_state import RunState
    from ...results.record import Run
    from .run import Speculated
    from .speculation import Speculation


@dataclass(frozen=True, slots=True)
class DraftsLeft:
    """Results of speculation in a run: drafts proposed and accepted, and their time."""

    speculation: Speculation
    counts: Speculated


def drafts_left(run: Run, served: RunState, *_: object) -> DraftsLeft | None:
    """Results of speculation in a run; None if no engine speculates."""
    from .run import Speculated

    specs = [e.parts["drafts"] for e in served.engines if "drafts" in e.parts]
    return DraftsLeft(run.deployment.parts["drafts"], Speculated.of(specs)) if specs else None


@dataclass(frozen=True, slots=True)
class StepGain:
    """Times of one step with and without speculative decoding.

    Attributes
    ----------
    verify_s, draft_s, plain_s : float
        Seconds of the verification, of drafting, and of the same step without either.
    """

    verify_s: float
    draft_s: float
    plain_s: float


@dataclass(frozen=True, slots=True)
class DraftedStep:
    """A step with drafts, for results."""

    speculation: Speculation
    gain: StepGain

    @property
    def whole_s(self) -> float:
        """Return the time of the step, verification plus drafting [s]."""
        return self.gain.verify_s + self.gain.draft_s

    @property
    def expected(self) -> float:
        """Return the expected tokens that a sequence gains in a step, from the given acceptance rates."""
        assert self.speculation.rates is not None
        return expected_tokens(self.speculation.rates)


ASKED = (
    Quantity("method", "Method of speculative decoding.", "speculation.asked.method", label="method"),
    Quantity("draft", "Draft model.", lambda s: None if s.speculation.draft is None else s.speculation.draft.model.name, label="draft model"),
    Quantity("drafts", "Draft tokens of a sequence per step.", "speculation.tokens", label="drafts"),
    Quantity("acceptance", "Given acceptance probability of each draft token.",
             lambda s: None if s.speculation.rates is None else list(s.speculation.rates), label="chances given"),
    Quantity("expected_tokens_per_verification", "Expected tokens per verification of a sequence, from the given probabilities.",
             lambda s: None if s.speculation.rates is None else expected_tokens(s.speculation.rates), "1", "tokens expected"),
    Quantity("draft_weight_bytes_per_device", "Weights of the draft model on a device [B].", "speculation.draft_bytes", "B", "draft weights"),
)  # fmt: skip
FIGURES = Figures("speculation", "Speculation", (
    *ASKED,
    Quantity("tokens_per_verification", "Mean tokens per verification of a sequence.",
             "counts.tokens_per_step", "1", "tokens a verification"),
    Quantity("accepted_share", "Accepted over all draft tokens.", "counts.acceptance", "%", "accepted"),
    Quantity("verifications", "Verifications of a sequence.", "counts.verified"),
    Quantity("drafted_tokens", "Draft tokens.", "counts.drafted"),
    Quantity("accepted_tokens", "Accepted draft tokens.", "counts.accepted"),
    Quantity("verifications_after_the_end", "Verifications of sequences that had ended.",
             "counts.wasted", label="verifications after the end"),
    Quantity("draft_seconds", "Total time of drafting in the run [s].", "counts.draft_s"),
    Quantity("draft_share", "Share of the step time in drafting.", "counts.draft_share", "%", "drafting"),
))  # fmt: skip
STEP = Figures("speculation", "Speculation", (
    *ASKED,
    Quantity("verify_seconds", "Time of the verification [s].", "gain.verify_s"),
    Quantity("draft_seconds", "Time of drafting in a step [s].", "gain.draft_s", "s", "drafting"),
    Quantity("plain_seconds", "Time of the same step without either [s].", "gain.plain_s", "s", "plain step"),
    Quantity("step_over_plain", "Time with both over that time.", lambda s: s.whole_s / s.gain.plain_s, "1", "times a plain step"),
    Quantity("seconds_per_token", "Time of a token [s].", lambda s: s.whole_s / s.expected, "s", "a token"),
    Quantity("speedup", "Tokens over the tokens of plain steps in the same time.",
             lambda s: s.expected * s.gain.plain_s / s.whole_s, "1", "times as fast"),
))  # fmt: skip


def figures(left: DraftsLeft | DraftedStep) -> Figures:
    """Return the values of a run, or of a step."""
    return STEP if isinstance(left, DraftedStep) else FIGURES
