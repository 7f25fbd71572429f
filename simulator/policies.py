"""Batching policies: which sequences run in the next step, and how many tokens of each.

A policy is data (:class:`Policy`) read by one compiled function (:func:`plan_rank`) over the
engine's state arrays. ``chunked`` and ``mixed`` differ in how prompts join the running decodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..workloads.errors import InputError
from ..workloads.jit import compiled_part
from ..workloads.registry import Registry



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
def kv_bytes(kv, tokens):  # type: ignore[no-untyped-def]
    """Bytes one sequence of `tokens` cached tokens holds."""
    size = kv.constant
    for c in range(kv.window.size):
        kept = tokens if kv.window[c] == 0 else min(tokens, kv.window[c])
        size += kv.block_bytes[c] * ((kept + kv.block - 1) // kv.block)
    return size


@compiled_part
def preempt_last(st, r):  # type: ignore[no-untyped-def]
    """Put the latest-admitted sequence of a rank back to the front of its queue."""
    st.n_running[r] -= 1
    i = st.running[r, st.n_running[r]]
    st.free[r] += st.held[i]
    st.held[i] = 0.0
    st.cached[i] = 0
    st.target[i] = st.input[i] + st.generated[i]
    st.preempted[i] += 1
    st.next[i] = st.head[r]
    st.head[r] = i
    if st.tail[r] < 0:
        st.tail[r] = i
    st.n_waiting[r] += 1


@compiled_part
def take(st, r, i, size):  # type: ignore[no-untyped-def]
    """Raise what a sequence holds to `size` bytes."""
    if size > st.held[i]:
        st.free[r] -= size - st.held[i]
        st.held[i] = size


@compiled_part
def plan_rank(st, limits, kv, r, now):  # type: ignore[no-untyped-def]
    """Fill ``st.q[r]`` with the new tokens of each running sequence; returns preemptions.

    Running sequences come first, in order of admission; then the queue is admitted while
    sequences, tokens and KV allow.
    """
    budget = limits.token_budget
    preemptions = 0
    j = 0
    while j < st.n_running[r]:
        i = st.running[r, j]
        left = st.target[i] - st.cached[i]
        want = min(left if left > 0 else 1, budget)
        size = kv_bytes(kv, st.cached[i] + want)
        while want > 0 and size - st.held[i] > st.free[r] and j < st.n_running[r]:
            preempt_last(st, r)
            preemptions += 1
        if j >= st.n_running[r]:
            break
        if want > 0:
            take(st, r, i, size)
        st.q[r, j] = want
        budget -= want
        j += 1
    if preemptions > 0:
        return preemptions
    prompts = 0
    while st.head[r] >= 0 and st.n_running[r] < limits.max_sequences and budget > 0:
        i = st.head[r]
        want = st.target[i]
        if want > budget:
            if limits.chunked:
                want = budget
            elif prompts > 0:
                break
        whole = st.input[i] + st.output[i] - 1 if limits.reserve else st.target[i]
        size = kv_bytes(kv, whole)
        if size > st.free[r]:
            break
        st.head[r] = st.next[i]
        if st.head[r] < 0:
            st.tail[r] = -1
        st.n_waiting[r] -= 1
        take(st, r, i, size)
        if np.isnan(st.scheduled[i]):
            st.scheduled[i] = now
        st.running[r, st.n_running[r]] = i
        st.q[r, st.n_running[r]] = want
        st.n_running[r] += 1
        budget -= min(want, budget)
        prompts += 1
    return 0
