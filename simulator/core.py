"""The engine's inner loop, compiled: plan, cost, advance the clock, stamp, repeat.

Between two changes of the batch (arrival, admission, completion, a block that might not be
there) decode steps differ only in context. They run as one *stretch*: planned once, costed
step by step, stamped at the end.
"""

from __future__ import annotations

import numpy as np

from ..workloads.batch import (
    BASE_MOMENTS,
    DECODE_KV,
    DECODES,
    PREFILL_KV,
    PREFILL_PAIRS,
    PREFILL_RECT,
    PREFILL_TOKENS,
    PREFILLS,
    SEQUENCES,
    TOKENS,
    WINDOW_MOMENTS,
)
from ..workloads.jit import compiled, compiled_part
from .compiled import step_seconds
from .policies import kv_bytes, plan_rank
from .state import (
    C_COMPLETED,
    C_EMITTED,
    C_LOG,
    C_OPENED,
    C_PREEMPTIONS,
    C_PROMPT,
    C_RELEASED,
    C_STEPS,
    C_SUBMITTED,
    HIST_BINS,
    HIST_MIN_S,
    HIST_RATIO,
    L_DECODES,
    L_END,
    L_KV,
    L_PREFILL,
    L_PROMPTS,
    L_RUNNING,
    L_START,
    L_STEPS,
    L_WAITING,
    T_BUSY,
    T_KV_PEAK,
    T_NOW,
    T_TBT_COUNT,
    T_TBT_SUM,
    T_WARM_EMITTED,
    T_WARM_PREEMPTIONS,
    T_WARM_PROMPT,
    T_WARM_STEPS,
    T_WARM_TIME,
)

REACHED, LOG_FULL, STUCK = range(3)

LOG_RATIO = np.log(HIST_RATIO)


@compiled_part
def record_gap(st, gap, times):  # type: ignore[no-untyped-def]
    """Count `times` token gaps of `gap` seconds."""
    bin_ = int(np.log(max(gap, HIST_MIN_S) / HIST_MIN_S) / LOG_RATIO)
    st.hist[min(bin_, HIST_BINS - 1)] += times
    st.clocks[T_TBT_SUM] += gap * times
    st.clocks[T_TBT_COUNT] += times


@compiled_part
def total(counts):  # type: ignore[no-untyped-def]
    """Sum of a short array."""
    out = 0
    for r in range(counts.size):
        out += counts[r]
    return out


@compiled_part
def release(st, closed_loop):  # type: ignore[no-untyped-def]
    """Move requests that have arrived to the queue of the rank with the fewest requests."""
    now = st.clocks[T_NOW]
    known = st.counters[C_OPENED] if closed_loop else st.counters[C_SUBMITTED]
    while st.counters[C_RELEASED] < known and st.arrival[st.counters[C_RELEASED]] <= now:
        i = st.counters[C_RELEASED]
        r = 0
        for other in range(1, st.n_running.size):
            load = st.n_running[other] + st.n_waiting[other]
            if load < st.n_running[r] + st.n_waiting[r]:
                r = other
        st.next[i] = -1
        if st.tail[r] >= 0:
            st.next[st.tail[r]] = i
        else:
            st.head[r] = i
        st.tail[r] = i
        st.n_waiting[r] += 1
        st.counters[C_RELEASED] += 1


@compiled_part
def next_arrival(st, closed_loop):  # type: ignore[no-untyped-def]
    """Time of the first request that has not arrived; infinity if none is known."""
    known = st.counters[C_OPENED] if closed_loop else st.counters[C_SUBMITTED]
    i = st.counters[C_RELEASED]
    return st.arrival[i] if i < known else np.inf


@compiled_part
def visible(tokens, window):  # type: ignore[no-untyped-def]
    """`batch.visible_pairs` of one prompt."""
    inside = min(tokens, window) if window > 0 else tokens
    return inside * (inside + 1) // 2 + (tokens - inside) * window


