"""The compiled path: one step's seconds from its moments, with running totals per op.

Same formulas as `explicit`, `deploy.placement` and `devices.cost`, over the arrays of `lowering.Plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from ...devices.cost import BOUNDS
from ...devices.prices import (
    P_BANDWIDTH,
    P_BYTES,
    P_FIXED,
    P_FLOPS,
    P_J_ACT,
    P_J_FLOP,
    P_J_STREAM,
    P_PEAK,
    P_SUM,
)
from ...devices.tables.blocks import P_PLACES
from ...workloads.draws import PROMPT_SEED, Scratch, draw_loads, new_scratch, step_key
from ...workloads.jit import OPTIONS, compiled_inline, compiled_part, int64, lacks
from ..deploy.placement import CLEARLY, Option
from .lowering import (
    E_CLASS,
    E_COUNT,
    E_GROUPS,
    E_LAYERS,
    E_NEAR,
    E_STAGE,
    E_TOP_K,
    E_UNIFORM,
    F8,
    FORM_ACT,
    FORM_FLOPS,
    FORM_STREAM,
    G_LAYERS,
    G_STAGE,
    G_START,
    G_STOP,
    I8,
    ROLE_DECODE,
    ROLE_LINK,
    ROLE_PAIR_DECODE,
    S_ROLE,
    S_SEVERAL,
    S_VARIES,
    TABLE_SIZE,
    V_ACT,
    V_FLOPS,
    V_PERSIST,
    V_TILT,
    V_WEIGHTS,
    Plan,
)
from .prices import Price, bound, experts_price, op_outside, op_price, part_outside
from .rules import score

T_FLOPS, T_STREAM, T_ACT, T_RUNS, T_OUTSIDE = range(len(BOUNDS), len(BOUNDS) + 5)
NUM_TALLIES = len(BOUNDS) + 5
T_BUSY, T_J_DRAM, T_J_COMPUTE, T_J_LINK = range(NUM_TALLIES, NUM_TALLIES + 4)
NUM_TOTALS = NUM_TALLIES + 4
"""Columns of `Books.tally` and of `totals`: per op and processor, summed over devices: busy seconds
by what bounds them (in order of `BOUNDS`), FLOPs, streamed and activation bytes, how many times it ran
there, how many of them outside the kernel tables in use; of totals also all busy seconds, and joules
by path."""

(K_WALL, K_PROCESSOR, K_BUSY, K_FLOPS, K_STREAM, K_ACT, K_OUTSIDE, K_BOUND) = range(8)
NUM_CELL = 8
"""Columns of `Books.cells`: what one op of one rank costs now. Wall seconds leave out what runs
beside another op; the processor is -1 where the op has nothing to do; 1 outside the kernel tables;
code of the bound."""

A_TOKENS, A_ACTIVE, A_RUNS, A_OUTSIDE = range(len(BOUNDS), len(BOUNDS) + 4)
NUM_SHARE = len(BOUNDS) + 4
"""Columns of `Books.share`: one step's experts of one part on one processor, all groups; first
busy seconds by bound."""

(Q_TOKENS, Q_ACTIVE, Q_MAIN, Q_NEAR) = range(4)
NUM_QUEUE = 4
"""Columns of `Books.queue`: tokens and active experts of one memory space, and their seconds
on the main and on the near processor by rooflines, without fixed costs."""


(B_DECODES, B_STEP, B_SECONDS) = range(3)
NUM_SPREAD = 3
"""Columns of `Books.spread`: decodes and step for which the seconds of unequal contexts are."""


class Books(NamedTuple):
    """Running totals of one engine; S ops outside the experts, X expert parts, P processors."""

    tally: F8  # [S+X, P, NUM_TALLIES]
    wall: F8  # [S+X] seconds each op contributed to the clock
    cells: F8  # [R, S, NUM_CELL]
    share: F8  # [P, NUM_SHARE]
    queue: F8  # [E, NUM_QUEUE]
    scratch: Scratch  # of the draws
    loads: I8  # [E]
    contexts: F8  # [B] keys of a rank's decodes
    places: F8  # [blocks that run at once] see `uneven`
    spread: F8  # [R, 3] see `core.set_uneven`
    busy: F8  # [2, P+1] device-seconds of each processor and of links; as of the last log entry
    stages: F8  # [pp] seconds of the latest step on each pipeline stage


@compiled_part
def cost_slot(plan: Plan, s: int, m: F8, cell: F8) -> None:
    """Place and cost one op of one rank at the moments `m`, into `cell`."""
    forms, last = plan.forms[s], m.size
    flops, stream, act = 0.0, forms[FORM_STREAM, last], 0.0
    for j in range(last):
        flops += forms[FORM_FLOPS, j] * m[j]
        stream += forms[FORM_STREAM, j] * m[j]
        act += forms[FORM_ACT, j] * m[j]
    if flops <= 0.0 and act <= 0.0:
        cell[K_PROCESSOR] = -1.0
        cell[K_WALL] = 0.0
        return
    flops += forms[FORM_FLOPS, last]
    act += forms[FORM_ACT, last]
    p = first_able(plan, s)
    if plan.slots[s, S_SEVERAL]:
        p = choose_slot(plan, s, m, flops, stream, act)
    seconds, limit = op_price(plan.kernels, plan.params[s, p], s, p, m, flops, stream + act)
    cell[K_WALL], cell[K_PROCESSOR], cell[K_BUSY] = seconds, p, seconds
    cell[K_FLOPS], cell[K_STREAM], cell[K_ACT] = flops, stream, act
    cell[K_OUTSIDE] = op_outside(plan.kernels, s, p, m)
    cell[K_BOUND] = limit


@compiled_part
def first_able(plan: Plan, s: int) -> int:
    """The first processor that can run an op."""
    p = int64(0)
    while not plan.can[s, p]:
        p += 1
    return p


@compiled_part
def choose_slot(plan: Plan, s: int, m: F8, flops: float, stream: float, act: float) -> int:
    """Processor of an op that several can run: the lowest score, the first of equal ones."""
    role = plan.slots[s, S_ROLE]
    near = role in (ROLE_PAIR_DECODE, ROLE_DECODE)
    best, least = int64(0), np.inf
    for p in range(plan.can.shape[1]):
        if not plan.can[s, p]:
            continue
        params, seconds, joules = plan.params[s, p], 0.0, 0.0
        if plan.priced:
            seconds, _ = op_price(plan.kernels, params, s, p, m, flops, stream + act)
            joules = energy(params, flops, stream, act)
        o = Option(p, near, seconds, joules, attained(params, flops, stream + act))
        value = score(plan.custom, plan.rule, o)
        if value < least:
            best, least = p, value
    return best


@compiled_part
def attained(params: F8, flops: float, size: float) -> float:
    """FLOP/s under the nominal roofs of a processor; 0 where nothing moves."""
    return float(min(params[P_PEAK], flops / size * params[P_BANDWIDTH])) if size else 0.0


@compiled_part
def energy(params: F8, flops: float, stream: float, act: float) -> float:
    """Dynamic joules of an op that is no collective."""
    return float(
        stream * params[P_J_STREAM] + act * params[P_J_ACT] + flops * params[P_J_FLOP]
    )  # fmt: skip


@compiled_part
def section_seconds(plan: Plan, g: int, m: F8, fresh: bool, cells: F8, books: Books) -> float:
    """Seconds of one layer of section `g` on one rank, booked for all its layers.

    Unless the batch is `fresh`, only ops that depend on the decodes' contexts are costed anew.
    """
    total, tally = 0.0, books.tally
    times = plan.sections[g, G_LAYERS] * plan.tp
    for s in range(plan.sections[g, G_START], plan.sections[g, G_STOP]):
        cell = cells[s]
        if fresh or plan.slots[s, S_VARIES]:
            cost_slot(plan, s, m, cell)
            paired = plan.slots[s, S_ROLE] == ROLE_PAIR_DECODE and plan.spaces > 1
            if plan.shares and paired:
                before = cells[s - 1]  # decode attention runs beside the prefill just before it
                if before[K_PROCESSOR] >= 0.0 and before[K_PROCESSOR] != cell[K_PROCESSOR]:
                    cell[K_WALL] = max(cell[K_WALL] - before[K_BUSY], 0.0)
        p = int(cell[K_PROCESSOR])
        if p >= 0:
            total += cell[K_WALL]
            row = tally[s, p]
            row[int(cell[K_BOUND])] += cell[K_BUSY] * times
            track = books.busy.shape[1] - 1 if plan.slots[s, S_ROLE] == ROLE_LINK else p
            books.busy[0, track] += cell[K_BUSY] * times
            row[T_FLOPS] += cell[K_FLOPS] * times
            row[T_STREAM] += cell[K_STREAM] * times
            row[T_ACT] += cell[K_ACT] * times
            row[T_RUNS] += times
            row[T_OUTSIDE] += cell[K_OUTSIDE] * times
    return total


@compiled_part
def expert_seconds(table: F8, tokens: int) -> float:
    """Busy seconds of one expert: a row of ``Plan.expert_table`` for few tokens, else its terms.

    The last three entries are seconds per token of arithmetic, of the weights, and per token of
    traffic.
    """
    if tokens < TABLE_SIZE:
        return float(table[tokens])
    weights, traffic = table[TABLE_SIZE + 1], table[TABLE_SIZE + 2]
    return float(max(tokens * table[TABLE_SIZE], weights + tokens * traffic))


@compiled_part
def roofline_price(plan: Plan, x: int, p: int, tokens: float, active: float, busy: float) -> Price:
    """Price of experts that take `busy` seconds one after another, launch left out."""
    params, work = plan.params[plan.slots.shape[0] + x, p], plan.expert_work[x]
    seconds = busy + params[P_FIXED]
    compute = tokens * work[V_FLOPS] / params[P_FLOPS]
    memory = (active * work[V_WEIGHTS] + tokens * work[V_ACT]) / params[P_BYTES]
    return seconds, bound(seconds, compute, memory, params[P_FIXED])


@compiled_part
def share_price(plan: Plan, x: int, p: int, tokens: float, active: float, busy: float) -> Price:
    """Price of a share of one device's experts, which take `busy` seconds on a roofline."""
    price = experts_price(plan.kernels, plan.slots.shape[0] + x, p, tokens, active)
    if price[0] < 0.0:
        price = roofline_price(plan, x, p, tokens, active, busy)
    return price


