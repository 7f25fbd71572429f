"""Settings of speculative decoding in a deployment: the number of drafts and their acceptance rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....workloads.speculators import DraftChoice
from ...deploy.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding in which every decode of a step verifies the same number of drafts.

    Attributes
    ----------
    asked : DraftChoice
        Who drafts, and how much.
    rates : tuple of float, optional
        Probability that each draft is accepted if the ones before are; None if only requests define it.
    copies : int
        Stored draft models, which take turns.
    on_host : bool
        Whether the host drafts: then nothing is scheduled ahead.
    draft : Deployment, optional
        The model that drafts, on the same devices.
    """

    asked: DraftChoice
    rates: tuple[float, ...] | None
    copies: int
    on_host: bool
    draft: Deployment | None = None

    @property
    def draft_bytes(self) -> float:
        """Return the bytes of the draft model's weights on one device."""
        return 0.0 if self.draft is None else self.draft.memory(math.inf).weights * self.copies

    @property
    def tokens(self) -> int:
        """Return the number of drafts K of a decode in a step."""
        return self.asked.tokens

    @property
    def lookahead(self) -> int:
        """Return the KV slots beyond a step's tokens that drafting fills."""
        return 0 if self.on_host else self.tokens

    def spare(self, ahead: bool) -> int:
        """Tokens of KV cache that a sequence may hold beyond those it will ever have.

        Its last step may have K drafts too many, and the plan ahead of it K more than it will know
        of; drafting writes `lookahead` slots behind them.
        """
        return self.tokens * (1 + ahead) + self.lookahead


def given_text(speculation: Speculation) -> str:
    """Return the known acceptance rates and their source as text."""
    if speculation.rates is None:
        return "each request's, of the trace"
    return "given: " + ", ".join(f"{rate:g}" for rate in speculation.rates)


def added_bytes(speculation: Speculation, deployment: Deployment, stage: int) -> float:
    """Return the bytes of the draft model on a device of a pipeline stage; only the last stage has it."""
    return speculation.draft_bytes if stage == len(deployment.stages) - 1 else 0.0
