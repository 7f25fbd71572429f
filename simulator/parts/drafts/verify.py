"""Steps that verify drafts and draft the next ones: their time, and the tokens that each sequence gains.

They run one by one, because the number of tokens is sampled. A sample depends only on the seed, the request and its
tokens so far, but not on other requests or the length of a run.
"""

from __future__ import annotations

from ....workloads.batch import PREFILL_TOKENS, TOKENS
from ....workloads.draws import step_key, uniform01
from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine.fast_forward import record_gap
from ...engine.host import most_tokens, with_host_delay
from ...engine.policies import Limits
from ...engine.state import F8, NUM_LOG, LogColumn, State
from ...step.timed import cost_step, joules_of
from ...step.unequal import graph_of_several
from .state import DraftState

ACCEPT_SEED = 0xACCE97
"""Seed of the acceptance samples, separate from those of experts."""


@compiled_part
def accepted(draft_state: DraftState, index: int, generated: int, drafts: int) -> int:
    """Return the number of accepted drafts after a request's tokens so far."""
    row = index if draft_state.each else 0
    u = uniform01(step_key(draft_state.seed ^ ACCEPT_SEED, draft_state.rows[index].id, generated))
    count = int64(0)
    while count < drafts and u < draft_state.reach[row, count]:
        count += 1
    return int(count)


@compiled_part
def verify(draft_state: DraftState, state: State, index: int, tokens: int) -> int:
    """Accept or reject the drafts among a sequence's `tokens` tokens; return the number of emitted tokens.

    The sequence keeps the KV slots of rejected drafts for its next tokens.
    """
    request, drafts = state.requests[index], tokens - 1
    good = accepted(draft_state, index, request.generated, drafts)
    came = min(good + 1, request.output - request.generated)
    draft_state.rows[index].far = request.cached + tokens
    last = request.input + request.output - 1
    request.cached = min(request.cached + good + 1, last)
    draft_state.counts[0].verified += 1
    draft_state.counts[0].drafted += drafts
    draft_state.counts[0].accepted += good
    draft_state.counts[0].emitted += came
    return int(came)


@compiled_code
def verified(drafts: DraftState, state: State, index: int, tokens: int) -> int:
    """Hook for `verify`."""
    return int(verify(drafts, state, index, tokens))


@compiled_code
def tokens_come(drafts: DraftState, state: State, index: int, tokens: int, steps: int) -> int:
    """Process `tokens` computed tokens of a sequence in each of `steps` steps; return the emitted tokens."""
    request = state.requests[index]
    left, count = request.target - request.cached, int64(0)
    if left > 0:
        request.cached += tokens
        drafts.rows[index].far, count = request.cached, int64(tokens >= left)
        drafts.rows[index].came = 0
    else:
        count = int64(verify(drafts, state, index, tokens))
    if count > 0:
        drafts.rows[index].came = count
    return int(count)


@compiled_code
def record_together(drafts: DraftState, state: State, together: int) -> None:
    """Count tokens that were emitted together with another of their sequence: their gap is zero."""
    if together > 0:
        record_gap(state.hist, state.clocks[0], 0.0, together)


@compiled_code
def send(drafts: DraftState, state: State, index: int, tokens: int, ahead: bool) -> int:
    """Send `tokens` tokens of a sequence through the stages; return the tokens to come, negative if they are verified."""
    request = state.requests[index]
    if request.cached >= request.target:
        request.in_flight = 1  # nothing more of it is known until they are verified
        return -tokens
    request.cached += tokens
    drafts.rows[index].far = request.cached
    return int64(request.cached >= request.target)


@compiled_code
def tokens_of_batch(drafts: DraftState, state: State, index: int, tokens: int) -> int:
    """Return the number of tokens that a batch has computed for a sequence; see `send`."""
    if tokens > 0:
        return tokens
    request = state.requests[index]
    cached, request.in_flight = request.cached, 0
    count = verify(drafts, state, index, -tokens)
    if cached < request.target:  # preempted meanwhile
        request.cached = cached
    return int(count)