@compiled_part
def book_share(
    plan: Plan, x: int, p: int, tokens: float, active: float, price: Price, share: F8
) -> None:
    """Add a share of one device's experts to the totals of its processor."""
    share[p, price[1]] += price[0]
    share[p, A_TOKENS] += tokens
    share[p, A_ACTIVE] += active
    share[p, A_RUNS] += 1.0
    row = plan.slots.shape[0] + x
    share[p, A_OUTSIDE] += part_outside(plan.kernels, row, p, tokens, active)


@compiled_inline
def experts_whole(
    plan: Plan, x: int, loads: I8, first: int, held: int, mixed: bool, share: F8
) -> float:
    """Seconds of one device's experts on the one processor that the rule chooses."""
    routed, active = 0.0, 0.0
    for e in range(first, first + held):
        routed += loads[e]
        active += loads[e] > 0
    if routed == 0.0:
        return 0.0
    row, work = plan.slots.shape[0] + x, plan.expert_work[x]
    can, several = plan.can[row], plan.can[row].sum() > 1
    flops, stream, act = routed * work[V_FLOPS], active * work[V_WEIGHTS], routed * work[V_ACT]
    best, least, chosen = int64(0), np.inf, (0.0, int64(0))
    for p in range(can.size):
        if not can[p]:
            continue
        params, value = plan.params[row, p], -1.0
        price = experts_price(plan.kernels, row, p, routed, active)
        if price[0] < 0.0:
            table, busy = plan.expert_table[plan.experts[x, E_CLASS], p], 0.0
            for e in range(first, first + held):
                busy += expert_seconds(table, loads[e])
            price = roofline_price(plan, x, p, routed, active, busy)
        if several:
            joules = energy(params, flops, stream, act)
            rate = attained(params, flops, stream + act)
            value = score(plan.custom, plan.rule, Option(p, not mixed, price[0], joules, rate))
        if value < least:
            best, least, chosen = p, value, price
    book_share(plan, x, best, routed, active, chosen, share)
    return chosen[0]


