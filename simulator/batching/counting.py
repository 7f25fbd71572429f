"""Sums over the batch of a planned step: what its decodes, prompt chunks, verifications and drafts add."""

from __future__ import annotations

from ...workloads import batch as sums
from ...workloads.jit import compiled_inside, compiled_part
from . import hooks
from .policies import Limits
from .state import C_CHUNKS, F8, I8, I_CACHED, I_TARGET, R_LATE, R_RUNNING, R_WAITING, State


@compiled_part
def most_of_one(st: State, limits: Limits, r: int) -> int:
    """Most tokens of one of a rank's sequences in the next step; 0: as many as the budget has."""
    rank = st.ranks[r]
    if limits.lone and rank[R_RUNNING] + rank[R_LATE] + rank[R_WAITING] <= 1:
        return 0
    return limits.threshold


@compiled_part
def visible(tokens: int, window: int) -> int:
    """`batch.visible_pairs` of one prompt."""
    inside = min(tokens, window) if window > 0 else tokens
    return inside * (inside + 1) // 2 + (tokens - inside) * window


@compiled_part
def count_decode(m: F8, windows: I8, context: int) -> None:
    """Add a decode with `context` tokens before it to the moments of its rank's batch."""
    m[sums.TOKENS] += 1.0
    m[sums.SEQUENCES] += 1.0
    m[sums.DECODES] += 1.0
    for w in range(windows.size):
        if windows[w] < 0:
            continue
        kv = context + 1
        if windows[w] > 0:
            kv = min(kv, windows[w])
        m[sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w + sums.DECODE_KV] += kv


@compiled_inside
def unbounded(windows: I8) -> bool:
    """Whether all attention sees all before it: decodes can then be counted together."""
    return bool(windows.size == 1 and windows[0] == 0)


@compiled_inside
def count_decodes(m: F8, decodes: int, context: int) -> None:
    """Add decodes of `context` tokens in all, their own among them, where attention is `unbounded`."""
    m[sums.TOKENS] += decodes
    m[sums.SEQUENCES] += decodes
    m[sums.DECODES] += decodes
    m[sums.BASE_MOMENTS + sums.DECODE_KV] += context


@compiled_part
def count_chunk(m: F8, windows: I8, context: int, q: int) -> None:
    """Add a prompt chunk of `q` tokens with `context` tokens before it."""
    m[sums.TOKENS] += q
    m[sums.SEQUENCES] += 1.0
    m[sums.PREFILL_TOKENS] += q
    m[sums.PREFILLS] += 1.0
    for w in range(windows.size):
        window = windows[w]
        kv = context + q
        if window > 0:
            kv = min(kv, window + q - 1)
        at = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w
        if window < 0:  # `batch.SHORT_TOKENS`
            if kv <= -window:
                m[at + sums.PREFILL_PAIRS] += visible(kv, 0) - visible(context, 0)
                m[at + sums.PREFILL_KV] += kv
                m[at + sums.SHORT_TOKENS] += q
            continue
        m[at + sums.PREFILL_PAIRS] += visible(context + q, window) - visible(context, window)
        m[at + sums.PREFILL_KV] += kv
        m[at + sums.PREFILL_RECT] += q * kv


@compiled_part
def count_several(m: F8, windows: I8, context: int, q: int, rows: int) -> None:
    """Add a decode of `q` tokens, with `context` before them, and its rows of logits."""
    m[sums.TOKENS] += q
    m[sums.SEQUENCES] += rows
    m[sums.DECODES] += 1.0
    behind = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * windows.size
    m[behind] += q
    for w in range(windows.size):
        window, kv = windows[w], context + q
        if window < 0:
            continue
        if window > 0:
            kv = min(kv, window + q - 1)
        m[sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w + sums.DECODE_KV] += kv
        m[behind + 1 + w] += visible(context + q, window) - visible(context, window)


@compiled_inside
def is_chunk(st: State, i: int, want: int) -> bool:
    """Return whether `want` new tokens of a sequence are prompt tokens; `several` tokens can also be a decode."""
    several = want > 1 and st.hooks.count_tokens.size == 0
    return bool(several or (want > 0 and st.ints[i, I_CACHED] < st.ints[i, I_TARGET]))


@compiled_inside
def count_tokens(st: State, m: F8, windows: I8, context: int, q: int) -> None:
    """Add a decode, with the drafts behind its token."""
    if st.hooks.count_tokens.size > 0:
        hooks.count_tokens(st, m, windows, context, q)
    else:
        count_decode(m, windows, context)


@compiled_inside
def count_planned(st: State, windows: I8, r: int, i: int, want: int) -> None:
    """Add `want` new tokens of a sequence of a rank."""
    context = st.ints[i, I_CACHED]
    if is_chunk(st, i, want):
        count_chunk(st.moments[r], windows, context, want)
        c = st.counters[C_CHUNKS]
        st.chunks[0, c], st.chunks[1, c] = want, i
        st.counters[C_CHUNKS] += 1
        hooks.on_count(st, r, context, want, True)
    elif want > 0:
        count_tokens(st, st.moments[r], windows, context, want)
        hooks.on_count(st, r, context, want, False)


@compiled_part
def clear_sums(st: State, r: int) -> None:
    """Empty the sums of a rank's batch."""
    for w in range(st.moments.shape[1]):
        st.moments[r, w] = 0.0
    hooks.on_clear(st, r)
