"""Sums over the batch of a planned step: contributions of decodes, prompt chunks, verifications and drafts."""

from __future__ import annotations

from ...workloads import batch as sums
from ...workloads.batch import DECODES, PREFILLS
from ...workloads.jit import compiled_code, compiled_inside, compiled_part, int64
from ..step.step_totals import StepTotals
from ..step.timed import Lowered
from ..step.unequal import uneven_seconds
from . import hooks
from .policies import Limits
from .state import F8, I8, State

RENEWED, FEWER = 64, 8
"""Number of steps, and inverse of the relative change of decodes, after which `set_uneven` computes its value again."""


@compiled_code
def set_uneven(model: Lowered, state: State, limits: Limits, rank: int, done: int) -> None:
    """Set the extra time of a rank's unequal context lengths in its moments, `done` steps into a fast-forward.

    The time is 0 for kernels without this effect. In decode-only steps it changes slowly: it is computed again after
    `RENEWED` steps, or when the number of decodes has changed by 1 / `FEWER`.
    """
    plan, step_totals = model.plan, model.step_totals
    m, last, step = state.moments[rank], step_totals.spread[rank], state.counters[0].steps
    at = m.size - 1  # the entry after the sums of the batch
    m[at] = 0.0
    if m[DECODES] < 2.0:
        return
    mixed = m[PREFILLS] > 0.0
    changed = abs(m[DECODES] - last.decodes) * FEWER >= m[DECODES]
    if not (mixed or changed or step - last.step >= RENEWED):
        m[at] = last.seconds
        return
    count, chunks = gather(state, step_totals, rank, done)
    m[at] = uneven_seconds(
        plan.uneven, step_totals.contexts, count, step_totals.prompts, chunks, limits.captured, step_totals.places
    )
    if not mixed:
        last.decodes, last.step, last.seconds = m[DECODES], step, m[at]


@compiled_part
def gather(state: State, step_totals: StepTotals, rank: int, done: int) -> tuple[int, int]:
    """Collect the context lengths of a rank's decodes and the tokens of its prompt chunks; return their numbers."""
    count, chunks = int64(0), int64(0)
    for j in range(state.ranks[rank].running):
        i, new = state.running[rank, j], state.fresh[rank, j]
        request = state.requests[i]
        if is_chunk(state, i, new):
            step_totals.prompts[0, chunks], step_totals.prompts[1, chunks] = new, request.cached
            chunks += 1
        elif new > 0:
            step_totals.contexts[count] = request.cached + done + 1
            count += 1
    return count, chunks


HOOKS = {"on_sums": set_uneven}


@compiled_part
def most_of_one(state: State, limits: Limits, rank_index: int) -> int:
    """Return the most tokens that one sequence of a rank may have in the next step; 0: only the budget limits it."""
    rank = state.ranks[rank_index]
    if limits.lone and rank.running + rank.late + rank.waiting <= 1:
        return 0
    return limits.threshold


@compiled_part
def visible(tokens: int, window: int) -> int:
    """Return the query-key pairs of a prompt of `tokens` tokens under a window (`batch.visible_pairs` of one prompt)."""
    inside = min(tokens, window) if window > 0 else tokens
    return inside * (inside + 1) // 2 + (tokens - inside) * window


@compiled_part
def count_decode(moments: F8, windows: I8, context: int) -> None:
    """Add a decode with `context` tokens before it to the moments of its rank's batch."""
    moments[sums.TOKENS] += 1.0
    moments[sums.SEQUENCES] += 1.0
    moments[sums.DECODES] += 1.0
    for w in range(windows.size):
        if windows[w] < 0:
            continue
        kv = context + 1
        if windows[w] > 0:
            kv = min(kv, windows[w])
        moments[sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w + sums.DECODE_KV] += kv


@compiled_inside
def unbounded(windows: I8) -> bool:
    """Return whether all attention layers see all earlier tokens, so that decodes can be summed together."""
    return bool(windows.size == 1 and windows[0] == 0)


