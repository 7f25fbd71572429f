"""What speculation did, and what it cost: for people and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...simulator.deploy.deployment import Deployment
from ...simulator.parts.drafts.speculation import Speculation
from ...workloads.speculators.asked import expected_tokens
from ..show.text import seconds, show
from .facet import Facet

if TYPE_CHECKING:
    from ...simulator.serving.record import Run


def given_text(speculation: Speculation) -> str:
    """What is known of acceptance, and who says so."""
    if speculation.rates is None:
        return "each request's, of the trace"
    return "given: " + ", ".join(f"{rate:g}" for rate in speculation.rates)


def _asked(d: Deployment) -> dict[str, Any]:
    """What was asked for, and what of it a device holds."""
    assert d.speculation is not None
    rates = d.speculation.rates
    return {
        "method": d.speculation.asked.method,
        "draft": None if d.draft is None else d.draft.model.name,
        "drafts": d.speculation.tokens,
        "acceptance": None if rates is None else list(rates),
        "expected_tokens_per_verification": None if rates is None else expected_tokens(rates),
        "draft_weight_bytes_per_device": d.draft_bytes,
    }


def run_speculation(r: Run) -> dict[str, Any]:
    """Entry of a simulation's JSON; nothing without speculation."""
    found = r.speculated
    if found is None:
        return {}
    return {
        "speculation": {
            **_asked(r.deployment),
            "tokens_per_verification": found.tokens_per_step,
            "accepted_share": found.acceptance,
            "verifications": found.verified,
            "drafted_tokens": found.drafted,
            "accepted_tokens": found.accepted,
            "verifications_after_the_end": found.wasted,
            "draft_seconds": found.draft_s,
            "draft_share": found.draft_share,
        }
    }


def run_speculation_text(r: Run) -> list[str]:
    """The same as a sentence; nothing without speculation."""
    found, asked = r.speculated, r.deployment.speculation
    if found is None or asked is None:
        return []
    each = "-" if found.tokens_per_step is None else f"{found.tokens_per_step:.2f}"
    share = "-" if found.acceptance is None else f"{found.acceptance:.1%}"
    wasted = ""
    if found.wasted:
        wasted = f" {show(found.wasted)} verifications were of sequences that had ended."
    return [
        (
            f"Speculation {asked.asked}: {each} tokens a verification, {share} of the drafts accepted "
            f"(chances {given_text(asked)}); {_drafting(r.deployment)} {found.draft_share:.1%} of all "
            f"steps.{wasted}"
        )
    ]


def _drafting(d: Deployment) -> str:
    """Who drafts, as the beginning of a sentence on its time."""
    if d.draft is None:
        return "drafting is the host's work and takes the devices"
    return f"drafting by {d.draft.model.name} ({show(d.draft_bytes / 2**30)} GiB a device) takes"


FACET = Facet(run_speculation, run_speculation_text)


@dataclass(frozen=True, slots=True)
class StepGain:
    """What speculation makes of one step.

    Attributes
    ----------
    verify_s, draft_s, plain_s : float
        Seconds of the verification, of drafting, and of the same step without either.
    """

    verify_s: float
    draft_s: float
    plain_s: float


def step_speculation(d: Deployment, gain: StepGain | None) -> dict[str, Any]:
    """Entry of a roofline's JSON; nothing without speculation."""
    if d.speculation is None or d.speculation.rates is None or gain is None:
        return {}
    mean, whole = expected_tokens(d.speculation.rates), gain.verify_s + gain.draft_s
    return {
        "speculation": {
            **_asked(d),
            "verify_seconds": gain.verify_s,
            "draft_seconds": gain.draft_s,
            "plain_seconds": gain.plain_s,
            "step_over_plain": whole / gain.plain_s,
            "seconds_per_token": whole / mean,
            "speedup": mean * gain.plain_s / whole,
        }
    }


def step_speculation_text(d: Deployment, gain: StepGain | None) -> list[str]:
    """The same as a sentence; nothing without speculation."""
    found: Mapping[str, Any] = step_speculation(d, gain).get("speculation", {})
    if not found or d.speculation is None:
        return []
    mean = found["expected_tokens_per_verification"]
    drafts = f", of it drafting {seconds(found['draft_seconds'])}" if d.draft is not None else ""
    return [
        (
            f"Speculation {d.speculation.asked}: a sequence gets {mean:.2f} tokens a step (chances "
            f"{given_text(d.speculation)}), which takes {found['step_over_plain']:.2f} times a plain "
            f"one's {seconds(found['plain_seconds'])}{drafts}: {seconds(found['seconds_per_token'])} a "
            f"token, {found['speedup']:.2f} times as fast."
        )
    ]