@compiled_part
def queue_spaces(
    loads: I8, first: int, held: int, spaces: int, on_main: F8, on_near: F8, queue: F8
) -> int:
    """Sum one device's loads by memory space into `queue`, in increasing load; spaces in use."""
    used = 0
    for space in range(min(held, spaces)):
        tokens, active, main, near = 0, 0, 0.0, 0.0
        for e in range(first + space, first + held, spaces):
            n = loads[e]
            if n > 0:
                tokens += n
                active += 1
                main += expert_seconds(on_main, n)
                near += expert_seconds(on_near, n)
        if tokens == 0:
            continue
        at = used
        while at > 0 and queue[at - 1, Q_TOKENS] > tokens:  # insertion sort: spaces are few
            for q in range(NUM_QUEUE):
                queue[at, q] = queue[at - 1, q]
            at -= 1
        queue[at, Q_TOKENS], queue[at, Q_ACTIVE] = tokens, active
        queue[at, Q_MAIN], queue[at, Q_NEAR] = main, near
        used += 1
    return used


@compiled_part
def side_price(plan: Plan, x: int, p: int, queue: F8, used: int, mask: int, near: bool) -> Price:
    """Price of the memory spaces of one side of a split; 0 where it has none."""
    tokens, active, busy = 0.0, 0.0, 0.0
    for j in range(used):
        if (mask >> j & 1 > 0) == near:
            tokens += queue[j, Q_TOKENS]
            active += queue[j, Q_ACTIVE]
            busy += queue[j, Q_NEAR] if near else queue[j, Q_MAIN]
    if tokens == 0.0:
        return 0.0, 0
    return share_price(plan, x, p, tokens, active, busy)


