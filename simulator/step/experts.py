"""The compiled path of experts: sample their loads, place or split them over processors, cost and count them."""

from __future__ import annotations

import numpy as np

from ...devices.calibrated.terms import bound
from ...workloads.draws import SampleKeys, keys_of
from ...workloads.jit import compiled_by, compiled_given, compiled_part, int64
from ...workloads.records import Records
from ..deploy.placement import BOTH, CLEARLY, Option, kind_code
from . import lowering as low
from . import step_totals as columns
from .drawing import StepBatch, draw_part, mark_of
from .lowering import F8, I8, LoweredModel
from .memo import A_ACTIVE, A_OUTSIDE, A_RUNS, A_TOKENS, NUM_SHARE, entry_of, recall, remember
from .prices import Price, experts_price, part_outside
from .rules import attained, energy, score
from .step_totals import StepTotals

EXPERTS = kind_code("experts")


@compiled_by("plan.fetch")
def start_fetch(plan: LoweredModel, step_totals: StepTotals) -> None:
    """Begin a step in the expert cache; without a cache, do nothing."""


@compiled_by("plan.fetch")
def fetch_step(plan: LoweredModel, part: int, batch: StepBatch, seconds: float, step_totals: StepTotals) -> float:
    """Return the seconds for which the layers of `part` wait for fetched experts; the experts compute for `seconds`."""
    return 0.0


@compiled_by("plan.places")
def on_slots(plan: LoweredModel, part: int, key: np.uint64, loads: I8, placed: I8) -> I8:
    """Return the loads of the expert slots of `part`; without an expert map, the loads of its experts."""
    return loads


@compiled_part
def expert_seconds(table: F8, tokens: int) -> float:
    """Return the busy seconds of one expert with `tokens` tokens.

    They are an entry of its row of ``LoweredModel.expert_table``, or for more tokens follow from the roofline. The last three
    entries of the row are the seconds of arithmetic per token, of reading the weights, and of activation traffic per token.
    """
    if tokens < low.TABLE_SIZE:
        return float(table[tokens])
    weights, traffic = table[low.TABLE_SIZE + 1], table[low.TABLE_SIZE + 2]
    return float(max(tokens * table[low.TABLE_SIZE], weights + tokens * traffic))


@compiled_part
def roofline_price(plan: LoweredModel, part: int, processor: int, tokens: float, active: float, busy: float) -> Price:
    """Return the cost of experts that take `busy` seconds one after another, without the launch."""
    params, work = plan.params[plan.slots.shape[0] + part, processor], plan.expert_work[part]
    seconds = busy + params.fixed
    compute = tokens * work.flops / params.flops
    memory = (active * work.weights + tokens * work.act) / params.bytes
    return seconds, bound(seconds, compute, memory, params.fixed)


@compiled_part
def share_price(plan: LoweredModel, part: int, processor: int, tokens: float, active: float, busy: float) -> Price:
    """Return the cost of a share of one device's experts, which take `busy` seconds on a roofline."""
    price = experts_price(plan.kernels, plan.slots.shape[0] + part, processor, tokens, active)
    if price[0] < 0.0:
        price = roofline_price(plan, part, processor, tokens, active, busy)
    return price


@compiled_part
def book_share(
    plan: LoweredModel, part: int, processor: int, tokens: float, active: float, price: Price, share: F8
) -> None:
    """Add a share of one device's experts to the totals of its processor."""
    share[processor, price[1]] += price[0]
    share[processor, A_TOKENS] += tokens
    share[processor, A_ACTIVE] += active
    share[processor, A_RUNS] += 1.0
    row = plan.slots.shape[0] + part
    share[processor, A_OUTSIDE] += part_outside(plan.kernels, row, processor, tokens, active)