@compiled_code
def known_at_end(drafts: DraftState, state: State, index: int) -> int:
    """Return the number of a sequence's tokens whose content is known when it ends."""
    return int(state.requests[index].cached)


@compiled_part
def pad(moments: F8, drafts: DraftState) -> int:
    """Pad the batches of all ranks to captured graphs; return the number of tokens before padding."""
    total = 0.0
    for r in range(moments.shape[0]):
        total += moments[r, TOKENS]
        tokens = int(moments[r, TOKENS])
        moments[r, TOKENS] = graph_of_several(tokens, drafts.captured, drafts.tokens + 1)
    return int(total)


@compiled_part
def draft_seconds(drafts: DraftState, state: State, chunks: int) -> float:
    """Return the seconds of all passes that draft for the next step."""
    if drafts.costs.model == 0:
        return 0.0
    passes, prefill = drafts.later.shape[0] + 1, 0.0
    for r in range(drafts.first.shape[0]):
        prefill += drafts.first[r, PREFILL_TOKENS]
    step, none = state.counters[0].steps * passes, int64(0)
    decodes = pad(drafts.first, drafts) - int(prefill)
    total = cost_step(drafts.costs, drafts.first, step, decodes, state.chunks, chunks, True, none)
    for j in range(passes - 1):
        decodes = pad(drafts.later[j], drafts)
        total += cost_step(drafts.costs, drafts.later[j], step + 1 + j, decodes, state.chunks, none, j == 0, none)
    return total


@compiled_code
def log_draft(drafts: DraftState, state: State) -> None:
    """Add the drafter's energy and busy time to the latest row of the log."""
    if drafts.costs.model == 0:
        return
    row, busy = state.log[state.counters[0].logged - 1], drafts.costs.busy
    row[LogColumn.JOULES] += joules_of(drafts.costs)
    for p in range(busy.shape[1]):
        row[NUM_LOG + p] += busy[0, p] - busy[1, p]
        busy[1, p] = busy[0, p]


@compiled_code
def batch_seconds(drafts: DraftState, state: State, limits: Limits, decodes: float) -> None:
    """Set the seconds of a planned batch on each pipeline stage (`state.costs.stages`); the last one has the draft model."""
    stages = state.costs.stages
    stages[stages.size - 1] += step_of(drafts, state, state.counters[0].chunks)[1]


@compiled_part
def step_of(drafts: DraftState, state: State, chunks: int) -> tuple[float, float]:
    """Return the seconds of a step's verification and of the drafting after it."""
    prompts, none = 0.0, int64(0)
    for r in range(state.moments.shape[0]):
        prompts += state.moments[r, PREFILL_TOKENS]
    decoded = pad(state.moments, drafts) - int(prompts)
    step = state.counters[0].steps
    target = cost_step(state.costs, state.moments, step, decoded, state.chunks, chunks, True, none)
    draft = draft_seconds(drafts, state, chunks)
    drafts.seconds[0].verify += target
    drafts.seconds[0].draft += draft
    return target, draft


@compiled_code
def run_steps(
    drafts: DraftState, state: State, limits: Limits, most: int, cut: float, decodes: float, chunks: int
) -> tuple[float, float, int]:
    """Run one step that verifies drafts and drafts the next tokens (`fast_forward` for speculative decoding)."""
    now = state.clocks[0].known = state.clocks[0].now
    tokens, ranks = most_tokens(state.moments), state.moments.shape[0]  # `step_of` pads them to a graph's
    target, draft = step_of(drafts, state, chunks)
    state.counters[0].steps += 1
    now += with_host_delay(limits.host_delay, target + draft, tokens, (decodes + chunks) / ranks, chunks)
    return float(now), float(now), int64(1)


HOOKS = {
    "tokens_come": tokens_come, "on_together": record_together, "send": send, "tokens_of_batch": tokens_of_batch,
    "known_at_end": known_at_end, "on_log": log_draft, "batch_seconds": batch_seconds, "run_steps": run_steps,
    "verified": verified,
}  # fmt: skip
