"""The compiled path of an expert cache: hits and misses of a step's experts, and waiting times of layers.

Equal to `cache.ExpertCache` and `fetched`, over the arrays of `shelf`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....workloads.draws import step_key
from ....workloads.jit import compiled_code, compiled_part, int64
from ....workloads.jit_held import bring
from ...deploy.deployment import Deployment
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart
from ...step.books import Books
from ...step.drawing import StepBatch, draw_part
from ...step.experts import on_slots
from ...step.lowering import I8, Plan, Slots
from .policies import Entry
from .shelf import CHANCE_SEED, NAME_SEED, Fetch, Shelf, compiled_wait, drawn_number, fetch_of, new_shelf, policy_score


@compiled_part
def score_of(fetch: Fetch, shelf: Shelf, part: int, e: int, chance: float) -> float:
    """The policy's score of an entry."""
    row = shelf.entries[part, e]
    entry = Entry(row.loaded, row.used, row.uses, shelf.next_use[e], shelf.named[e], chance)
    return policy_score(fetch.custom, fetch.policy, entry)


@compiled_part
def victim(
    fetch: Fetch, shelf: Shelf, part: int, first: int, group_size: int, seeds: tuple[int, int], now: int, spare: bool
) -> tuple[int, float]:
    """The entry of the lowest score, of equal ones that not used for longest; and its score."""
    entries, best, least, oldest = shelf.entries[part], int64(-1), 0.0, int64(0)
    key = step_key(seeds[0] ^ CHANCE_SEED, seeds[1], now)
    for e in range(first, first + group_size):
        if not entries[e].held or (spare and shelf.named[e]):
            continue
        score = score_of(fetch, shelf, part, e, drawn_number(key, part, e) if fetch.drawn else 0.0)
        used = entries[e].used
        if best < 0 or score < least or (score == least and used < oldest):
            best, least, oldest = e, score, used
    return best, least


@compiled_part
def load_expert(
    fetch: Fetch, shelf: Shelf, part: int, group: int, group_size: int, e: int, seeds: tuple[int, int], spare: bool
) -> float:
    """Fetch an expert into its device's cache; seconds on the link."""
    shelf.clocks[part, group] += 1
    now, row = shelf.clocks[part, group], shelf.entries[part, e]
    row.loaded, row.used, row.uses = now, now, 0
    if shelf.held[part, group] < fetch.slots[part]:
        shelf.held[part, group] += 1
        row.held = 1
        return float(fetch.seconds[part, e])
    leaving, least = victim(fetch, shelf, part, group * group_size, group_size, seeds, now, spare)
    if fetch.look_ahead == 0 or score_of(fetch, shelf, part, e, 1.0) >= least:
        shelf.entries[part, leaving].held = 0
        row.held = 1
    return float(fetch.seconds[part, e])


@compiled_part
def prefetch_group(
    fetch: Fetch, shelf: Shelf, part: int, group: int, group_size: int, seeds: tuple[int, int]
) -> tuple[float, int, int]:
    """Fetch what is named and lacks, as far as there are slots; seconds, experts, those on the disk."""
    room, seconds, count, far = fetch.slots[part], 0.0, int64(0), int64(0)
    for e in range(group * group_size, (group + 1) * group_size):
        room -= shelf.named[e] and shelf.entries[part, e].held > 0
    for e in range(group * group_size, (group + 1) * group_size):
        if count < room and shelf.named[e] and not shelf.entries[part, e].held:
            seconds += load_expert(fetch, shelf, part, group, group_size, e, seeds, True)
            count += 1
            far += fetch.far[part, e]
    return seconds, count, far


@compiled_part
def use_group(
    fetch: Fetch, shelf: Shelf, part: int, group: int, group_size: int, seeds: tuple[int, int]
) -> tuple[float, int, int]:
    """Use cached experts, then fetch the rest, latest next use first; see `prefetch_group`."""
    entries, seconds, count, far = shelf.entries[part], 0.0, int64(0), int64(0)
    lacking = int64(0)
    for e in range(group * group_size, (group + 1) * group_size):
        if not shelf.needed[e]:
            continue
        if not entries[e].held:
            lacking += 1
            continue
        shelf.clocks[part, group] += 1
        entries[e].used = shelf.clocks[part, group]
        entries[e].uses += 1
        shelf.needed[e] = False
    while count < lacking:
        chosen = int64(-1)
        for e in range(group * group_size, (group + 1) * group_size):
            if shelf.needed[e] and (chosen < 0 or shelf.next_use[e] > shelf.next_use[chosen]):
                chosen = e
        shelf.needed[chosen] = False
        seconds += load_expert(fetch, shelf, part, group, group_size, chosen, seeds, False)
        entries[chosen].uses = 1
        count += 1
        far += fetch.far[part, chosen]
    return seconds, count, far