@compiled_part
def experts_whole(
    plan: LoweredModel, part: int, loads: I8, first: int, group_size: int, mixed: bool, share: F8
) -> float:
    """Return the seconds of one device's experts on the one processor that the placement rule chooses."""
    group_loads, tokens, used = loads[first : first + group_size], int64(0), int64(0)
    for e in range(group_loads.size):  # integer sums, which the compiler vectorises
        tokens += group_loads[e]
        used += group_loads[e] > 0
    if tokens == 0:
        return 0.0
    routed, active = float(tokens), float(used)
    row, work = plan.slots.shape[0] + part, plan.expert_work[part]
    can, several = plan.can[row], plan.can[row].sum() > 1
    flops, stream, act = routed * work.flops, active * work.weights, routed * work.act
    best, least, chosen = int64(0), np.inf, (0.0, int64(0))
    for p in range(can.size):
        if not can[p]:
            continue
        params, value = plan.params[row, p], -1.0
        price = experts_price(plan.kernels, row, p, routed, active)
        if price[0] < 0.0:
            table, busy = plan.expert_table[plan.experts[part].table, p], 0.0
            for e in range(group_loads.size):
                busy += expert_seconds(table, group_loads[e])
            price = roofline_price(plan, part, p, routed, active, busy)
        if several:
            joules = energy(params, flops, stream, act)
            rate = attained(params, flops, stream + act)
            ratio = flops / (stream + act)
            o = Option(p, not mixed, price[0], joules, rate, ratio, EXPERTS, BOTH, routed)
            value = score(plan.custom, plan.rule, o)
        if value < least:
            best, least, chosen = p, value, price
    book_share(plan, part, best, routed, active, chosen, share)
    return chosen[0]


@compiled_part
def queue_spaces(loads: I8, first: int, group_size: int, spaces: int, on_main: F8, on_near: F8, queue: Records) -> int:
    """Sum one device's loads for each memory space into `queue`, sorted by load; return the number of spaces with tokens."""
    used = 0
    for space in range(min(group_size, spaces)):
        tokens, active, main, near = 0, 0, 0.0, 0.0
        for e in range(first + space, first + group_size, spaces):
            n = loads[e]
            if n > 0:
                tokens += n
                active += 1
                main += expert_seconds(on_main, n)
                near += expert_seconds(on_near, n)
        if tokens == 0:
            continue
        at = used
        while at > 0 and queue[at - 1].tokens > tokens:  # insertion sort: spaces are few
            queue[at] = queue[at - 1]
            at -= 1
        queue[at].tokens, queue[at].active = tokens, active
        queue[at].main, queue[at].near = main, near
        used += 1
    return used


@compiled_part
def side_loads(queue: Records, used: int, mask: int, side: int) -> tuple[float, float, float]:
    """Return tokens, active experts and roofline seconds of the spaces on one side of a split; side 1 is near memory."""
    tokens, active, busy = 0.0, 0.0, 0.0
    for j in range(used):
        if mask >> j & 1 == side:
            tokens += queue[j].tokens
            active += queue[j].active
            busy += queue[j].near if side else queue[j].main
    return tokens, active, busy


@compiled_part
def split_queue(plan: LoweredModel, part: int, queue: Records, used: int, near: int, share: F8) -> float:
    """Split one device's experts over two processors (`placement.split_experts` on arrays); return the seconds.

    A bit mask has the spaces whose experts run on the processor near memory. If the plan is `optimal`, all masks are tried;
    else only masks of the spaces with the least load.
    """
    all_spaces = (1 << used) - 1
    best, best_seconds, mask = int64(0), np.inf, int64(0)
    while mask <= all_spaces:
        seconds, side_s = 0.0, 0.0
        for side in range(2):
            tokens, active, busy = side_loads(queue, used, mask, side)
            side_s = 0.0
            if tokens > 0.0:
                side_s, _ = share_price(plan, part, near * side, tokens, active, busy)
            seconds = max(seconds, side_s)
        if seconds < best_seconds * CLEARLY:
            best, best_seconds = mask, seconds
        if not plan.optimal and side_s > best_seconds:
            break  # further masks only increase the near side's time
        mask += 1 if plan.optimal else mask + 1
    for side in range(2):
        tokens, active, busy = side_loads(queue, used, best, side)
        if tokens > 0.0:
            price = share_price(plan, part, near * side, tokens, active, busy)
            book_share(plan, part, near * side, tokens, active, price, share)
    return best_seconds


@compiled_part
def clear_share(share: F8) -> None:
    """Set the totals of one step's experts to zero."""
    for p in range(share.shape[0]):
        for a in range(NUM_SHARE):
            share[p, a] = 0.0


