"""The compiled path: one step's seconds from its moments, with running totals per op.

Same formulas as `stage`, `placement` and `devices.cost`, over the arrays of `lowering.Plan`.
"""

from __future__ import annotations

import numpy as np

from ..devices.cost import (
    P_BANDWIDTH,
    P_BYTES,
    P_FIXED,
    P_FLOPS,
    P_J_ACT,
    P_J_FLOP,
    P_J_STREAM,
    P_PEAK,
)
from ..workloads.draws import draw_loads
from ..workloads.jit import compiled
from .lowering import (
    CO_PROCESS,
    F8,
    FASTEST,
    FORM_ACT,
    FORM_FLOPS,
    FORM_STREAM,
    I8,
    OP_PER_BYTE,
    PAPER,
    ROLE_DECODE,
    ROLE_EXPERTS,
    ROLE_LINK,
    ROLE_PAIR_DECODE,
    ROLE_PAIR_PREFILL,
    XPU_ONLY,
    Plan,
)

(T_BUSY, T_FLOPS, T_STREAM, T_ACT, T_J_DRAM, T_J_COMPUTE, T_J_LINK, T_RUNS) = range(8)
NUM_TOTALS = 8
"""Running totals per op and processor, summed over devices: busy seconds, FLOPs, streamed and
activation bytes, joules by path, and how many times it ran there."""


@compiled
def roofline(params, flops, stream, act):  # type: ignore[no-untyped-def]  # numba infers scalars
    """Busy seconds of one op, without its fixed time."""
    return max(flops / params[P_FLOPS], (stream + act) / params[P_BYTES])


@compiled
def nominal(params, flops, size):  # type: ignore[no-untyped-def]
    """Attainable FLOP/s at the op's Op/B under the nominal roofs."""
    return min(params[P_PEAK], flops / size * params[P_BANDWIDTH]) if size > 0 else 0.0


@compiled
def choose(rule, role, params, can, flops, stream, act, mixed):  # type: ignore[no-untyped-def]
    """Processor of one op that runs whole: `placement`'s rules in order of `RULES`."""
    best = 0
    if rule == XPU_ONLY or role == ROLE_LINK:
        return best
    if rule == PAPER or rule == CO_PROCESS:
        decode = role == ROLE_PAIR_DECODE or role == ROLE_DECODE
        if decode or (role == ROLE_EXPERTS and not mixed):
            for p in range(1, can.size):
                if can[p]:
                    return p
        return best
    score = -np.inf
    for p in range(can.size):
        if can[p]:
            if rule == OP_PER_BYTE:
                s = nominal(params[p], flops, stream + act)
            else:
                s = -(roofline(params[p], flops, stream, act) + params[p, P_FIXED])
            if s > score:
                best, score = p, s
    return best


@compiled
def add(totals, params, role, busy, flops, stream, act, times):  # type: ignore[no-untyped-def]
    """Book one op that ran `times` times (layers x devices)."""
    totals[T_BUSY] += busy * times
    totals[T_FLOPS] += flops * times
    totals[T_RUNS] += times
    if role == ROLE_LINK:
        totals[T_J_LINK] += act * params[P_J_ACT] * times
        return
    totals[T_STREAM] += stream * times
    totals[T_ACT] += act * times
    totals[T_J_DRAM] += (stream * params[P_J_STREAM] + act * params[P_J_ACT]) * times
    totals[T_J_COMPUTE] += flops * params[P_J_FLOP] * times


