"""Values of speculative decoding, of a run or of one step."""

from __future__ import annotations

from ....workloads.speculators import expected_tokens
from ...quantity import Figures, Quantity
from .left import DraftedStep, DraftsLeft

ASKED = (
    Quantity("method", "What drafts.", "speculation.asked.method", label="method"),
    Quantity("draft", "Model that drafts.", lambda s: None if s.speculation.draft is None else s.speculation.draft.model.name, label="draft model"),
    Quantity("drafts", "Drafts of a step.", "speculation.tokens", label="drafts"),
    Quantity("acceptance", "Chance of each to be accepted, as given.",
             lambda s: None if s.speculation.rates is None else list(s.speculation.rates), label="chances given"),
    Quantity("expected_tokens_per_verification", "Tokens that those chances bring.",
             lambda s: None if s.speculation.rates is None else expected_tokens(s.speculation.rates), "1", "tokens expected"),
    Quantity("draft_weight_bytes_per_device", "Bytes of what drafts on a device [B].", "speculation.draft_bytes", "B", "draft weights"),
)  # fmt: skip
FIGURES = Figures("speculation", "Speculation", (
    *ASKED,
    Quantity("tokens_per_verification", "Tokens that a verification of a sequence brought.",
             "counts.tokens_per_step", "1", "tokens a verification"),
    Quantity("accepted_share", "Share of the drafts that was accepted.", "counts.acceptance", "%", "accepted"),
    Quantity("verifications", "Verifications of a sequence.", "counts.verified"),
    Quantity("drafted_tokens", "Drafts.", "counts.drafted"),
    Quantity("accepted_tokens", "Drafts that were accepted.", "counts.accepted"),
    Quantity("verifications_after_the_end", "Verifications of sequences that had ended.",
             "counts.wasted", label="verifications after the end"),
    Quantity("draft_seconds", "Time of drafting [s].", "counts.draft_s"),
    Quantity("draft_share", "Its share of all steps.", "counts.draft_share", "%", "drafting"),
))  # fmt: skip
STEP = Figures("speculation", "Speculation", (
    *ASKED,
    Quantity("verify_seconds", "Time of the verification [s].", "gain.verify_s"),
    Quantity("draft_seconds", "Time of drafting [s].", "gain.draft_s", "s", "drafting"),
    Quantity("plain_seconds", "Time of the same step without either [s].", "gain.plain_s", "s", "plain step"),
    Quantity("step_over_plain", "Time with both over that time.", lambda s: s.whole_s / s.gain.plain_s, "1", "times a plain step"),
    Quantity("seconds_per_token", "Time of a token [s].", lambda s: s.whole_s / s.expected, "s", "a token"),
    Quantity("speedup", "Tokens over the tokens of plain steps in the same time.",
             lambda s: s.expected * s.gain.plain_s / s.whole_s, "1", "times as fast"),
))  # fmt: skip


def figures(left: DraftsLeft | DraftedStep) -> Figures:
    """Return the values of a run, or of a step."""
    return STEP if isinstance(left, DraftedStep) else FIGURES