@compiled_part
def groups_seconds(
    plan: LoweredModel, part: int, loads: I8, mixed: bool, share: F8, queue: Records
) -> tuple[float, float]:
    """Run one layer's experts of `part`; return the seconds of the slowest group and the bytes of partial sums.

    The work of all groups is added to `share`, including the main processor's reading of partial sums.
    """
    experts = plan.experts[part]
    params = plan.params[plan.slots.shape[0] + part]
    groups, near = experts.groups, experts.near
    group_size = experts.held
    slowest, sums, before = 0.0, 0.0, 0.0
    for p in range(share.shape[0]):
        before += share[p, A_TOKENS] * params[p].sum_bytes
    tables = plan.expert_table[experts.table]
    for g in range(groups):
        if near > 0:
            used = queue_spaces(loads, g * group_size, group_size, plan.spaces, tables[0], tables[near], queue)
            seconds = 0.0
            if used > 0:
                seconds = split_queue(plan, part, queue, used, near, share)
        else:
            seconds = experts_whole(plan, part, loads, g * group_size, group_size, mixed, share)
        left = -before - sums  # bytes of partial sums of this group's memory spaces
        for p in range(share.shape[0]):
            left += share[p, A_TOKENS] * params[p].sum_bytes
        if left > 0.0:
            sums += left
            moving, fixed = left / params[0].bytes, params[0].fixed
            add = moving + fixed
            seconds += add
            share[0, int(bound(add, 0.0, moving, fixed))] += add
            share[0, A_RUNS] += 1.0
        slowest = max(slowest, seconds)
    return slowest, sums


@compiled_part
def book_part(plan: LoweredModel, part: int, sums: float, share: F8, tally: F8, busy: F8) -> None:
    """Add the work of `part`'s groups and their partial sums [bytes], for all its layers, to the totals."""
    experts, work, row = plan.experts[part], plan.expert_work[part], plan.slots.shape[0] + part
    times = float(plan.expert_devices // experts.groups * experts.layers)
    for p in range(share.shape[0]):
        if share[p, A_RUNS] > 0.0:
            total = tally[row, p]
            for b in range(A_TOKENS):
                total[b] += share[p, b] * times
                busy[p] += share[p, b] * times
            total[columns.T_FLOPS] += share[p, A_TOKENS] * work.flops * times
            total[columns.T_STREAM] += share[p, A_ACTIVE] * work.weights * times
            total[columns.T_ACT] += share[p, A_TOKENS] * work.act * times
            total[columns.T_RUNS] += share[p, A_RUNS] * times
            total[columns.T_OUTSIDE] += share[p, A_OUTSIDE] * times
    tally[row, 0, columns.T_ACT] += sums * times


@compiled_part
def drawn_costs(
    plan: LoweredModel, part: int, keys: SampleKeys, batch: StepBatch, step_totals: StepTotals
) -> tuple[float, float]:
    """Sample the loads of `part`; return the seconds and bytes of `groups_seconds`."""
    draw_part(plan, part, batch, 0, step_totals.scratch, step_totals.loads)
    clear_share(step_totals.share)
    loads = on_slots(plan, part, keys.step, step_totals.loads, step_totals.placed)
    return groups_seconds(plan, part, loads, batch.num_chunks > 0, step_totals.share, step_totals.queue)


@compiled_given("plan.memo", otherwise=drawn_costs)
def part_costs(
    plan: LoweredModel, part: int, keys: SampleKeys, batch: StepBatch, step_totals: StepTotals
) -> tuple[float, float]:
    """Return the seconds and bytes of `groups_seconds` at sampled loads; from the cache if these loads were costed before."""
    mark = mark_of(plan, part, batch, keys)
    entry = entry_of(plan.memo, mark)
    if mark > 0 and plan.memo.marks[entry] == mark:
        return recall(plan.memo, entry, step_totals.share)
    totals = drawn_costs(plan, part, keys, batch, step_totals)
    if mark > 0:
        remember(plan.memo, entry, mark, totals, step_totals.share)
    return totals


@compiled_part
def part_seconds(plan: LoweredModel, part: int, keys: SampleKeys, batch: StepBatch, step_totals: StepTotals) -> float:
    """Return the seconds of the slowest group of `part` at sampled loads, and add its layers to the totals."""
    slowest, sums = part_costs(plan, part, keys, batch, step_totals)
    book_part(plan, part, sums, step_totals.share, step_totals.tally, step_totals.busy[0])
    layers = plan.experts[part].layers
    step_totals.wall[plan.slots.shape[0] + part] += slowest * layers
    return float(slowest * layers)


@compiled_given("plan.moe", lambda plan, batch, step_totals: 0.0)
def experts_step(plan: LoweredModel, batch: StepBatch, step_totals: StepTotals) -> float:
    """Return the seconds of all expert parts of a step at sampled loads; zero for a model without experts."""
    total, stages = 0.0, step_totals.stages
    keys = keys_of(plan.seed, plan.replica, batch.step)
    start_fetch(plan, step_totals)
    for x in range(plan.experts.shape[0]):
        seconds = part_seconds(plan, x, keys, batch, step_totals)
        seconds += fetch_step(plan, x, batch, seconds, step_totals)
        total += seconds
        stages[plan.experts[x].stage] += seconds
    return total
