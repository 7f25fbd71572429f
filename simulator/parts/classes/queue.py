"""Compiled queues of classes: queue a request, choose the next one, count a tenant's service.

Virtual token counters as in Sheng et al. (Fairness in serving large language models, OSDI 2024, algorithm 2): a
tenant's counter grows by admitted prompts and emitted tokens, and the waiting request with the smallest counter is
next. A tenant that returns after a pause starts no lower than the waiting ones, or, without any, than the one served
last. A preempted request is not counted again.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching import state as col
from ...batching.kv import KvRules
from ...batching.policies import Limits
from ...batching.queues import count_left, cut_out, link_in
from ...batching.state import State
from . import lanes as cols
from .lanes import ClassLanes


@compiled_part
def insert(state: State, lanes: ClassLanes, rank: int, index: int) -> None:
    """Put a request into its lane, by its place among arrivals."""
    of = lanes.of[index]
    row, place = lanes.rows[rank, of[cols.O_LANE]], of[cols.O_PLACE]
    before, after = row[cols.Q_TAIL], int64(-1)
    if before >= 0 and lanes.of[before, cols.O_PLACE] > place:
        before, after = int64(-1), row[cols.Q_HEAD]
        while lanes.of[after, cols.O_PLACE] < place:
            before, after = after, state.ints[after, col.I_NEXT]
    link_in(state, row, cols.Q_HEAD, cols.Q_TAIL, index, before, after)
    row[cols.Q_WAITING] += 1
    lanes.kinds[of[cols.O_KIND], cols.K_WAITING] += 1
    state.ranks[rank, col.R_WAITING] += 1


@compiled_part
def lift(lanes: ClassLanes, rank: int, lane: int) -> None:
    """Raise the counter of a tenant that begins to wait: it has no claim to what it did not ask for."""
    rows, least = lanes.rows[rank], int64(-1)
    if rows[lane, cols.Q_HEAD] >= 0:
        return
    for other in range(lanes.keys.size):
        if rows[other, cols.Q_HEAD] >= 0 and (least < 0 or rows[other, cols.Q_SERVED] < least):
            least = rows[other, cols.Q_SERVED]
    if least < 0 and lanes.last[rank] >= 0:
        least = rows[lanes.last[rank], cols.Q_SERVED]
    rows[lane, cols.Q_SERVED] = max(rows[lane, cols.Q_SERVED], least)


@compiled_code
def join_lane(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Queue a request that has just come."""
    of = lanes.of[index]
    of[cols.O_PLACE] = lanes.marks[cols.M_CAME]
    lanes.marks[cols.M_CAME] += 1
    if lanes.fair:
        lift(lanes, rank, of[cols.O_LANE])
    insert(state, lanes, rank, index)
    if lanes.fair:
        measure(lanes, rank)


@compiled_part
def longest_wait(state: State, lanes: ClassLanes, rank: int, kind: int, now: float) -> float:
    """How long the first request of a class in a rank's queue has waited; 0 where none waits.

    Return the expected wait of a new request: the delay of the head of the line (Ibrahim and Whitt, Real-time delay
    estimation based on delay history, M&SOM 11(3), 2009).
    """
    longest = 0.0
    for lane in range(lanes.keys.size):
        i = lanes.rows[rank, lane, cols.Q_HEAD]
        while i >= 0 and not np.isnan(state.floats[i, col.F_SCHEDULED]):
            i = state.ints[i, col.I_NEXT]  # preempted ones have been served
        if i >= 0 and lanes.of[i, cols.O_KIND] == kind:
            longest = max(longest, now - state.floats[i, col.F_ARRIVAL])
    return longest


@compiled_code
def turned_away(lanes: ClassLanes, state: State, rank: int, index: int) -> bool:
    """Whether a request that has just come is not let in, by the bounds of its class."""
    of = lanes.of[index]
    kind = of[cols.O_KIND]
    full = lanes.kinds[kind, cols.K_WAITING] >= lanes.kinds[kind, cols.K_MOST]
    if not full and lanes.waits[kind] < np.inf:
        waited = longest_wait(state, lanes, rank, kind, state.floats[index, col.F_ARRIVAL])
        full = waited > lanes.waits[kind]
    if full:
        of[cols.O_REFUSED] = 1
        lanes.marks[cols.M_REFUSED] += 1
    return bool(full)


@compiled_part
def goes_before(lanes: ClassLanes, rank: int, lane: int, other: int) -> bool:
    """Return whether the first request of one queue precedes the first of another."""
    rows = lanes.rows[rank]
    one, two = lanes.keys[lane], lanes.keys[other]
    if lanes.fair:
        one, two = rows[lane, cols.Q_SERVED], rows[other, cols.Q_SERVED]
    if one != two:
        return bool(one < two)
    return bool(lanes.of[rows[lane, cols.Q_HEAD], cols.O_PLACE] < lanes.of[rows[other, cols.Q_HEAD], cols.O_PLACE])