@compiled_part
def book_side(
    plan: Plan, x: int, p: int, queue: F8, used: int, mask: int, near: bool, share: F8
) -> None:
    """Book one side of a split."""
    tokens, active = 0.0, 0.0
    for j in range(used):
        if (mask >> j & 1 > 0) == near:
            tokens += queue[j, Q_TOKENS]
            active += queue[j, Q_ACTIVE]
    if tokens > 0.0:
        price = side_price(plan, x, p, queue, used, mask, near)
        book_share(plan, x, p, tokens, active, price, share)


@compiled_part
def split_queue(plan: Plan, x: int, queue: F8, used: int, near: int, share: F8) -> float:
    """Co-process one device's experts, `placement.split_experts` over arrays; seconds.

    A choice is a mask of the spaces that move: every mask, or those of the order's prefixes.
    """
    whole = (1 << used) - 1
    best, best_seconds, mask = 0, np.inf, 0
    while mask <= whole:
        on_main, _ = side_price(plan, x, int64(0), queue, used, mask, False)
        on_near, _ = side_price(plan, x, near, queue, used, mask, True)
        seconds = max(on_main, on_near)
        if seconds < best_seconds * CLEARLY:
            best, best_seconds = mask, seconds
        if not plan.optimal and on_near > best_seconds:
            break  # the near side only grows from here
        mask += 1 if plan.optimal else mask + 1
    book_side(plan, x, int64(0), queue, used, best, False, share)
    book_side(plan, x, near, queue, used, best, True, share)
    return best_seconds