@compiled_part
def look_ahead(plan: Plan, fetch: Fetch, shelf: Shelf, part: int, batch: StepBatch, books: Books) -> None:
    """When experts of a part are used again if the batch stays as it is, in steps."""
    for ahead in range(1, fetch.look_ahead + 1):
        draw_part(plan, part, batch, ahead, books.scratch, shelf.loads)
        key = step_key(plan.seed, plan.replica, batch.step + ahead)
        loads = on_slots(plan, part, key, shelf.loads, books.placed)
        for e in range(plan.experts[part].groups * plan.experts[part].held):
            if loads[e] > 0 and shelf.next_use[e] == np.inf:
                shelf.next_use[e] = ahead


@compiled_part
def mark(plan: Plan, fetch: Fetch, shelf: Shelf, part: int, step: int, loads: I8) -> tuple[int, int]:
    """Note what a step needs of a part and what the predictor names; both counts, the latter if lacking."""
    needed, lacking = int64(0), int64(0)
    key = step_key(plan.seed ^ NAME_SEED, plan.replica, step)
    predicts = fetch.accuracy > 0.0 or fetch.false_rate > 0.0
    for e in range(plan.experts[part].groups * plan.experts[part].held):
        shelf.needed[e], shelf.named[e] = loads[e] > 0, False
        if predicts:
            rate = fetch.accuracy if loads[e] > 0 else fetch.false_rate
            shelf.named[e] = drawn_number(key, part, e) < rate
        shelf.next_use[e] = np.inf
        needed += loads[e] > 0
        lacking += (loads[e] > 0 or shelf.named[e]) and not shelf.entries[part, e].held
    return needed, lacking


@compiled_part
def fetch_part(plan: Plan, fetch: Fetch, part: int, batch: StepBatch, seconds: float, books: Books) -> float:
    """Seconds that the layers of a part wait for experts, whose own take `seconds`."""
    shelf = books.shelf
    experts, clock, total = plan.experts[part], shelf.clock[0], shelf.totals[part]
    layers, stage = experts.layers, experts.stage
    if clock.stage != stage:
        clock.now = clock.free = clock.began = 0.0
        clock.dense, clock.stage = books.stages[stage] / fetch.layers[stage], stage
    if fetch.slots[part] == 0:
        clock.now += seconds
        return 0.0
    key = step_key(plan.seed, plan.replica, batch.step)
    loads = on_slots(plan, part, key, books.loads, books.placed)
    needed, lacking = mark(plan, fetch, shelf, part, batch.step, loads)
    if lacking > 0 and fetch.look_ahead > 0:
        look_ahead(plan, fetch, shelf, part, batch, books)
    seeds, group_size = (plan.seed, plan.replica), experts.held
    ahead_s, now_s, ahead, misses, far = 0.0, 0.0, int64(0), int64(0), int64(0)
    for g in range(experts.groups):
        own_s, count, on_disk = prefetch_group(fetch, shelf, part, g, group_size, seeds)
        ahead_s, ahead, far = max(ahead_s, own_s), ahead + count, far + on_disk
        own_s, count, on_disk = use_group(fetch, shelf, part, g, group_size, seeds)
        now_s, misses, far = max(now_s, own_s), misses + count, far + on_disk
        if not fetch.keeps:
            shelf.held[part, g] = 0
            for e in range(g * group_size, (g + 1) * group_size):
                shelf.entries[part, e].held = 0
    waited = 0.0
    for _ in range(layers):
        waited += compiled_wait(clock, ahead_s, now_s, seconds / layers, fetch.step_ahead)
    total.needed += needed * layers
    total.hits += (needed - misses) * layers
    total.misses += misses * layers
    total.ahead += ahead * layers
    total.bytes += (ahead + misses) * layers * fetch.sizes[part]
    total.far_bytes += far * layers * fetch.sizes[part]
    total.link_s += (ahead_s + now_s) * layers
    total.wait_s += waited
    return waited


@compiled_part
def start_fetch(plan: Plan, books: Books) -> None:
    """Forget the clock of the step before."""
    books.shelf.clock[0].stage = -1


@compiled_part
def fetch_step(plan: Plan, part: int, batch: StepBatch, seconds: float, books: Books) -> float:
    """`fetch_part` of the plan's cache."""
    return fetch_part(plan, plan.fetch, part, batch, seconds, books)


def with_shelf(books: Books, plan: Plan) -> Books:
    """Books of an engine with its caches."""
    return books._replace(shelf=new_shelf(plan.fetch, plan.experts))


bring(Fetch, start_fetch=start_fetch, fetch_step=fetch_step, books=with_shelf)


def with_cache(plan: Plan, slots: Slots, deployment: Deployment, *_: object) -> tuple[Plan, Slots]:
    """A plan with the deployment's expert cache."""
    return plan._replace(fetch=fetch_of(deployment)), slots


@compiled_code
def link_s(shelf: Shelf, state: Any) -> float:
    """Seconds that experts have had the host's link so far."""
    seconds = 0.0
    for x in range(shelf.totals.shape[0]):
        seconds += shelf.totals[x].link_s
    return seconds


HOOKS = {"host_link_s": link_s}


class EngineCaches(EnginePart):
    """Expert caches of one engine, which failures leave as they are."""

    hooks = (HOOKS,)

    def start(self, engine: Engine) -> Shelf | None:
        return engine.books.shelf  # type: ignore[no-any-return]