@compiled_code
def find_head(lanes: ClassLanes, state: State, rank: int) -> None:
    """Choose which request of a rank's lanes is the head of its queue."""
    best = int64(-1)
    for lane in range(lanes.keys.size):
        if lanes.rows[rank, lane, cols.Q_HEAD] < 0:
            continue
        if best < 0 or goes_before(lanes, rank, lane, best):
            best = int64(lane)
    state.ranks[rank, col.R_HEAD] = lanes.rows[rank, best, cols.Q_HEAD] if best >= 0 else -1


@compiled_code
def sooner(lanes: ClassLanes, state: State, index: int, other: int) -> bool:
    """Whether one waiting request goes before another by priority."""
    one, two = lanes.of[index], lanes.of[other]
    first, second = lanes.keys[one[cols.O_LANE]], lanes.keys[two[cols.O_LANE]]
    if not lanes.worst or first == second:
        return bool(lanes.worst and one[cols.O_PLACE] < two[cols.O_PLACE])
    return bool(first < second)


@compiled_code
def take_head(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Take the chosen head out of its lane; a prompt that leaves for the first time is service."""
    request = state.ints[index]
    of = lanes.of[index]
    row = lanes.rows[rank, of[cols.O_LANE]]
    row[cols.Q_HEAD] = request[col.I_NEXT]
    if row[cols.Q_HEAD] < 0:
        row[cols.Q_TAIL] = -1
    row[cols.Q_WAITING] -= 1
    state.ranks[rank, col.R_HEAD] = -1
    lanes.last[rank] = of[cols.O_LANE]
    if np.isnan(state.floats[index, col.F_SCHEDULED]):
        row[cols.Q_SERVED] += cols.INPUT_WEIGHT * request[col.I_INPUT]
    if lanes.fair:
        measure(lanes, rank)


@compiled_code
def count_kind(lanes: ClassLanes, state: State, index: int) -> None:
    """Count one request fewer of a class that waits."""
    lanes.kinds[lanes.of[index, cols.O_KIND], cols.K_WAITING] -= 1


@compiled_code
def unqueue(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Take a request that ends as it waits out of its queue or lane."""
    row = lanes.rows[rank, lanes.of[index, cols.O_LANE]]
    cut_out(state, row, cols.Q_HEAD, cols.Q_TAIL, index)
    row[cols.Q_WAITING] -= 1
    count_left(state, rank, index)


@compiled_code
def back_to_lane(lanes: ClassLanes, state: State, rank: int, index: int) -> None:
    """Put a preempted request back into its lane, before all that came after it."""
    insert(state, lanes, rank, index)


@compiled_code
def count_served(lanes: ClassLanes, state: State, rank: int, index: int, tokens: int) -> None:
    """Count tokens that have come for a tenant's request."""
    lanes.rows[rank, lanes.of[index, cols.O_LANE], cols.Q_SERVED] += cols.OUTPUT_WEIGHT * tokens


@compiled_part
def measure(lanes: ClassLanes, rank: int) -> None:
    """Record the difference between the counters of waiting tenants."""
    least, most = int64(-1), int64(-1)
    for lane in range(lanes.keys.size):
        if lanes.rows[rank, lane, cols.Q_HEAD] >= 0:
            served = lanes.rows[rank, lane, cols.Q_SERVED]
            least = served if least < 0 else min(least, served)
            most = max(most, served)
    lanes.marks[cols.M_SPREAD] = max(lanes.marks[cols.M_SPREAD], most - least)


@compiled_code
def measure_lanes(lanes: ClassLanes, state: State, rank: int) -> None:
    """`measure` after a step."""
    if lanes.fair:
        measure(lanes, rank)


@compiled_code
def same_head(lanes: ClassLanes, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Decode steps after which another request may be the head of a queue, and fit."""
    steps = int64(1 << 40)
    if lanes.fair:
        for r in range(state.ranks.shape[0]):
            rank = state.ranks[r]
            if rank[col.R_WAITING] > 0 and rank[col.R_RUNNING] + rank[col.R_LATE] < limits.max_sequences:
                steps = int64(1)
    return steps


HOOKS = {
    "refuse": turned_away, "queue": join_lane, "find_head": find_head, "sooner": sooner, "take_head": take_head,
    "on_left": count_kind, "unqueue": unqueue, "put_back": back_to_lane, "on_tokens": count_served,
    "on_finished": measure_lanes, "alike": same_head,
}  # fmt: skip
