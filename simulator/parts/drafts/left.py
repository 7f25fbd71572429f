"""What speculative decoding left of a run or of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....workloads.speculators import expected_tokens

if TYPE_CHECKING:
    from ...serving.record import Run
    from ...serving.served import Served
    from .run import Speculated
    from .speculation import Speculation


@dataclass(frozen=True, slots=True)
class DraftsLeft:
    """What speculation left of a run: what was asked for, and what came of it."""

    speculation: Speculation
    counts: Speculated


def drafts_left(run: Run, served: Served, *_: object) -> DraftsLeft | None:
    """What speculation did in a run; None where no engine speculates."""
    from .run import Speculated

    specs = [e.parts["drafts"] for e in served.engines if "drafts" in e.parts]
    return DraftsLeft(run.deployment.parts["drafts"], Speculated.of(specs)) if specs else None


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
    """A step with drafts, for results."""

    speculation: Speculation
    gain: StepGain

    @property
    def whole_s(self) -> float:
        """Time of the step with both [s]."""
        return self.gain.verify_s + self.gain.draft_s

    @property
    def expected(self) -> float:
        """Tokens of a sequence that the given chances bring."""
        assert self.speculation.rates is not None
        return expected_tokens(self.speculation.rates)
