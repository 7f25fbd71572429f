"""What compiled code does with lanes: queue a request, choose the next one, count what a tenant gets.

Virtual token counters are those of Sheng et al. (Fairness in serving large language models, OSDI 2024, algorithm 2): a
tenant's counter grows by its prompts as they are admitted and by its tokens as they come, the waiting request of the
smallest counter goes first, and a tenant that comes back after a pause starts no lower than those that wait, or, if
none does, than the one served last. A request that was preempted has been counted already.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_given, compiled_part, int64
from ...batching import state as col
from ...batching.links import link_in
from ...batching.policies import Limits
from ...batching.state import I8, State
from . import lanes as cols
from .lanes import ClassLanes


@compiled_part
def insert(st: State, lanes: ClassLanes, r: int, i: int) -> None:
    """Put a request into its lane, by its place among arrivals."""
    of = lanes.of[i]
    row, place = lanes.rows[r, of[cols.O_LANE]], of[cols.O_PLACE]
    before, after = row[cols.Q_TAIL], int64(-1)
    if before >= 0 and lanes.of[before, cols.O_PLACE] > place:
        before, after = int64(-1), row[cols.Q_HEAD]
        while lanes.of[after, cols.O_PLACE] < place:
            before, after = after, st.ints[after, col.I_NEXT]
    link_in(st, row, cols.Q_HEAD, cols.Q_TAIL, i, before, after)
    row[cols.Q_WAITING] += 1
    lanes.kinds[of[cols.O_KIND], cols.K_WAITING] += 1
    st.ranks[r, col.R_WAITING] += 1


@compiled_part
def lift(lanes: ClassLanes, r: int, lane: int) -> None:
    """Raise the counter of a tenant that begins to wait: it has no claim to what it did not ask for."""
    rows, least = lanes.rows[r], int64(-1)
    if rows[lane, cols.Q_HEAD] >= 0:
        return
    for other in range(lanes.keys.size):
        if rows[other, cols.Q_HEAD] >= 0 and (least < 0 or rows[other, cols.Q_SERVED] < least):
            least = rows[other, cols.Q_SERVED]
    if least < 0 and lanes.last[r] >= 0:
        least = rows[lanes.last[r], cols.Q_SERVED]
    rows[lane, cols.Q_SERVED] = max(rows[lane, cols.Q_SERVED], least)


@compiled_part
def join_lane(st: State, lanes: ClassLanes, r: int, i: int) -> None:
    """Queue a request that has just come."""
    of = lanes.of[i]
    of[cols.O_PLACE] = lanes.marks[cols.M_CAME]
    lanes.marks[cols.M_CAME] += 1
    if lanes.fair:
        lift(lanes, r, of[cols.O_LANE])
    insert(st, lanes, r, i)
    if lanes.fair:
        measure(lanes, r)


@compiled_part
def longest_wait(st: State, lanes: ClassLanes, r: int, kind: int, now: float) -> float:
    """How long the first request of a class in a rank's queue has waited; 0 where none waits.

    What a request that comes now is told to expect: the delay of the one at the head of the line
    (Ibrahim and Whitt, Real-time delay estimation based on delay history, M&SOM 11(3), 2009).
    """
    longest = 0.0
    for lane in range(lanes.keys.size):
        i = lanes.rows[r, lane, cols.Q_HEAD]
        while i >= 0 and not np.isnan(st.floats[i, col.F_SCHEDULED]):
            i = st.ints[i, col.I_NEXT]  # preempted ones have been served
        if i >= 0 and lanes.of[i, cols.O_KIND] == kind:
            longest = max(longest, now - st.floats[i, col.F_ARRIVAL])
    return longest


@compiled_given("st.lanes", otherwise=lambda st, r, i: False)
def turned_away(st: State, r: int, i: int) -> bool:
    """Whether a request that has just come is not let in, by the bounds of its class."""
    lanes = st.lanes
    of = lanes.of[i]
    kind = of[cols.O_KIND]
    full = lanes.kinds[kind, cols.K_WAITING] >= lanes.kinds[kind, cols.K_MOST]
    if not full and lanes.waits[kind] < np.inf:
        waited = longest_wait(st, lanes, r, kind, st.floats[i, col.F_ARRIVAL])
        full = waited > lanes.waits[kind]
    if full:
        of[cols.O_REFUSED] = 1
        lanes.marks[cols.M_REFUSED] += 1
    return bool(full)


@compiled_part
def goes_before(lanes: ClassLanes, r: int, lane: int, other: int) -> bool:
    """Whether the first request of one lane goes before that of another."""
    rows = lanes.rows[r]
    one, two = lanes.keys[lane], lanes.keys[other]
    if lanes.fair:
        one, two = rows[lane, cols.Q_SERVED], rows[other, cols.Q_SERVED]
    if one != two:
        return bool(one < two)
    return bool(lanes.of[rows[lane, cols.Q_HEAD], cols.O_PLACE] < lanes.of[rows[other, cols.Q_HEAD], cols.O_PLACE])


@compiled_given("st.lanes", otherwise=lambda st, r: None)
def find_head(st: State, r: int) -> None:
    """Choose which request of a rank's lanes is the head of its queue."""
    lanes, best = st.lanes, int64(-1)
    for lane in range(lanes.keys.size):
        if lanes.rows[r, lane, cols.Q_HEAD] < 0:
            continue
        if best < 0 or goes_before(lanes, r, lane, best):
            best = int64(lane)
    st.ranks[r, col.R_HEAD] = lanes.rows[r, best, cols.Q_HEAD] if best >= 0 else -1


