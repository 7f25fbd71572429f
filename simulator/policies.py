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
from .host import LAUNCH_S, NO_HOST, Host, Pace
from .kv import KvRules
from .prefix import USERS, content_key, find, give_back, remember, share, take
from .state import (
    C_CHUNKS,
    C_HITS,
    C_WAITED,
    F8,
    F_HELD,
    F_SCHEDULED,
    I8,
    I_BLOCKS,
    I_CACHED,
    I_FLIGHT,
    I_GENERATED,
    I_HASHED,
    I_HASHES,
    I_INPUT,
    I_KEYED,
    I_NEXT,
    I_OUTPUT,
    I_PREEMPTED,
    I_ROOM,
    I_SLOT,
    I_TARGET,
    R_BLOCKS,
    R_HEAD,
    R_LATE,
    R_LEFT,
    R_RUNNING,
    R_SLOTS,
    R_TAIL,
    R_WAITING,
    State,
)

MOST_CAPTURED = 512
"""Largest batch that vLLM captures a graph for unless told otherwise (vllm/config/vllm.py)."""


class Limits(NamedTuple):
    """What a policy may do in one step, for the compiled path; see `Policy`."""

    token_budget: int
    max_sequences: int
    chunked: bool
    reserve: bool
    lazy: bool
    ahead: bool
    waiting_load: int
    prompts_alone: bool
    poll_steps: int
    gather_steps: int
    gather_tokens: int
    even_steps: int
    captured: int
    pace: Pace


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
    lazy : bool
        Blocks of a prompt are taken chunk by chunk, though admission asks for room for all of
        it. If not, admission takes them all.
    ahead : bool
        Asynchronous scheduling: a step is planned when the one before it starts, so that an
        arrival, or the memory and place of a finished sequence, counts from the step after the
        next one on. With pipeline parallel it changes nothing, see `pipeline`.
    caching : bool
        Prefix caching: freed blocks keep their content until they are handed out again, see
        `prefix`. Only models whose layers all cache every token can use it.
    graphs : bool
        Steps that only decode run as captured graphs, at the next larger batch captured.
    waiting_load : int
        How many running requests a waiting one counts for when a request is given to a rank.
    prompts_alone : bool
        A step has prompts or decodes, never both, and prompts come first: decodes wait while
        there is a prompt that can run. Not with `lazy`: blocks of a whole prompt are held when
        it is admitted, so that its chunks never run out of them.
    poll_steps : int
        Arrivals are looked at every so many decoding-only steps, and after every step with a
        prompt; an idle engine looks at once.
    gather_steps, gather_tokens : int
        Prompts wait beside running decodes until those that could start now have, with the
        decodes, so many tokens, or for so many steps. 0 steps: they never wait.
    even_steps : int
        Of data-parallel ranks: prompts start when every rank has one that could, at the latest
        every so many steps; at once where a rank has nothing to decode. 0: they never wait.
    host : Host
        What the host's work takes. Behind the devices' with `ahead`, or with several batches in
        flight; kernels are started one by one without `graphs`.
    """

    name: str
    token_budget: int
    max_sequences: int
    chunked: bool
    reserve: bool
    lazy: bool = False
    ahead: bool = False
    caching: bool = False
    waiting_load: int = 1
    prompts_alone: bool = False
    poll_steps: int = 1
    gather_steps: int = 0
    gather_tokens: int = 0
    even_steps: int = 0
    graphs: bool = False
    host: Host = NO_HOST

    def __post_init__(self) -> None:
        if self.prompts_alone and self.lazy:
            raise ValueError("prompts_alone needs whole prompts held at admission: not lazy")

    @property
    def holds_back(self) -> bool:
        """Whether prompts may wait for others."""
        return self.gather_steps > 0 or self.even_steps > 0

    @property
    def captured(self) -> int:
        """Largest batch with a captured graph (vllm/config/vllm.py); 0 = none."""
        return min(2 * self.max_sequences, MOST_CAPTURED) if self.graphs else 0

    def pace(self, ops: int, stages: int) -> Pace:
        """What the host takes for the steps of a deployment of so many ops and stages."""
        starting = 0.0 if self.graphs else self.host.launch_s * ops / stages
        return Pace(self.host.step_s, self.host.sequence_s, starting, self.ahead or stages > 1)

    def limits(self, ops: int, stages: int) -> Limits:
        """The same for the compiled path and a deployment of so many ops and stages."""
        return Limits(
            self.token_budget, self.max_sequences, self.chunked, self.reserve, self.lazy,
            self.ahead, self.waiting_load, self.prompts_alone, self.poll_steps,
            self.gather_steps, self.gather_tokens, self.even_steps, self.captured,
            self.pace(ops, stages),
        )  # fmt: skip


MAX_SEQUENCES = 65_536
"""Most sequences of one rank; each has a slot in every step."""

POLICIES: Registry[Policy] = Registry("policy")

POLICIES.register("chunked")(Policy("chunked", 8192, 256, chunked=True, reserve=False))
"""Token budget with chunked prefill (Sarathi-Serve, OSDI 2024) and paged KV (vLLM, SOSP 2023)."""

POLICIES.register("mixed")(Policy("mixed", 524_288, 256, chunked=False, reserve=True))
"""Whole prompts join the running decodes: the Duplex paper's mixed stage; the budget is that of
the authors' simulator (eval/test.cpp)."""