@compiled_part
def gather(st, windows, r, chunks):  # type: ignore[no-untyped-def]
    """Moments of a rank's planned batch; appends its prompt chunks, returns their new count."""
    m = st.moments[r]
    for w in range(m.size):
        m[w] = 0.0
    for j in range(st.n_running[r]):
        i, q = st.running[r, j], st.q[r, j]
        if q == 0:
            continue
        context = st.cached[i]
        prefill = context < st.target[i]
        m[TOKENS] += q
        m[SEQUENCES] += 1
        if prefill:
            m[PREFILL_TOKENS] += q
            m[PREFILLS] += 1
            st.chunk_tokens[chunks] = q
            st.chunk_seq[chunks] = i
            chunks += 1
        else:
            m[DECODES] += 1
        for w in range(windows.size):
            window = windows[w]
            at = BASE_MOMENTS + WINDOW_MOMENTS * w
            if prefill:
                kv = context + q
                if window > 0:
                    kv = min(kv, window + q - 1)
                m[at + PREFILL_PAIRS] += visible(context + q, window) - visible(context, window)
                m[at + PREFILL_KV] += kv
                m[at + PREFILL_RECT] += q * kv
            else:
                m[at + DECODE_KV] += min(context + 1, window) if window > 0 else context + 1
    return chunks


@compiled_part
def lengthen(st, windows, r, done):  # type: ignore[no-untyped-def]
    """Moments of the next decode step of a stretch, `done` steps into it."""
    for w in range(windows.size):
        at = BASE_MOMENTS + WINDOW_MOMENTS * w + DECODE_KV
        if windows[w] == 0:
            st.moments[r, at] += st.moments[r, DECODES]
        else:
            total = 0
            for j in range(st.n_running[r]):
                total += min(st.cached[st.running[r, j]] + done + 1, windows[w])
            st.moments[r, at] = total


@compiled_part
def stretch_limit(st, kv, limits):  # type: ignore[no-untyped-def]
    """Decode steps until the first completion or until blocks might run out (at least 1)."""
    k = 1 << 40
    for r in range(st.n_running.size):
        if st.n_running[r] > limits.token_budget:
            return 1
        for j in range(st.n_running[r]):
            i = st.running[r, j]
            k = min(k, st.output[i] - st.generated[i])
    for r in range(st.n_running.size):
        low, high = 1, k  # the plan already holds the blocks of one step
        while low < high:
            middle = (low + high + 1) // 2
            growth = 0.0
            for j in range(st.n_running[r]):
                i = st.running[r, j]
                growth += max(kv_bytes(kv, st.cached[i] + middle) - st.held[i], 0.0)
            if growth <= st.free[r]:
                low = middle
            else:
                high = middle - 1
        k = low
    return k


@compiled_part
def apply(st, kv, r, steps, now):  # type: ignore[no-untyped-def]
    """Stamp a rank's sequences after `steps` steps that ended at `now`.

    Returns tokens emitted. Gaps within the stretch were recorded by the caller; the first
    token's gap reaches back to the sequence's previous token.
    """
    emitted = 0
    for j in range(st.n_running[r]):
        i, q = st.running[r, j], st.q[r, j]
        if q == 0:
            continue
        prefill = st.cached[i] < st.target[i]
        st.cached[i] += q if prefill else steps
        if prefill and st.cached[i] < st.target[i]:
            continue
        if not prefill:
            size = kv_bytes(kv, st.cached[i])
            if size > st.held[i]:
                st.free[r] -= size - st.held[i]
                st.held[i] = size
        count = 1 if prefill else steps
        st.generated[i] += count
        emitted += count
        if np.isnan(st.first[i]):
            st.first[i] = now
        st.last[i] = now
    return emitted


@compiled_part
def first_gaps(st, r, now):  # type: ignore[no-untyped-def]
    """Record the gap of every token that the first step of a stretch emits at `now`."""
    for j in range(st.n_running[r]):
        i, q = st.running[r, j], st.q[r, j]
        left = st.target[i] - st.cached[i]
        if q > 0 and (left <= 0 or q == left) and st.generated[i] > 0:
            record_gap(st, now - st.last[i], 1)


@compiled_part
def retire(st, r, now, closed_loop):  # type: ignore[no-untyped-def]
    """Take finished sequences out of a rank's running set, keeping the order."""
    kept = 0
    for j in range(st.n_running[r]):
        i = st.running[r, j]
        if st.generated[i] < st.output[i]:
            st.running[r, kept] = i
            kept += 1
            continue
        st.finished[i] = now
        st.free[r] += st.held[i]
        st.held[i] = 0.0
        st.order[i] = st.counters[C_COMPLETED]
        st.counters[C_COMPLETED] += 1
        if closed_loop and st.counters[C_OPENED] < st.counters[C_SUBMITTED]:
            st.arrival[st.counters[C_OPENED]] = now
            st.counters[C_OPENED] += 1
    st.n_running[r] = kept