@compiled_given("st.lanes", otherwise=lambda st, i, other: False)
def sooner(st: State, i: int, other: int) -> bool:
    """Whether one waiting request goes before another by priority."""
    lanes = st.lanes
    one, two = lanes.of[i], lanes.of[other]
    first, second = lanes.keys[one[cols.O_LANE]], lanes.keys[two[cols.O_LANE]]
    if not lanes.worst or first == second:
        return bool(lanes.worst and one[cols.O_PLACE] < two[cols.O_PLACE])
    return bool(first < second)


@compiled_part
def leave_head(st: State, r: int, i: int) -> None:
    """`take_head` of one queue."""
    rank = st.ranks[r]
    rank[col.R_HEAD] = st.ints[i, col.I_NEXT]
    if rank[col.R_HEAD] < 0:
        rank[col.R_TAIL] = -1


@compiled_given("st.lanes", otherwise=leave_head)
def take_head(st: State, r: int, i: int) -> None:
    """Take the chosen head out of its lane; a prompt that leaves for the first time is service."""
    lanes, request = st.lanes, st.ints[i]
    of = lanes.of[i]
    row = lanes.rows[r, of[cols.O_LANE]]
    row[cols.Q_HEAD] = request[col.I_NEXT]
    if row[cols.Q_HEAD] < 0:
        row[cols.Q_TAIL] = -1
    row[cols.Q_WAITING] -= 1
    st.ranks[r, col.R_HEAD] = -1
    lanes.last[r] = of[cols.O_LANE]
    if np.isnan(st.floats[i, col.F_SCHEDULED]):
        row[cols.Q_SERVED] += cols.INPUT_WEIGHT * request[col.I_INPUT]
    if lanes.fair:
        measure(lanes, r)


@compiled_given("st.lanes", otherwise=lambda st, i: None)
def count_kind(st: State, i: int) -> None:
    """Count one request fewer of a class that waits."""
    lanes = st.lanes
    lanes.kinds[lanes.of[i, cols.O_KIND], cols.K_WAITING] -= 1


@compiled_part
def count_left(st: State, r: int, i: int) -> None:
    """Count one request fewer that waits on a rank."""
    st.ranks[r, col.R_WAITING] -= 1
    count_kind(st, i)


@compiled_part
def leave_lane(st: State, r: int, i: int) -> None:
    """Take an admitted request, the head of its queue or lane, out of it."""
    take_head(st, r, i)
    count_left(st, r, i)


@compiled_part
def cut_out(st: State, row: I8, head: int, tail: int, i: int) -> None:
    """Take a request out of a queue, wherever it stands."""
    before, at = int64(-1), row[head]
    while at != i:
        before, at = at, st.ints[at, col.I_NEXT]
    if before < 0:
        row[head] = st.ints[i, col.I_NEXT]
    else:
        st.ints[before, col.I_NEXT] = st.ints[i, col.I_NEXT]
    if row[tail] == i:
        row[tail] = before


@compiled_part
def leave_queue(st: State, r: int, i: int) -> None:
    """`unqueue` from one queue."""
    cut_out(st, st.ranks[r], col.R_HEAD, col.R_TAIL, i)
    st.ranks[r, col.R_WAITING] -= 1


@compiled_given("st.lanes", otherwise=leave_queue)
def unqueue(st: State, r: int, i: int) -> None:
    """Take a request that ends as it waits out of its queue or lane."""
    row = st.lanes.rows[r, st.lanes.of[i, cols.O_LANE]]
    cut_out(st, row, cols.Q_HEAD, cols.Q_TAIL, i)
    row[cols.Q_WAITING] -= 1
    count_left(st, r, i)


@compiled_part
def to_front(st: State, r: int, i: int) -> None:
    """Put a request at the front of a rank's queue."""
    rank = st.ranks[r]
    st.ints[i, col.I_NEXT] = rank[col.R_HEAD]
    rank[col.R_HEAD] = i
    if rank[col.R_TAIL] < 0:
        rank[col.R_TAIL] = i
    rank[col.R_WAITING] += 1


@compiled_given("st.lanes", otherwise=to_front)
def back_to_lane(st: State, r: int, i: int) -> None:
    """Put a preempted request back into its lane, before all that came after it."""
    insert(st, st.lanes, r, i)


@compiled_given("st.lanes", otherwise=lambda st, r, i, tokens: None)
def count_served(st: State, r: int, i: int, tokens: int) -> None:
    """Count tokens that have come for a tenant's request."""
    lanes = st.lanes
    lanes.rows[r, lanes.of[i, cols.O_LANE], cols.Q_SERVED] += cols.OUTPUT_WEIGHT * tokens


@compiled_part
def measure(lanes: ClassLanes, r: int) -> None:
    """Note how far the counters of tenants that wait are apart."""
    least, most = int64(-1), int64(-1)
    for lane in range(lanes.keys.size):
        if lanes.rows[r, lane, cols.Q_HEAD] >= 0:
            served = lanes.rows[r, lane, cols.Q_SERVED]
            least = served if least < 0 else min(least, served)
            most = max(most, served)
    lanes.marks[cols.M_SPREAD] = max(lanes.marks[cols.M_SPREAD], most - least)


@compiled_given("st.lanes", otherwise=lambda st, r: None)
def measure_lanes(st: State, r: int) -> None:
    """`measure` after a step."""
    if st.lanes.fair:
        measure(st.lanes, r)


@compiled_given("st.lanes", otherwise=lambda st, limits: int64(1 << 40))
def same_head(st: State, limits: Limits) -> int:
    """Decode steps after which another request may be the head of a queue, and fit."""
    steps = int64(1 << 40)
    if st.lanes.fair:
        for r in range(st.ranks.shape[0]):
            rank = st.ranks[r]
            if rank[col.R_WAITING] > 0 and rank[col.R_RUNNING] + rank[col.R_LATE] < limits.max_sequences:
                steps = int64(1)
    return steps
