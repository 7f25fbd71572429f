"""What speculative decoding left of a run or of a step."""

from __future__ import annotations

from dataclasses import dataclass

from ....workloads.speculators.asked import expected_tokens
from ...deploy.deployment import Deployment
from ...serving.record import Run
from ...serving.served import Served
from .run import Speculated
from .speculation import Speculation


@dataclass(frozen=True, slots=True)
class DraftsLeft:
    """What speculation left of a run: what was asked for, and what came of it."""

    speculation: Speculation
    draft: Deployment | None
    draft_bytes: float
    counts: Speculated


def drafts_left(run: Run, served: Served, *_: object) -> DraftsLeft | None:
    """What speculation did in a run; None where no engine speculates."""
    specs, d = [e.spec for e in served.engines if e.spec is not None], run.deployment
    if not specs or d.speculation is None:
        return None
    return DraftsLeft(d.speculation, d.draft, d.draft_bytes, Speculated.of(specs))


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


@dataclass(frozen=True, slots=True)
class DraftedStep:
    """A step with drafts, as answers have it."""

    deployment: Deployment
    gain: StepGain

    @property
    def speculation(self) -> Speculation:
        """What was asked for."""
        assert self.deployment.speculation is not None
        return self.deployment.speculation

    @property
    def draft(self) -> Deployment | None:
        """What drafts."""
        return self.deployment.draft

    @property
    def draft_bytes(self) -> float:
        """Bytes of it on a device."""
        return self.deployment.draft_bytes

    @property
    def whole_s(self) -> float:
        """Time of the step with both [s]."""
        return self.gain.verify_s + self.gain.draft_s

    @property
    def expected(self) -> float:
        """Tokens of a sequence that the given chances bring."""
        assert self.speculation.rates is not None
        return expected_tokens(self.speculation.rates)
