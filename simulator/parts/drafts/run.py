"""Speculative decoding in a run: its effect on policies and requests, and its counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ....workloads.errors import InputError
from ....workloads.records import summed
from ....workloads.requests import RequestBlock
from ....workloads.speculators import OPTION, RATES
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart, Program
from ...engine.policies import Policy
from ...step.lowering import MOST_TOKENS, Slots, lower
from ...step.step_totals import new_step_totals
from ...step.timed import Lowered, costs_of
from . import hooks as plan
from . import verify
from .explicit import DRAFT
from .speculation import Speculation
from .state import DraftState, new_spec, roomier_drafts, with_requests


def speculating_policy(policy: Policy, speculation: Speculation) -> Policy:
    """Return the policy with speculative decoding: without asynchronous scheduling if the host drafts.

    vLLM uses asynchronous scheduling with heads and draft models, not with n-grams (vllm/config/vllm.py). Own
    schedulers wait for each step's results: SGLang with drafts by default (sglang/srt/server_args.py, 0.5.9),
    TensorRT-LLM with drafts of the host or of another engine.
    """
    if policy.rules is not None:
        return replace(policy, ahead=False, rules=policy.rules.verifying())
    return replace(policy, ahead=False) if speculation.on_host else policy


class EngineDrafts(EnginePart):
    """Drafts of one engine; their counts are kept after failures."""

    hooks = (plan.HOOKS, verify.HOOKS)

    def __init__(self, state: DraftState, slots: Slots | None, model: Lowered | None) -> None:
        self.state, self.slots, self.model = state, slots, model

    def start(self, engine: Engine) -> DraftState:
        return self.state

    def add(self, engine: Engine, block: RequestBlock, before: int) -> None:
        rates = acceptance_of(block, engine.deployment.parts["drafts"])
        engine.put("drafts", with_requests(engine.parts["drafts"], before, block.request_id, rates))

    def grow(self, engine: Engine, before: int, size: int) -> None:
        engine.put("drafts", roomier_drafts(engine.parts["drafts"], before, size))

    def fail(self, engine: Engine, now: float) -> None:
        self.state = engine.parts["drafts"]

    def by_hand(self, engine: Engine) -> bool:
        return bool(self.state.each)

    def programs(self, engine: Engine) -> Iterator[Program]:
        if self.model is not None and self.slots is not None:
            yield engine.deployment.system.device.name, self.slots, *self.model


def of_engine(engine: Engine) -> EngineDrafts:
    """Set up speculative decoding in an engine: policy, limits, state of drafts, and the drafter."""
    d, slots, model, moments = engine.deployment, None, None, 0
    speculation: Speculation = d.parts["drafts"]
    counts = max(engine.policy.token_budget, engine.policy.max_sequences, MOST_TOKENS)
    policy = engine.policy = speculating_policy(engine.policy, speculation)
    if speculation.draft is not None:
        draft, slots = lower(speculation.draft, engine.replica, counts)
        model, moments = Lowered(draft, new_step_totals(draft, policy.max_sequences)), draft.forms.shape[2] - 1
    ahead = policy.ahead and d.layout.pp == 1  # in stages a plan waits for what a verification brings
    limits = engine.limits = policy.limits(engine.launches, d.layout.pp, d.several)._replace(
        ahead=ahead, captured=policy.captures(d.several), spare=speculation.spare(ahead)
    )
    rates = None if speculation.rates is None else np.array(speculation.rates)
    sizes = speculation.tokens, speculation.lookahead, limits.captured
    spec = new_spec(*sizes, engine.seed, rates, d.ranks, moments, costs_of(model))
    return EngineDrafts(spec, None if slots is None else drafting(slots), model)


def drafting(slots: Slots) -> Slots:
    """Return the op names of the draft model, distinct from the model's."""
    return slots._replace(layer=tuple(DRAFT for _ in slots.layer), name=tuple(f"{DRAFT}_{n}" for n in slots.name))


def acceptance_of(block: RequestBlock, speculation: Speculation) -> npt.NDArray[np.float64] | None:
    """Return the acceptance rates of each request, shape (n, K); None if all have the given default.

    Raises
    ------
    InputError
        A request without an acceptance rate if there is no default.
    """
    if speculation.rates is not None:
        return None
    rates = block.acceptance
    bad = np.ones(len(block), bool) if rates is None else np.isnan(rates)
    if rates is None or bad.any():
        i = int(bad.argmax())
        raise InputError(
            RATES,
            f"is needed with {OPTION} {speculation.asked}: request {block.request_id[i]} of the trace has no "
            "value in column acceptance",
        )
    return np.repeat(rates[:, None], speculation.tokens, axis=1)


@dataclass(frozen=True, slots=True)
class Speculated:
    """Counts of speculative decoding in a run, summed over engines.

    Attributes
    ----------
    verified, wasted : int
        Verifications of a sequence; and verifications of sequences that had ended unknown to the plan.
    drafted, accepted, emitted : int
        Drafts in the former, those that were accepted, and tokens that came: one a verification and
        the accepted ones, but for those beyond a request's output.
    verify_s, draft_s : float
        Seconds of all steps' verification, including their prompts, and of their drafting.
    """

    verified: int
    wasted: int
    drafted: int
    accepted: int
    emitted: int
    verify_s: float
    draft_s: float

    @classmethod
    def of(cls, specs: list[DraftState]) -> Speculated:
        """Return the sums over the engines' states."""
        counts, seconds = summed([x.counts for x in specs]), summed([x.seconds for x in specs])
        return cls(
            counts.verified, counts.wasted, counts.drafted, counts.accepted,
            counts.emitted, seconds.verify, seconds.draft,
        )  # fmt: skip

    @property
    def tokens_per_step(self) -> float | None:
        """Return the mean number of tokens that a verification of a sequence emits."""
        return self.emitted / self.verified if self.verified else None

    @property
    def acceptance(self) -> float | None:
        """Return the share of accepted drafts."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def draft_share(self) -> float:
        """Return drafting's share of the time of all steps."""
        total = self.verify_s + self.draft_s
        return self.draft_s / total if total else 0.0