@compiled_inside
def count_decodes(moments: F8, decodes: int, context: int) -> None:
    """Add `decodes` decodes with `context` tokens in total, new tokens included, if attention is `unbounded`."""
    moments[sums.TOKENS] += decodes
    moments[sums.SEQUENCES] += decodes
    moments[sums.DECODES] += decodes
    moments[sums.BASE_MOMENTS + sums.DECODE_KV] += context


@compiled_part
def count_chunk(moments: F8, windows: I8, context: int, tokens: int) -> None:
    """Add a prompt chunk of `tokens` tokens with `context` tokens before it."""
    moments[sums.TOKENS] += tokens
    moments[sums.SEQUENCES] += 1.0
    moments[sums.PREFILL_TOKENS] += tokens
    moments[sums.PREFILLS] += 1.0
    for w in range(windows.size):
        window = windows[w]
        kv = context + tokens
        if window > 0:
            kv = min(kv, window + tokens - 1)
        at = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w
        if window < 0:  # `batch.SHORT_TOKENS`
            if kv <= -window:
                moments[at + sums.PREFILL_PAIRS] += visible(kv, 0) - visible(context, 0)
                moments[at + sums.PREFILL_KV] += kv
                moments[at + sums.SHORT_TOKENS] += tokens
            continue
        moments[at + sums.PREFILL_PAIRS] += visible(context + tokens, window) - visible(context, window)
        moments[at + sums.PREFILL_KV] += kv
        moments[at + sums.PREFILL_RECT] += tokens * kv


@compiled_part
def count_several(moments: F8, windows: I8, context: int, tokens: int, rows: int) -> None:
    """Add a decode with `tokens` new tokens (drafts) after `context` cached tokens, and its `rows` rows of logits."""
    moments[sums.TOKENS] += tokens
    moments[sums.SEQUENCES] += rows
    moments[sums.DECODES] += 1.0
    behind = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * windows.size
    moments[behind] += tokens
    for w in range(windows.size):
        window, kv = windows[w], context + tokens
        if window < 0:
            continue
        if window > 0:
            kv = min(kv, window + tokens - 1)
        moments[sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w + sums.DECODE_KV] += kv
        moments[behind + 1 + w] += visible(context + tokens, window) - visible(context, window)


@compiled_inside
def is_chunk(state: State, index: int, want: int) -> bool:
    """Return whether `want` new tokens of a sequence are prompt tokens; `several` tokens can also be a decode."""
    several = want > 1 and state.hooks.count_tokens.size == 0
    return bool(several or (want > 0 and state.requests[index].cached < state.requests[index].target))


@compiled_inside
def count_tokens(state: State, moments: F8, windows: I8, context: int, tokens: int) -> None:
    """Add a decode to the batch sums; with speculative decoding, its draft tokens too."""
    if state.hooks.count_tokens.size > 0:
        hooks.count_tokens(state, moments, windows, context, tokens)
    else:
        count_decode(moments, windows, context)


@compiled_inside
def count_prompt(state: State, windows: I8, rank: int, index: int, tokens: int) -> None:
    """Add a prompt chunk of `tokens` tokens to the sums of its rank's batch and to the step's chunks."""
    context = state.requests[index].cached
    count_chunk(state.moments[rank], windows, context, tokens)
    c = state.counters[0].chunks
    state.chunks[0, c], state.chunks[1, c] = tokens, index
    state.counters[0].chunks += 1
    hooks.on_count(state, rank, context, tokens, True)


@compiled_inside
def count_planned(state: State, windows: I8, rank: int, index: int, want: int) -> None:
    """Add `want` planned tokens of a sequence, a prompt chunk or a decode, to the sums of its rank's batch."""
    if is_chunk(state, index, want):
        count_prompt(state, windows, rank, index, want)
    elif want > 0:
        context = state.requests[index].cached
        count_tokens(state, state.moments[rank], windows, context, want)
        hooks.on_count(state, rank, context, want, False)


@compiled_part
def clear_sums(state: State, rank: int) -> None:
    """Set the sums of a rank's batch to zero before the rank is planned."""
    for w in range(state.moments.shape[1]):
        state.moments[rank, w] = 0.0
    hooks.on_clear(state, rank)