@compiled
def section_seconds(plan, g, moments, mixed, totals, wall):  # type: ignore[no-untyped-def]
    """Seconds of one layer of section `g` on one rank; `wall[s]` gets each op's share."""
    total = 0.0
    pair_seconds, pair_processor, pair_slot = 0.0, -1, -1
    last = moments.size
    for s in range(plan.section_start[g], plan.section_start[g + 1]):
        wall[s] = 0.0
        role = plan.role[s]
        flops, act = 0.0, 0.0
        for m in range(last):
            flops += plan.forms[s, FORM_FLOPS, m] * moments[m]
            act += plan.forms[s, FORM_ACT, m] * moments[m]
        if flops <= 0.0 and act <= 0.0:
            continue
        flops += plan.forms[s, FORM_FLOPS, last]
        act += plan.forms[s, FORM_ACT, last]
        stream = plan.forms[s, FORM_STREAM, last]
        for m in range(last):
            stream += plan.forms[s, FORM_STREAM, m] * moments[m]
        p = choose(plan.rule, role, plan.params[s], plan.can[s], flops, stream, act, mixed)
        params = plan.params[s, p]
        seconds = roofline(params, flops, stream, act) + params[P_FIXED]
        times = plan.section_count[g] * plan.tp
        add(totals[s, p], params, role, seconds, flops, stream, act, times)
        beside = (
            plan.rule == CO_PROCESS
            and role == ROLE_PAIR_DECODE
            and pair_slot == s - 1
            and pair_processor != p
        )
        if beside:  # decode attention runs beside the prefill attention just before it
            wall[s] = max(seconds - pair_seconds, 0.0)
        else:
            wall[s] = seconds
        total += wall[s]
        if role == ROLE_PAIR_PREFILL:
            pair_seconds, pair_processor, pair_slot = seconds, p, s
    return total


@compiled
def experts_whole(plan, x, row, loads, first, held, mixed, totals, times):  # type: ignore[no-untyped-def]
    """Seconds of one device's experts on the one processor the rule chooses."""
    routed, active = 0.0, 0.0
    for e in range(first, first + held):
        routed += loads[e]
        active += 1.0 if loads[e] > 0 else 0.0
    if routed == 0.0:
        return 0.0
    flops = routed * plan.expert_flops[x]
    stream, act = active * plan.expert_weights[x], routed * plan.expert_act[x]
    best, best_seconds = -1, np.inf
    if plan.rule != FASTEST:
        best = choose(
            plan.rule, ROLE_EXPERTS, plan.params[row], plan.can[row], flops, stream, act, mixed
        )
    for p in range(plan.can.shape[1]):
        if plan.can[row, p] and (best < 0 or p == best or plan.rule == FASTEST):
            seconds = plan.params[row, p, P_FIXED]
            for e in range(first, first + held):
                seconds += expert_seconds(plan, x, row, p, loads[e])
            if seconds < best_seconds:
                best, best_seconds = p, seconds
    params = plan.params[row, best]
    add(totals[row, best], params, ROLE_EXPERTS, best_seconds, flops, stream, act, times)
    return best_seconds


@compiled
def expert_seconds(plan, x, row, p, tokens):  # type: ignore[no-untyped-def]
    """Busy seconds of one expert with `tokens` tokens; 0 without any."""
    if tokens <= 0:
        return 0.0
    return roofline(
        plan.params[row, p], tokens * plan.expert_flops[x], plan.expert_weights[x],
        tokens * plan.expert_act[x],
    )  # fmt: skip


@compiled
def experts_split(plan, x, row, loads, first, held, totals, times):  # type: ignore[no-untyped-def]
    """Co-process one device's experts: `placement.split_experts` over arrays."""
    near = -1
    for p in range(1, plan.can.shape[1]):
        if plan.can[row, p] and near < 0:
            near = p
    groups = held if held <= plan.spaces else plan.spaces
    tokens, active = np.zeros(groups), np.zeros(groups)
    on_main, on_near = np.zeros(groups), np.zeros(groups)
    routed = 0.0
    for e in range(held):
        n = loads[first + e]
        g = e % groups
        tokens[g] += n
        routed += n
        active[g] += 1.0 if n > 0 else 0.0
        on_main[g] += expert_seconds(plan, x, row, 0, n)
        on_near[g] += expert_seconds(plan, x, row, near, n)
    if routed == 0.0:
        return 0.0
    order = np.argsort(tokens, kind="mergesort")
    main_fixed, near_fixed = plan.params[row, 0, P_FIXED], plan.params[row, near, P_FIXED]
    best, best_seconds = 0, np.inf
    for moved in range(groups + 1):
        a, b, a_tokens, b_tokens = 0.0, 0.0, 0.0, 0.0
        for i in range(groups):
            if i < moved:
                b += on_near[order[i]]
                b_tokens += tokens[order[i]]
            else:
                a += on_main[order[i]]
                a_tokens += tokens[order[i]]
        a += main_fixed if a_tokens > 0 else 0.0
        b += near_fixed if b_tokens > 0 else 0.0
        if max(a, b) < best_seconds:
            best, best_seconds = moved, max(a, b)
    for side in range(2):
        p = near if side == 1 else 0
        busy, n, w = 0.0, 0.0, 0.0
        for i in range(groups):
            if (i < best) == (side == 1):
                g = order[i]
                busy += on_near[g] if side == 1 else on_main[g]
                n += tokens[g]
                w += active[g]
        if n > 0:
            params = plan.params[row, p]
            add(
                totals[row, p], params, ROLE_EXPERTS, busy + params[P_FIXED],
                n * plan.expert_flops[x], w * plan.expert_weights[x], n * plan.expert_act[x],
                times,
            )  # fmt: skip
    return best_seconds