@compiled_part
def part_seconds(plan: Plan, x: int, mixed: bool, books: Books) -> float:
    """Seconds of the slowest group of expert part `x` at the loads drawn, with booking."""
    loads, share, queue = books.loads, books.share, books.queue
    experts, work = plan.experts[x], plan.expert_work[x]
    row = plan.slots.shape[0] + x
    params = plan.params[row]
    for p in range(share.shape[0]):
        for a in range(NUM_SHARE):
            share[p, a] = 0.0
    groups, near = experts[E_GROUPS], experts[E_NEAR]
    held = experts[E_COUNT] // groups
    slowest, sums = 0.0, 0.0
    tables = plan.expert_table[experts[E_CLASS]]
    for g in range(groups):
        if near > 0:
            used = queue_spaces(loads, g * held, held, plan.spaces, tables[0], tables[near], queue)
            seconds = 0.0
            if used > 0:
                seconds = split_queue(plan, x, queue, used, near, share)
        else:
            seconds = experts_whole(plan, x, loads, g * held, held, mixed, share)
        left = -sums  # bytes of partial sums that this group's stacks leave
        for p in range(share.shape[0]):
            left += share[p, A_TOKENS] * params[p, P_SUM]
        if left > 0.0:
            sums += left
            moving, fixed = left / params[0, P_BYTES], params[0, P_FIXED]
            add = moving + fixed
            seconds += add
            share[0, int(bound(add, 0.0, moving, fixed))] += add
            share[0, A_RUNS] += 1.0
        slowest = max(slowest, seconds)
    layers = experts[E_LAYERS]
    times = float(plan.expert_devices // groups * layers)
    for p in range(share.shape[0]):
        if share[p, A_RUNS] > 0.0:
            total = books.tally[row, p]
            for b in range(A_TOKENS):
                total[b] += share[p, b] * times
                books.busy[0, p] += share[p, b] * times
            total[T_FLOPS] += share[p, A_TOKENS] * work[V_FLOPS] * times
            total[T_STREAM] += share[p, A_ACTIVE] * work[V_WEIGHTS] * times
            total[T_ACT] += share[p, A_TOKENS] * work[V_ACT] * times
            total[T_RUNS] += share[p, A_RUNS] * times
            total[T_OUTSIDE] += share[p, A_OUTSIDE] * times
    books.tally[row, 0, T_ACT] += sums * times
    books.wall[row] += slowest * layers
    return float(slowest * layers)


def experts_step(
    plan: Plan, step: int, decodes: int, chunks: I8, num_chunks: int, mixed: bool, books: Books
) -> float:
    """Seconds of all expert parts of a step; none for a model without experts."""
    if plan.moe is None:
        return 0.0
    return routed_step(plan, step, decodes, chunks, num_chunks, mixed, books)


@compiled_inline
def routed_step(
    plan: Plan, step: int, decodes: int, chunks: I8, num_chunks: int, mixed: bool, books: Books
) -> float:
    """Draw the loads of every expert part and add up what the parts take."""
    total, stages = 0.0, books.stages
    key = step_key(plan.seed, plan.replica, step)
    prompts = step_key(plan.seed ^ PROMPT_SEED, plan.replica, plan.replica)
    for x in range(plan.experts.shape[0]):
        experts, work = plan.experts[x], plan.expert_work[x]
        draw_loads(
            key, prompts, x, decodes, chunks, num_chunks, experts[E_COUNT], experts[E_TOP_K],
            experts[E_UNIFORM] > 0, plan.router[x], work[V_TILT], work[V_PERSIST],
            books.scratch, books.loads,
        )  # fmt: skip
        seconds = part_seconds(plan, x, mixed, books)
        total += seconds
        stages[experts[E_STAGE]] += seconds
    return total


@overload(experts_step, jit_options=OPTIONS, inline="always")
def _typed_experts(
    plan: Any, step: Any, decodes: Any, chunks: Any, num_chunks: Any, mixed: Any, books: Any
) -> Callable[..., float]:
    def absent(
        plan: Any, step: Any, decodes: Any, chunks: Any, num_chunks: Any, mixed: Any, books: Any
    ) -> Any:
        return 0.0

    def present(
        plan: Any, step: Any, decodes: Any, chunks: Any, num_chunks: Any, mixed: Any, books: Any
    ) -> Any:
        return routed_step(plan, step, decodes, chunks, num_chunks, mixed, books)

    return absent if lacks(plan, "moe") else present


@compiled_inline
def step_seconds(
    plan: Plan, moments: F8, step: int, decodes: int, chunks: I8, num_chunks: int, fresh: bool,
    books: Books,
) -> float:  # fmt: skip
    """Seconds of one step, on all pipeline stages together; each one's part is in `books.stages`.

    Parameters
    ----------
    moments : float64 array, shape (ranks, moments)
    step : int
        Counter of the expert draws.
    decodes, chunks, num_chunks
        All ranks' decodes and prompt chunks, for the draws.
    fresh : bool
        Whether the batch differs from the last call's in more than the decodes' contexts.
    books : Books
        Running totals, added to.
    """
    total = 0.0
    mixed = num_chunks > 0
    cells, wall, stages = books.cells, books.wall, books.stages
    for s in range(stages.size):
        stages[s] = 0.0
    for g in range(plan.sections.shape[0]):
        slowest, longest = 0, -1.0
        for r in range(moments.shape[0]):
            seconds = section_seconds(plan, g, moments[r], fresh, cells[r], books)
            if seconds > longest:
                slowest, longest = r, seconds
        layers = plan.sections[g, G_LAYERS]
        total += longest * layers
        stages[plan.sections[g, G_STAGE]] += longest * layers
        for s in range(plan.sections[g, G_START], plan.sections[g, G_STOP]):
            wall[s] += cells[slowest, s, K_WALL] * layers
    return total + experts_step(plan, step, decodes, chunks, num_chunks, mixed, books)


def new_books(plan: Plan, sequences: int = 1) -> Books:
    """Return empty running totals for one engine of so many sequences a rank at most."""
    rows, processors = plan.can.shape
    experts = plan.router.shape[2]
    return Books(
        tally=np.zeros((rows, processors, NUM_TALLIES)),
        wall=np.zeros(rows),
        cells=np.zeros((plan.ranks, len(plan.slots), NUM_CELL)),
        share=np.zeros((processors, NUM_SHARE)),
        queue=np.zeros((experts, NUM_QUEUE)),
        scratch=new_scratch(experts),
        loads=np.zeros(experts, dtype=np.int64),
        contexts=np.zeros(sequences),
        places=np.zeros(int(plan.uneven.blocks[P_PLACES]) if plan.uneven is not None else 0),
        spread=np.zeros((plan.ranks, NUM_SPREAD)),
        busy=np.zeros((2, processors + 1)),
        stages=np.zeros(plan.stages),
    )


def totals(plan: Plan, tally: F8) -> F8:
    """Running totals with energy, which is linear in them, shape (S+X, P, NUM_TOTALS)."""
    link = np.zeros(len(tally), dtype=np.bool_)
    link[: len(plan.slots)] = plan.slots[:, S_ROLE] == ROLE_LINK
    out = np.zeros((*tally.shape[:2], NUM_TOTALS))
    out[:, :, :NUM_TALLIES] = tally
    out[:, :, T_BUSY] = tally[:, :, : len(BOUNDS)].sum(axis=2)
    act, params = tally[:, :, T_ACT] * plan.params[:, :, P_J_ACT], plan.params
    out[:, :, T_J_DRAM] = tally[:, :, T_STREAM] * params[:, :, P_J_STREAM] + act
    out[:, :, T_J_COMPUTE] = tally[:, :, T_FLOPS] * params[:, :, P_J_FLOP]
    # A collective moves its bytes over a link, not through memory.
    out[link, :, T_J_LINK] = act[link]
    out[link, :, T_J_DRAM] = out[link, :, T_STREAM] = out[link, :, T_ACT] = 0.0
    return out
