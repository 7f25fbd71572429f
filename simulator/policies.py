"""Batching policies: which sequences run in the next step, and how many tokens of each.

A policy is data (:class:`Policy`) read by one compiled function (:func:`plan_rank`) over the
engine's state arrays. ``chunked`` and ``mixed`` differ in how prompts join the running decodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

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
from ..workloads.errors import InputError
from ..workloads.jit import compiled_inline, compiled_part, int64
from ..workloads.registry import Registry
from .kv import KvRules
from .state import (
    C_CHUNKS,
    F8,
    F_HELD,
    F_SCHEDULED,
    I8,
    I_CACHED,
    I_GENERATED,
    I_INPUT,
    I_NEXT,
    I_OUTPUT,
    I_PREEMPTED,
    I_ROOM,
    I_TARGET,
    R_HEAD,
    R_LEFT,
    R_RUNNING,
    R_TAIL,
    R_WAITING,
    State,
)


class Limits(NamedTuple):
    """What a policy may do in one step, for the compiled path; see `Policy`."""

    token_budget: int
    max_sequences: int
    chunked: bool
    reserve: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """First come, first served; running sequences before waiting ones.

    Attributes
    ----------
    name : str
    token_budget : int
        Tokens of one step (decodes count one each).
    max_sequences : int
        Sequences that run at once on one rank.
    chunked : bool
        Prompts may be cut to what is left of the budget. If not, a prompt runs whole; one that
        alone exceeds the budget runs as the only prompt of its step.
    reserve : bool
        Admission reserves the KV cache of the finished request, so that nothing is ever
        preempted. If not, blocks are taken as tokens come; when they run out the
        latest-admitted request is put back to the front of the queue and recomputed.
    """

    name: str
    token_budget: int
    max_sequences: int
    chunked: bool
    reserve: bool

    def limits(self) -> Limits:
        """The same for the compiled path."""
        return Limits(self.token_budget, self.max_sequences, self.chunked, self.reserve)


MAX_SEQUENCES = 65_536
"""Most sequences of one rank; each has a slot in every step."""

POLICIES: Registry[Policy] = Registry("policy")

POLICIES.register("chunked")(Policy("chunked", 8192, 256, chunked=True, reserve=False))
"""Token budget with chunked prefill (Sarathi-Serve, OSDI 2024) and paged KV (vLLM, SOSP 2023)."""

POLICIES.register("mixed")(Policy("mixed", 524_288, 256, chunked=False, reserve=True))
"""Whole prompts join the running decodes: the Duplex paper's mixed stage; the budget is that of
the authors' simulator (eval/test.cpp)."""


def make_policy(
    name: str, token_budget: int | None = None, max_sequences: int | None = None
) -> Policy:
    """A registered policy with its limits changed.

    Raises
    ------
    InputError
        Unknown policy, or a limit outside [1, 2^31).
    """
    if name not in POLICIES:
        try:
            POLICIES[name]
        except InputError as error:
            raise InputError(f"--policy {name!r}", error.reason) from None
    policy = POLICIES[name]
    for option, value in (("--token-budget", token_budget), ("--max-seqs", max_sequences)):
        if value is not None and not 1 <= value < 2**31:
            raise InputError(option, f"must be in [1, 2^31), not {value}")
    if max_sequences is not None and max_sequences > MAX_SEQUENCES:
        reason = f"must be at most {MAX_SEQUENCES:,} sequences, not {max_sequences}"
        raise InputError("--max-seqs", reason)
    if token_budget is not None:
        policy = replace(policy, token_budget=token_budget)
    if max_sequences is not None:
        policy = replace(policy, max_sequences=max_sequences)
    return policy