POLICIES.register("vllm")(
    Policy(
        "vllm",
        8192,
        1024,
        chunked=True,
        reserve=False,
        lazy=True,
        ahead=True,
        caching=True,
        waiting_load=4,
        graphs=True,
        host=Host(launch_s=LAUNCH_S),
    )
)
"""vLLM's scheduler (V1 engine, 0.19): chunked prefill, running before waiting, prefix caching and
asynchronous scheduling, which is on by default there. Limits: the server's defaults on GPUs of 70 GiB
and more (vllm/engine/arg_utils.py). Data-parallel ranks are given requests by
4 x waiting + running (vllm/v1/engine/core_client.py)."""


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
    return limited(POLICIES[name], token_budget, max_sequences)


def limited(policy: Policy, token_budget: int | None, max_sequences: int | None) -> Policy:
    """A policy with its limits changed; see `make_policy`."""
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
def hold_blocks(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """`hold` with prefix caching: blocks of the pool."""
    pool, rank, request = st.pool, st.ranks[r], st.ints[i]
    want = (tokens + kv.block - 1) // kv.block
    if want - request[I_BLOCKS] > rank[R_BLOCKS]:
        return False
    row = pool.held[r, request[I_SLOT]]
    while request[I_BLOCKS] < want:
        row[request[I_BLOCKS]] = take(pool, r)
        request[I_BLOCKS] += 1
        rank[R_BLOCKS] -= 1
    count_blocks(st, kv, r, i)
    return True


@compiled_part
def count_blocks(st: State, kv: KvRules, r: int, i: int) -> None:
    """Bring the byte counts of a sequence and its rank in line with their blocks."""
    st.floats[i, F_HELD] = st.ints[i, I_BLOCKS] * kv.block_bytes[0]
    st.ints[i, I_ROOM] = st.ints[i, I_BLOCKS] * kv.block
    st.free[r] = st.ranks[r, R_BLOCKS] * kv.block_bytes[0]


@compiled_part
def drop(st: State, kv: KvRules, r: int, i: int) -> None:
    """Give back all that a sequence holds."""
    request = st.ints[i]
    request[I_ROOM] = 0
    if not kv.cached:
        st.free[r] += st.floats[i, F_HELD]
        st.floats[i, F_HELD] = 0.0
        return
    note_content(st, kv, r, i, min(request[I_CACHED], request[I_HASHED]))  # outputs of sessions
    pool, rank = st.pool, st.ranks[r]
    row = pool.held[r, request[I_SLOT]]
    while request[I_BLOCKS] > 0:
        request[I_BLOCKS] -= 1
        rank[R_BLOCKS] += give_back(pool, r, row[request[I_BLOCKS]])
    pool.held[r, rank[R_SLOTS], pool.held.shape[2] - 1] = request[I_SLOT]
    rank[R_SLOTS] += 1
    request[I_SLOT], request[I_KEYED] = -1, 0
    count_blocks(st, kv, r, i)


@compiled_part
def drop_late(st: State, kv: KvRules, r: int) -> None:
    """Give back what sequences held that had finished unknown to the plan just made."""
    rank, first = st.ranks[r], st.running.shape[1] // 2
    for j in range(rank[R_LATE]):
        drop(st, kv, r, st.running[r, first + j])
    rank[R_LATE] = 0


@compiled_part
def find_prefix(st: State, kv: KvRules, r: int, i: int) -> int:
    """Leading blocks of a waiting request whose content is still there, all but the last token."""
    pool, request = st.pool, st.ints[i]
    most = (request[I_TARGET] - 1) // kv.block
    if request[I_PREEMPTED] == 0:  # nothing of its own yet
        most = min(most, request[I_HASHED] // kv.block)
    j = 0
    while j < most:
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        if find(pool.table[r], key) < 0:
            break
        j += 1
    return j


@compiled_part
def use_prefix(st: State, kv: KvRules, r: int, i: int, whole: int) -> bool:
    """Take over cached blocks, if the rest of `whole` tokens then fits; False, and no change."""
    pool, rank, request = st.pool, st.ranks[r], st.ints[i]
    hits, taken = find_prefix(st, kv, r, i), 0
    for j in range(hits):
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        taken += pool.blocks[r, find(pool.table[r], key), USERS] == 0
    if (whole + kv.block - 1) // kv.block - hits + taken > rank[R_BLOCKS]:
        return False
    rank[R_SLOTS] -= 1
    request[I_SLOT] = pool.held[r, rank[R_SLOTS], pool.held.shape[2] - 1]
    row = pool.held[r, request[I_SLOT]]
    for j in range(hits):
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        row[j] = find(pool.table[r], key)
        rank[R_BLOCKS] -= share(pool, r, row[j])
    request[I_BLOCKS] = request[I_KEYED] = hits
    request[I_CACHED] = hits * kv.block
    st.counters[C_HITS] += hits * kv.block
    count_blocks(st, kv, r, i)
    return True


@compiled_part
def note_content(st: State, kv: KvRules, r: int, i: int, tokens: int) -> None:
    """Note the content of the blocks that a sequence's first `tokens` tokens fill, each once."""
    pool, request = st.pool, st.ints[i]
    row, full = pool.held[r, request[I_SLOT]], tokens // kv.block
    while request[I_KEYED] < full:
        j = request[I_KEYED]
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        remember(pool, r, row[j], key)
        request[I_KEYED] += 1


@compiled_part
def hold(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """Hold KV for `tokens` tokens of a sequence; False, and no change, where it does not fit."""
    if kv.cached:
        return hold_blocks(st, kv, r, i, tokens)
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
def preempt_last(st: State, kv: KvRules, r: int) -> None:
    """Put the latest-admitted sequence of a rank back to the front of its queue."""
    rank = st.ranks[r]
    rank[R_RUNNING] -= 1
    i = st.running[r, rank[R_RUNNING]]
    request = st.ints[i]
    if kv.cached:
        note_content(st, kv, r, i, request[I_CACHED])  # to find its own again
    drop(st, kv, r, i)
    request[I_CACHED] = 0
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


@compiled_part
def brings_cache(st: State, i: int) -> bool:
    """Whether a waiting request's cache has come from another engine: it decodes at once."""
    return bool(st.ints[i, I_CACHED] == st.ints[i, I_TARGET])


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
    if brings_cache(st, i):
        want = int64(1)
    if want > budget and limits.chunked:
        want = budget
    whole = max(request[I_TARGET], request[I_CACHED] + want)
    if limits.reserve:
        whole = request[I_INPUT] + request[I_OUTPUT] - 1
    # Uncut, a prompt above the budget runs as the only prompt of its step.
    if want > budget and prompts > 0:
        return 0
    if kv.cached:
        if not use_prefix(st, kv, r, i, whole):
            return 0
        want = min(request[I_TARGET] - request[I_CACHED], want)
    if limits.lazy:
        if not kv.cached and kv_bytes(kv, whole) > st.free[r]:
            return 0
        whole = request[I_CACHED] + want
    if not hold(st, kv, r, i, whole):
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


@compiled_inline
def set_tokens(st: State, kv: KvRules, windows: I8, r: int, j: int, want: int) -> None:
    """Plan `want` new tokens of a rank's running sequence `j`."""
    i = st.running[r, j]
    request, m = st.ints[i], st.moments[r]
    if kv.cached and want > 0:  # those to come can share what this step computes
        note_content(st, kv, r, i, min(request[I_CACHED] + want, request[I_HASHED]))
    st.fresh[r, j] = want
    st.ranks[r, R_LEFT] = min(st.ranks[r, R_LEFT], request[I_OUTPUT] - request[I_GENERATED])
    if want > 0 and request[I_CACHED] < request[I_TARGET]:
        count_chunk(m, windows, request[I_CACHED], want)
        c = st.counters[C_CHUNKS]
        st.chunks[0, c], st.chunks[1, c] = want, i
        st.counters[C_CHUNKS] += 1
    elif want > 0:
        count_decode(m, windows, request[I_CACHED])


@compiled_part
def waiting_prompt(st: State, limits: Limits, kv: KvRules, r: int) -> int:
    """Tokens of the prompts at the head of a rank's queue that could all start now."""
    rank = st.ranks[r]
    i, tokens, free = rank[R_HEAD], int64(0), st.free[r]
    places = limits.max_sequences - rank[R_RUNNING] - rank[R_LATE]
    budget = limits.token_budget - rank[R_RUNNING]
    while i >= 0 and places > 0 and budget > 0:
        request = st.ints[i]
        whole = request[I_INPUT] + request[I_OUTPUT] - 1 if limits.reserve else request[I_TARGET]
        free -= kv_bytes(kv, whole)
        if free < 0.0 or brings_cache(st, i):
            break
        if tokens > 0 and tokens + request[I_TARGET] > budget:
            return int(budget if limits.chunked else tokens)
        tokens += request[I_TARGET]
        places -= 1
        i = request[I_NEXT]
    return int(tokens)


@compiled_part
def hold_back(st: State, limits: Limits, kv: KvRules) -> bool:
    """Whether this plan lets waiting prompts wait on, see `Policy`; counts the plans that do."""
    if limits.gather_steps == 0 and limits.even_steps == 0:
        return False
    ranks, counters = st.ranks, st.counters
    able, decoding, tokens = int64(0), int64(0), int64(0)
    for r in range(ranks.shape[0]):
        prompt = waiting_prompt(st, limits, kv, r)
        able += prompt > 0
        decoding += ranks[r, R_RUNNING] > 0
        tokens += prompt + ranks[r, R_RUNNING]
    waited = counters[C_WAITED]
    if limits.even_steps > 0:
        wait = able < ranks.shape[0]
        waited += wait
        stop = waited >= limits.even_steps or decoding < ranks.shape[0]
    else:
        wait = able > 0 and decoding > 0
        waited += wait
        stop = waited > limits.gather_steps or tokens >= limits.gather_tokens
    counters[C_WAITED] = waited
    if wait and not stop:
        return True
    if wait or limits.even_steps > 0:
        counters[C_WAITED] = 0
    return False


@compiled_part
def plan_prompts(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float, closed: bool
) -> int:  # fmt: skip
    """Plan a rank's step of prompts alone; how many run."""
    rank, budget, prompts = st.ranks[r], limits.token_budget, int64(0)
    for j in range(rank[R_RUNNING]):
        request = st.ints[st.running[r, j]]
        want = min(max(request[I_TARGET] - request[I_CACHED], 0), budget)
        set_tokens(st, kv, windows, r, j, want)
        budget -= want
        prompts += want > 0
    while not closed and budget > 0 and rank[R_RUNNING] + rank[R_LATE] < limits.max_sequences:
        if rank[R_HEAD] < 0 or brings_cache(st, rank[R_HEAD]):
            break
        want = admit(st, limits, kv, r, budget, prompts, now)
        if want == 0:
            break
        set_tokens(st, kv, windows, r, rank[R_RUNNING] - 1, want)
        budget -= min(want, budget)
        prompts += 1
    return int(prompts)


@compiled_part
def plan_rank(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float, closed: bool
) -> int:  # fmt: skip
    """Plan one rank's step; returns how many sequences it preempted.

    Running sequences come first, in order of admission; then, unless any was preempted or the
    queue is `closed`, the queue is admitted while sequences, tokens and KV allow. With pipeline
    parallel a sequence whose step is in flight is never preempted: who needs its memory waits
    until it can be. The new tokens of each sequence are left in ``st.fresh[r]``, the batch's
    moments in ``st.moments[r]``, its prompt chunks in ``st.chunks``.
    """
    rank, m = st.ranks[r], st.moments[r]
    for w in range(m.size):
        m[w] = 0.0
    rank[R_LEFT] = 1 << 40
    if limits.prompts_alone and plan_prompts(st, limits, kv, windows, r, now, closed) > 0:
        return 0
    budget = limits.token_budget
    preemptions, prompts, j, short = int64(0), 0, 0, False
    while budget > 0 or j < rank[R_RUNNING]:
        if j == rank[R_RUNNING]:  # all that ran is planned: admit the head of the queue
            if preemptions > 0 or short or j + rank[R_LATE] >= limits.max_sequences:
                break
            head = rank[R_HEAD]
            if (closed or limits.prompts_alone) and head >= 0 and not brings_cache(st, head):
                break
            want = admit(st, limits, kv, r, budget, prompts, now)
            if want == 0:
                break
            prompts += 1
        else:
            i = st.running[r, j]
            request = st.ints[i]
            left = request[I_TARGET] - request[I_CACHED]
            want = min(left if left > 0 else 1, budget)
            if left <= 0 and request[I_FLIGHT] > 0:
                want = int64(0)  # the token that goes in next has yet to come
            fits = request[I_CACHED] + want <= request[I_ROOM] or want == 0
            while not fits and j < rank[R_RUNNING]:
                fits = hold(st, kv, r, i, request[I_CACHED] + want)
                if fits:
                    break
                if st.ints[st.running[r, rank[R_RUNNING] - 1], I_FLIGHT] > 0:
                    want, fits, short = int64(0), True, True
                else:
                    preempt_last(st, kv, r)
                    preemptions += 1
            if not fits:
                break
        set_tokens(st, kv, windows, r, j, want)
        budget -= min(want, budget)
        j += 1
    return preemptions
