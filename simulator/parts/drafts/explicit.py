"""One step with speculative decoding, op by op: the verification, and every drafting pass for the next step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ....workloads.batch import Batch
from ...deploy.deployment import Deployment
from ...step.costing import StageCost
from ...step.explicit import explicit_stage
from .speculation import Speculation

DRAFT = "draft"
"""Layer name of all ops of the drafter."""


@dataclass(frozen=True, slots=True)
class SpeculativeStage:
    """Cost of a step with speculative decoding, divided into verification and drafting.

    Attributes
    ----------
    whole : StageCost
        All of it; ops of what drafts have the layer `DRAFT`.
    verify_s, draft_s : float
        Seconds of the verification, including its prompts, and of all drafting.
    """

    whole: StageCost
    verify_s: float
    draft_s: float


def draft_batches(batch: Batch, tokens: int) -> list[Batch]:
    """What the passes that draft `tokens` tokens work on after a step of one rank.

    The first takes the step's own tokens, whose keys and values it needs, rejected ones and prompts
    among them, with one row of logits a sequence; each other one the draft of the pass before it, of
    every sequence. vLLM drafts so (``propose`` in vllm/v1/spec_decode/eagle.py).
    """
    first = replace(batch, every=False)
    seen = batch.context + batch.q_len
    later = [Batch.of((seen + j).tolist()) for j in range(tokens - 1)]
    return [first, *later]


def speculative_stage(
    deployment: Deployment, batches: Sequence[Batch], *, expected: bool = False, step: int = 0, captured: int = 0
) -> SpeculativeStage:
    """Cost a step of an engine with speculative decoding; batches as for `explicit_stage`.

    Verification and drafts run as captured graphs, up to the largest `captured`.
    """
    speculation: Speculation = deployment.parts["drafts"]
    given = 0, expected, captured
    target = explicit_stage(deployment, batches, step, *given)
    if speculation.draft is None:
        return SpeculativeStage(target, target.seconds, 0.0)
    passes = list(zip(*(draft_batches(b, speculation.tokens) for b in batches), strict=True))
    number = step * len(passes)
    drafts = [
        explicit_stage(speculation.draft, pass_costs, number + j, *given)
        for j, pass_costs in enumerate(passes)
        if any(b.tokens for b in pass_costs)
    ]
    ops = [replace(p, op=replace(p.op, layer=DRAFT, name=f"draft_{p.op.name}")) for cost in drafts for p in cost.ops]
    draft_s = sum(cost.seconds for cost in drafts)
    joules = target.joules + sum(cost.joules for cost in drafts)
    verified = replace(
        target, seconds=target.seconds + draft_s, joules=joules, ops=(*target.ops, *ops),
        stages=(*target.stages[:-1], target.stages[-1] + draft_s),
    )  # fmt: skip
    return SpeculativeStage(verified, target.seconds, draft_s)