@compiled
def step_seconds(
    plan, moments, step, decodes, chunk_tokens, chunk_seq, chunks, totals, wall, scratch, loads
):  # type: ignore[no-untyped-def]
    """Seconds of one step.

    Parameters
    ----------
    moments : float64 array, shape (ranks, moments)
    step : int
        Counter of the expert draws.
    decodes, chunk_tokens, chunk_seq, chunks
        All ranks' decodes and prompt chunks, for the draws.
    totals : float64 array, shape (S + X, P, NUM_TOTALS)
        Running totals, added to.
    wall : float64 array, shape (S + X,)
        Seconds each op contributed to the clock, added to.
    scratch : float64 array, shape (2, S)
    loads : int64 array, shape (E,)
    """
    total = 0.0
    mixed = chunks > 0
    for g in range(plan.section_count.size):
        slowest = -1.0
        for r in range(plan.ranks):
            seconds = section_seconds(plan, g, moments[r], mixed, totals, scratch[0])
            if seconds > slowest:
                slowest = seconds
                for s in range(plan.section_start[g], plan.section_start[g + 1]):
                    scratch[1, s] = scratch[0, s]
        total += slowest * plan.section_count[g]
        for s in range(plan.section_start[g], plan.section_start[g + 1]):
            wall[s] += scratch[1, s] * plan.section_count[g]
    split = plan.rule == CO_PROCESS
    for x in range(plan.expert_flops.size):
        row = plan.role.size + x
        experts = plan.expert_count[x]
        out = loads[:experts]
        draw_loads(
            plan.seed, plan.replica, step, x, decodes, chunk_tokens, chunk_seq, chunks,
            plan.expert_top_k[x], plan.prob[x, :experts], plan.inclusion[x, :experts],
            plan.cumulative[x, :experts], plan.uniform[x], plan.tilt[x], plan.persist[x], out,
        )  # fmt: skip
        held = experts // plan.expert_groups[x]
        times = plan.expert_devices // plan.expert_groups[x]
        paired = False
        for p in range(1, plan.can.shape[1]):
            paired = paired or plan.can[row, p]
        slowest = 0.0
        for g in range(plan.expert_groups[x]):
            if split and paired:
                seconds = experts_split(plan, x, row, out, g * held, held, totals, times)
            else:
                seconds = experts_whole(plan, x, row, out, g * held, held, mixed, totals, times)
            slowest = max(slowest, seconds)
        total += slowest
        wall[row] += slowest
    return total


class Totals:
    """Arrays that `step_seconds` adds to, for one engine."""

    def __init__(self, plan: Plan) -> None:
        rows = plan.params.shape[0]
        self.totals: F8 = np.zeros((rows, plan.params.shape[1], NUM_TOTALS))
        self.wall: F8 = np.zeros(rows)
        self.scratch: F8 = np.zeros((2, max(len(plan.role), 1)))
        self.loads: I8 = np.zeros(plan.prob.shape[1], dtype=np.int64)
