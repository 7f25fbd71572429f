"""Fast-forwarded steps of one plan, until the plan would change.

Between two changes of the batch (arrival, admission, completion, a block that might be missing) decode steps differ
only in context: they are costed one by one and timestamped at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...workloads.batch import BASE_MOMENTS, DECODE_KV, DECODES, WINDOW_MOMENTS
from ...workloads.jit import compiled_inside, compiled_part, int64
from ..step.timed import cost_step
from . import hooks
from . import state as col
from .allocation import kv_bytes
from .host import most_tokens, with_host_delay
from .kv import KvRules
from .policies import Limits
from .state import I8, State

LOG_RATIO = np.log(col.HIST_RATIO)


@compiled_part
def record_gap(hist: I8, clocks: Any, gap: float, times: int) -> None:
    """Add `times` gaps of `gap` seconds between tokens to the histogram and to the sums of gaps."""
    bin_ = int(np.log(max(gap, col.HIST_MIN_S) / col.HIST_MIN_S) / LOG_RATIO)
    hist[min(bin_, col.HIST_BINS - 1)] += times
    clocks.gap_sum += gap * times
    clocks.gap_count += times


@compiled_inside
def join_gap(state: State, gap: float, gaps: int, own: float) -> int:
    """Add a token with gap `own` [s] to `gaps` unrecorded tokens with gap `gap`; return the new number of these tokens.

    If the gaps differ, the earlier tokens are recorded first. Most sequences have the same gap, so tokens with equal gaps
    are recorded together.
    """
    if own != gap and gaps > 0:
        record_gap(state.hist, state.clocks[0], gap, gaps)
        return 1
    return gaps + 1


@compiled_inside
def stamp(
    state: State, index: int, count: int, first_end: float, now: float, gap: float, gaps: int
) -> tuple[float, int]:
    """Set the timestamps of `count` new tokens of a sequence: the first at `first_end`, the last at `now` [s].

    Returns the gap of the unrecorded tokens [s] and their number, see `join_gap`.
    """
    request = state.requests[index]
    state.counters[0].emitted += count
    if request.generated == 0:
        request.first = now
    else:
        gap_own = first_end - request.last
        gaps = join_gap(state, gap, gaps, gap_own)
        gap = gap_own
    request.last = now
    request.generated += count
    return gap, gaps


@compiled_part
def lengthen(state: State, windows: I8, rank: int, done: int) -> None:
    """Update a rank's moments to the contexts of the decode step that is `done` steps into the fast-forward."""
    for w in range(windows.size):
        at = BASE_MOMENTS + WINDOW_MOMENTS * w + DECODE_KV
        if windows[w] < 0:
            continue
        if windows[w] == 0:
            state.moments[rank, at] += state.moments[rank, DECODES]
            continue
        kv = 0
        for j in range(state.ranks[rank].running):
            kv += min(state.requests[state.running[rank, j]].cached + done + 1, windows[w])
        state.moments[rank, at] = kv


@compiled_part
def growth(state: State, kv_rules: KvRules, rank: int, steps: int) -> float:
    """Return the additional KV bytes that a rank's sequences need for `steps` decode steps."""
    out = 0.0
    for j in range(state.ranks[rank].running):
        i = state.running[rank, j]
        tokens = state.requests[i].cached + steps
        if tokens > state.requests[i].covered:
            out += kv_bytes(kv_rules, tokens) - state.requests[i].kv_bytes
    return out


@compiled_part
def fast_forward_limit(state: State, kv_rules: KvRules, token_budget: int) -> int:
    """Return how many decode steps pass before the first completion or a lack of free blocks (at least 1)."""
    k = int64(1 << 40)
    for r in range(state.ranks.shape[0]):
        k = min(k, state.ranks[r].least_left)
        if state.ranks[r].running > token_budget:
            return 1
    block = 0.0
    for c in range(kv_rules.window.size):
        block += kv_rules.block_bytes[c]
    if kv_rules.window.size > 1:  # the bytes of all windows are rounded up together to blocks of the first class
        block += kv_rules.block_bytes[0]
    for r in range(state.ranks.shape[0]):
        # The plan has allocated the blocks of one step. Usually free memory covers all k steps; else search for k.
        if state.ranks[r].running * block * (k // kv_rules.block + 1) <= state.free[r]:
            continue
        low, high, middle = int64(1), k, k
        while low < high:
            if growth(state, kv_rules, r, middle) <= state.free[r]:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        k = low
    return k


@compiled_part
def same_plan(state: State, limits: Limits, closed: bool) -> int:
    """Return the number of decode steps until waiting prompts or arrivals may change the plan."""
    k = int64(1 << 40)
    if limits.poll_steps > 1:
        k = limits.poll_steps - state.counters[0].poll
    if limits.even_steps > 0:
        k = min(k, limits.even_steps - state.counters[0].waited)
    elif closed:
        k = 1
    return k


@compiled_part
def last_start(state: State, limits: Limits, arrival: float, until: float) -> float:
    """Return the time by which the last fast-forwarded step must start: before the batch may change.

    If the head of the queue cannot be admitted, it stays blocked until the batch changes, and an arrival behind it has no
    effect. This does not hold for several ranks, which receive arrivals by load, nor for a policy with an order, which
    may put an arrival at the head.
    """
    if state.hooks.next_event.size > 0:
        return float(min(min(arrival, until), hooks.next_event(state)))
    by_load = state.ranks.shape[0] > 1
    if limits.poll_steps <= 1 and (by_load or limits.ordered or state.ranks[0].waiting == 0):
        return min(arrival, until)
    return until


@compiled_part
def count_steps(state: State, limits: Limits, steps: int, chunks: int) -> None:
    """Count fast-forwarded steps for rules that depend on their number."""
    counters, ranks = state.counters[0], state.ranks
    counters.poll += limits.poll_steps if chunks > 0 else steps
    if limits.even_steps > 0:  # `hold_back` has counted the first step already
        decoding = True
        for r in range(ranks.shape[0]):
            decoding = decoding and ranks[r].running > 0
        if decoding:
            counters.waited += steps - 1


@compiled_part
def fast_forward(
    limits: Limits, state: State, most: int, cut: float, decodes: float, chunks: int
) -> tuple[float, float, int]:
    """Run up to `most` steps of one plan: the first one, and all that start before `cut` [s].

    Returns the end times of the first and the last step [s], and the number of steps.
    """
    counters, clocks = state.counters[0], state.clocks[0]
    now, first_end, done = clocks.now, clocks.now, int64(0)
    while done < most and (done == 0 or (clocks.known if limits.ahead else now) < cut):
        for r in range(state.ranks.shape[0]):
            if done > 0:
                lengthen(state, state.costs.windows, r, done)
            hooks.on_sums(state, limits, r, done)
        before = clocks.known = now
        step, fresh = counters.steps, done == 0
        seconds = cost_step(
            state.costs, state.moments, step, int(decodes), state.chunks, chunks, fresh, limits.captured
        )
        now += with_host_delay(
            limits.host_delay, seconds, most_tokens(state.moments), (decodes + chunks) / state.moments.shape[0], chunks
        )
        counters.steps += 1
        if done == 0:
            first_end = now
        else:
            record_gap(state.hist, clocks, now - before, int(decodes))
        done += 1
    return first_end, now, done