@compiled_part
def kv_bytes(kv: KvRules, tokens: int) -> float:
    """Bytes one sequence of `tokens` cached tokens holds."""
    size = kv.constant
    for c in range(kv.window.size):
        kept = tokens if kv.window[c] == 0 else min(tokens, kv.window[c])
        size += kv.block_bytes[c] * ((kept + kv.block - 1) // kv.block)
    return size


@compiled_part
def hold(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """Hold KV for `tokens` tokens of a sequence; False, and no change, where it does not fit."""
    more = kv_bytes(kv, tokens) - st.floats[i, F_HELD]
    if more > st.free[r]:
        return False
    if more > 0.0:
        st.free[r] -= more
        st.floats[i, F_HELD] += more
    # What is held changes at whole blocks only, in every window class.
    st.ints[i, I_ROOM] = (tokens + kv.block - 1) // kv.block * kv.block
    return True


@compiled_part
def preempt_last(st: State, r: int) -> None:
    """Put the latest-admitted sequence of a rank back to the front of its queue."""
    rank = st.ranks[r]
    rank[R_RUNNING] -= 1
    i = st.running[r, rank[R_RUNNING]]
    request = st.ints[i]
    st.free[r] += st.floats[i, F_HELD]
    st.floats[i, F_HELD] = 0.0
    request[I_ROOM] = request[I_CACHED] = 0
    request[I_TARGET] = request[I_INPUT] + request[I_GENERATED]
    request[I_PREEMPTED] += 1
    request[I_NEXT] = rank[R_HEAD]
    rank[R_HEAD] = i
    if rank[R_TAIL] < 0:
        rank[R_TAIL] = i
    rank[R_WAITING] += 1


@compiled_part
def visible(tokens: int, window: int) -> int:
    """`batch.visible_pairs` of one prompt."""
    inside = min(tokens, window) if window > 0 else tokens
    return inside * (inside + 1) // 2 + (tokens - inside) * window


@compiled_part
def count_decode(m: F8, windows: I8, context: int) -> None:
    """Add a decode with `context` tokens before it to the moments of its rank's batch."""
    m[TOKENS] += 1.0
    m[SEQUENCES] += 1.0
    m[DECODES] += 1.0
    for w in range(windows.size):
        kv = context + 1
        if windows[w] > 0:
            kv = min(kv, windows[w])
        m[BASE_MOMENTS + WINDOW_MOMENTS * w + DECODE_KV] += kv


@compiled_part
def count_chunk(m: F8, windows: I8, context: int, q: int) -> None:
    """Add a prompt chunk of `q` tokens with `context` tokens before it."""
    m[TOKENS] += q
    m[SEQUENCES] += 1.0
    m[PREFILL_TOKENS] += q
    m[PREFILLS] += 1.0
    for w in range(windows.size):
        window = windows[w]
        kv = context + q
        if window > 0:
            kv = min(kv, window + q - 1)
        at = BASE_MOMENTS + WINDOW_MOMENTS * w
        m[at + PREFILL_PAIRS] += visible(context + q, window) - visible(context, window)
        m[at + PREFILL_KV] += kv
        m[at + PREFILL_RECT] += q * kv


@compiled_inline
def admit(
    st: State, limits: Limits, kv: KvRules, r: int, budget: int, prompts: int, now: float
) -> int:
    """Admit the head of a rank's queue if tokens and KV allow; its new tokens, else 0."""
    rank, i = st.ranks[r], st.ranks[r, R_HEAD]
    if i < 0:
        return 0
    request = st.ints[i]
    want = request[I_TARGET]
    if want > budget and limits.chunked:
        want = budget
    whole = request[I_TARGET]
    if limits.reserve:
        whole = request[I_INPUT] + request[I_OUTPUT] - 1
    # Uncut, a prompt above the budget runs as the only prompt of its step.
    if (want > budget and prompts > 0) or not hold(st, kv, r, i, whole):
        return 0
    rank[R_HEAD] = request[I_NEXT]
    if rank[R_HEAD] < 0:
        rank[R_TAIL] = -1
    rank[R_WAITING] -= 1
    if np.isnan(st.floats[i, F_SCHEDULED]):
        st.floats[i, F_SCHEDULED] = now
    st.running[r, rank[R_RUNNING]] = i
    rank[R_RUNNING] += 1
    return int(want)


@compiled_part
def plan_rank(st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float) -> int:
    """Plan one rank's step; returns how many sequences it preempted.

    Running sequences come first, in order of admission; then, unless any was preempted, the
    queue is admitted while sequences, tokens and KV allow. The new tokens of each sequence are
    left in ``st.fresh[r]``, the batch's moments in ``st.moments[r]``, its prompt chunks in
    ``st.chunks``.
    """
    rank, m = st.ranks[r], st.moments[r]
    for w in range(m.size):
        m[w] = 0.0
    rank[R_LEFT] = 1 << 40
    budget = limits.token_budget
    preemptions, prompts, j = int64(0), 0, 0
    while budget > 0 or j < rank[R_RUNNING]:
        if j == rank[R_RUNNING]:  # all that ran is planned: admit the head of the queue
            if preemptions > 0 or j >= limits.max_sequences:
                break
            want = admit(st, limits, kv, r, budget, prompts, now)
            if want == 0:
                break
            i = st.running[r, j]
            request = st.ints[i]
            prompts += 1
        else:
            i = st.running[r, j]
            request = st.ints[i]
            left = request[I_TARGET] - request[I_CACHED]
            want = min(left if left > 0 else 1, budget)
            fits = request[I_CACHED] + want <= request[I_ROOM] or want == 0
            while not fits and j < rank[R_RUNNING]:
                fits = hold(st, kv, r, i, request[I_CACHED] + want)
                if not fits:
                    preempt_last(st, r)
                    preemptions += 1
            if not fits:
                break
        st.fresh[r, j] = want
        budget -= min(want, budget)
        j += 1
        rank[R_LEFT] = min(rank[R_LEFT], request[I_OUTPUT] - request[I_GENERATED])
        if want > 0 and request[I_CACHED] < request[I_TARGET]:
            count_chunk(m, windows, request[I_CACHED], want)
            c = st.counters[C_CHUNKS]
            st.chunks[0, c], st.chunks[1, c] = want, i
            st.counters[C_CHUNKS] += 1
        elif want > 0:
            count_decode(m, windows, request[I_CACHED])
    return preemptions