@compiled
def advance(plan, limits, kv, st, books, until, closed_loop, warmup):  # type: ignore[no-untyped-def]
    """Run steps until the clock reaches `until`, nothing is left, or the log is full.

    Every request that arrives before `until` must have been submitted; a step that starts
    before `until` is finished.
    """
    ranks = st.n_running.size
    while True:
        release(st, closed_loop)
        if total(st.n_running) + total(st.n_waiting) == 0:
            wake = next_arrival(st, closed_loop)
            if not wake < until:
                return REACHED
            st.clocks[T_NOW] = wake
            continue
        if st.clocks[T_NOW] >= until:
            return REACHED
        if st.counters[C_LOG] >= st.log.shape[0]:
            return LOG_FULL
        start = st.clocks[T_NOW]
        chunks, tokens, decodes, prefill = 0, 0.0, 0.0, 0.0
        used, preemptions = 0.0, 0
        for r in range(ranks):
            preemptions += plan_rank(st, limits, kv, r, start)
            chunks = gather(st, plan.windows, r, chunks)
            tokens += st.moments[r, TOKENS]
            decodes += st.moments[r, DECODES]
            prefill += st.moments[r, PREFILL_TOKENS]
            used += kv.capacity - st.free[r]
            st.clocks[T_KV_PEAK] = max(st.clocks[T_KV_PEAK], kv.capacity - st.free[r])
        if tokens == 0.0:
            return STUCK
        st.counters[C_PREEMPTIONS] += preemptions
        k = stretch_limit(st, kv, limits) if chunks == 0 and preemptions == 0 else 1
        # A queue whose head cannot be admitted stays blocked while the batch lasts, so an
        # arrival behind it changes nothing; ranks choose among themselves by load.
        cut = next_arrival(st, closed_loop)
        if ranks == 1 and st.n_waiting[0] > 0:
            cut = np.inf
        cut = min(cut, until)
        now, done = start, 0
        while done < k:
            if done > 0:
                for r in range(ranks):
                    lengthen(st, plan.windows, r, done)
            dt = step_seconds(
                plan, st.moments, st.counters[C_STEPS], int(decodes), st.chunk_tokens,
                st.chunk_seq, chunks, books,
            )  # fmt: skip
            st.counters[C_STEPS] += 1
            now += dt
            if done == 0:
                for r in range(ranks):
                    first_gaps(st, r, now)
            else:
                record_gap(st, dt, int(decodes))
            done += 1
            if now >= cut:
                break
        st.clocks[T_NOW] = now
        st.clocks[T_BUSY] += now - start
        st.counters[C_PROMPT] += int(prefill)
        row = st.log[st.counters[C_LOG]]
        row[L_START], row[L_END], row[L_STEPS] = start, now, done
        row[L_DECODES], row[L_PREFILL], row[L_PROMPTS] = decodes, prefill, chunks
        row[L_RUNNING], row[L_WAITING] = total(st.n_running), total(st.n_waiting)
        row[L_KV] = used
        st.counters[C_LOG] += 1
        before = st.counters[C_COMPLETED]
        for r in range(ranks):
            st.counters[C_EMITTED] += apply(st, kv, r, done, now)
            st.clocks[T_KV_PEAK] = max(st.clocks[T_KV_PEAK], kv.capacity - st.free[r])
            retire(st, r, now, closed_loop)
        if before < warmup and st.counters[C_COMPLETED] >= warmup:
            end_warmup(st, books, now)


@compiled_part
def end_warmup(st, books, now):  # type: ignore[no-untyped-def]
    """End of warm-up: rates and gap statistics start here."""
    st.clocks[T_WARM_TIME] = now
    st.clocks[T_WARM_EMITTED] = st.counters[C_EMITTED]
    st.clocks[T_WARM_PROMPT] = st.counters[C_PROMPT]
    st.clocks[T_WARM_STEPS] = st.counters[C_STEPS]
    st.clocks[T_WARM_PREEMPTIONS] = st.counters[C_PREEMPTIONS]
    for b in range(st.hist.size):
        st.hist[b] = 0
    st.clocks[T_TBT_SUM] = 0.0
    st.clocks[T_TBT_COUNT] = 0.0
    rows, processors, kinds = books.totals.shape
    for s in range(rows):
        books.warm_wall[s] = books.wall[s]
        for p in range(processors):
            for k in range(kinds):
                books.warm_totals[s, p, k] = books.totals[s, p, k]
