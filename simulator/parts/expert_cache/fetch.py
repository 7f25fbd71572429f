"""The compiled path of an expert cache: hits and misses of a step's experts, and waiting times of layers.

Equal to `cache.ExpertCache` and `fetched`, over the arrays of `cache_state`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....workloads.draws import step_key
from ....workloads.jit import compiled_code, compiled_part, int64
from ....workloads.jit_address import bring
from ...deploy.deployment import Deployment
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart
from ...step.drawing import StepBatch, draw_part
from ...step.experts import on_slots
from ...step.lowering import I8, LoweredModel, Slots
from ...step.step_totals import StepTotals
from .cache_state import (
    CHANCE_SEED,
    NAME_SEED,
    ExpertCacheState,
    Fetch,
    compiled_wait,
    drawn_number,
    fetch_of,
    new_shelf,
    policy_score,
)
from .policies import Entry


@compiled_part
def score_of(fetch: Fetch, cache_state: ExpertCacheState, part: int, e: int, chance: float) -> float:
    """Return the policy's score of an entry."""
    row = cache_state.entries[part, e]
    entry = Entry(row.loaded, row.used, row.uses, cache_state.next_use[e], cache_state.named[e], chance)
    return policy_score(fetch.custom, fetch.policy, entry)


@compiled_part
def victim(
    fetch: Fetch,
    cache_state: ExpertCacheState,
    part: int,
    first: int,
    group_size: int,
    seeds: tuple[int, int],
    now: int,
    spare: bool,
) -> tuple[int, float]:
    """Return the entry to evict and its score: the lowest score, among equal ones the least recently used."""
    entries, best, least, oldest = cache_state.entries[part], int64(-1), 0.0, int64(0)
    key = step_key(seeds[0] ^ CHANCE_SEED, seeds[1], now)
    for e in range(first, first + group_size):
        if not entries[e].held or (spare and cache_state.named[e]):
            continue
        score = score_of(fetch, cache_state, part, e, drawn_number(key, part, e) if fetch.drawn else 0.0)
        used = entries[e].used
        if best < 0 or score < least or (score == least and used < oldest):
            best, least, oldest = e, score, used
    return best, least


@compiled_part
def load_expert(
    fetch: Fetch,
    cache_state: ExpertCacheState,
    part: int,
    group: int,
    group_size: int,
    e: int,
    seeds: tuple[int, int],
    spare: bool,
) -> float:
    """Load an expert into its device's cache; return the seconds on the host link."""
    cache_state.clocks[part, group] += 1
    now, row = cache_state.clocks[part, group], cache_state.entries[part, e]
    row.loaded, row.used, row.uses = now, now, 0
    if cache_state.held[part, group] < fetch.slots[part]:
        cache_state.held[part, group] += 1
        row.held = 1
        return float(fetch.seconds[part, e])
    leaving, least = victim(fetch, cache_state, part, group * group_size, group_size, seeds, now, spare)
    if fetch.look_ahead == 0 or score_of(fetch, cache_state, part, e, 1.0) >= least:
        cache_state.entries[part, leaving].held = 0
        row.held = 1
    return float(fetch.seconds[part, e])


@compiled_part
def prefetch_group(
    fetch: Fetch, cache_state: ExpertCacheState, part: int, group: int, group_size: int, seeds: tuple[int, int]
) -> tuple[float, int, int]:
    """Load predicted experts that are not cached while slots last; return seconds, experts, and those from disk."""
    room, seconds, count, far = fetch.slots[part], 0.0, int64(0), int64(0)
    for e in range(group * group_size, (group + 1) * group_size):
        room -= cache_state.named[e] and cache_state.entries[part, e].held > 0
    for e in range(group * group_size, (group + 1) * group_size):
        if count < room and cache_state.named[e] and not cache_state.entries[part, e].held:
            seconds += load_expert(fetch, cache_state, part, group, group_size, e, seeds, True)
            count += 1
            far += fetch.far[part, e]
    return seconds, count, far


@compiled_part
def use_group(
    fetch: Fetch, cache_state: ExpertCacheState, part: int, group: int, group_size: int, seeds: tuple[int, int]
) -> tuple[float, int, int]:
    """Use cached experts, then fetch the rest, latest next use first; see `prefetch_group`."""
    entries, seconds, count, far = cache_state.entries[part], 0.0, int64(0), int64(0)
    lacking = int64(0)
    for e in range(group * group_size, (group + 1) * group_size):
        if not cache_state.needed[e]:
            continue
        if not entries[e].held:
            lacking += 1
            continue
        cache_state.clocks[part, group] += 1
        entries[e].used = cache_state.clocks[part, group]
        entries[e].uses += 1
        cache_state.needed[e] = False
    while count < lacking:
        chosen = int64(-1)
        for e in range(group * group_size, (group + 1) * group_size):
            if cache_state.needed[e] and (chosen < 0 or cache_state.next_use[e] > cache_state.next_use[chosen]):
                chosen = e
        cache_state.needed[chosen] = False
        seconds += load_expert(fetch, cache_state, part, group, group_size, chosen, seeds, False)
        entries[chosen].uses = 1
        count += 1
        far += fetch.far[part, chosen]
    return seconds, count, far


@compiled_part
def look_ahead(
    plan: LoweredModel,
    fetch: Fetch,
    cache_state: ExpertCacheState,
    part: int,
    batch: StepBatch,
    step_totals: StepTotals,
) -> None:
    """Compute in how many steps the experts of a part are used again if the batch stays the same."""
    for ahead in range(1, fetch.look_ahead + 1):
        draw_part(plan, part, batch, ahead, step_totals.scratch, cache_state.loads)
        key = step_key(plan.seed, plan.replica, batch.step + ahead)
        loads = on_slots(plan, part, key, cache_state.loads, step_totals.placed)
        for e in range(plan.experts[part].groups * plan.experts[part].held):
            if loads[e] > 0 and cache_state.next_use[e] == np.inf:
                cache_state.next_use[e] = ahead


@compiled_part
def mark(
    plan: LoweredModel, fetch: Fetch, cache_state: ExpertCacheState, part: int, step: int, loads: I8
) -> tuple[int, int]:
    """Note what a step needs of a part and what the predictor names; both counts, the latter if lacking."""
    needed, lacking = int64(0), int64(0)
    key = step_key(plan.seed ^ NAME_SEED, plan.replica, step)
    predicts = fetch.accuracy > 0.0 or fetch.false_rate > 0.0
    for e in range(plan.experts[part].groups * plan.experts[part].held):
        cache_state.needed[e], cache_state.named[e] = loads[e] > 0, False
        if predicts:
            rate = fetch.accuracy if loads[e] > 0 else fetch.false_rate
            cache_state.named[e] = drawn_number(key, part, e) < rate
        cache_state.next_use[e] = np.inf
        needed += loads[e] > 0
        lacking += (loads[e] > 0 or cache_state.named[e]) and not cache_state.entries[part, e].held
    return needed, lacking


@compiled_part
def fetch_part(
    plan: LoweredModel, fetch: Fetch, part: int, batch: StepBatch, seconds: float, step_totals: StepTotals
) -> float:
    """Return the seconds that the layers of a part wait for experts, whose computation takes `seconds`."""
    cache_state = step_totals.cache_state
    experts, clock, total = plan.experts[part], cache_state.clock[0], cache_state.totals[part]
    layers, stage = experts.layers, experts.stage
    if clock.stage != stage:
        clock.now = clock.free = clock.began = 0.0
        clock.dense, clock.stage = step_totals.stages[stage] / fetch.layers[stage], stage
    if fetch.slots[part] == 0:
        clock.now += seconds
        return 0.0
    key = step_key(plan.seed, plan.replica, batch.step)
    loads = on_slots(plan, part, key, step_totals.loads, step_totals.placed)
    needed, lacking = mark(plan, fetch, cache_state, part, batch.step, loads)
    if lacking > 0 and fetch.look_ahead > 0:
        look_ahead(plan, fetch, cache_state, part, batch, step_totals)
    seeds, group_size = (plan.seed, plan.replica), experts.held
    ahead_s, now_s, ahead, misses, far = 0.0, 0.0, int64(0), int64(0), int64(0)
    for g in range(experts.groups):
        own_s, count, on_disk = prefetch_group(fetch, cache_state, part, g, group_size, seeds)
        ahead_s, ahead, far = max(ahead_s, own_s), ahead + count, far + on_disk
        own_s, count, on_disk = use_group(fetch, cache_state, part, g, group_size, seeds)
        now_s, misses, far = max(now_s, own_s), misses + count, far + on_disk
        if not fetch.keeps:
            cache_state.held[part, g] = 0
            for e in range(g * group_size, (g + 1) * group_size):
                cache_state.entries[part, e].held = 0
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
def start_fetch(plan: LoweredModel, step_totals: StepTotals) -> None:
    """Reset the clock of the previous step."""
    step_totals.cache_state.clock[0].stage = -1


@compiled_part
def fetch_step(plan: LoweredModel, part: int, batch: StepBatch, seconds: float, step_totals: StepTotals) -> float:
    """Return `fetch_part` for the plan's cache."""
    return fetch_part(plan, plan.fetch, part, batch, seconds, step_totals)


def with_shelf(step_totals: StepTotals, plan: LoweredModel) -> StepTotals:
    """Return the step totals of an engine with its expert caches."""
    return step_totals._replace(cache_state=new_shelf(plan.fetch, plan.experts))


bring(Fetch, start_fetch=start_fetch, fetch_step=fetch_step, step_totals=with_shelf)


def with_cache(plan: LoweredModel, slots: Slots, deployment: Deployment, *_: object) -> tuple[LoweredModel, Slots]:
    """Return a plan with the deployment's expert cache."""
    return plan._replace(fetch=fetch_of(deployment)), slots


@compiled_code
def link_s(cache_state: ExpertCacheState, state: Any) -> float:
    """Return the seconds for which experts have used the host link so far."""
    seconds = 0.0
    for x in range(cache_state.totals.shape[0]):
        seconds += cache_state.totals[x].link_s
    return seconds


HOOKS = {"host_link_s": link_s}


class EngineCaches(EnginePart):
    """Expert caches of one engine, which keep their content through failures."""

    hooks = (HOOKS,)

    def start(self, engine: Engine) -> ExpertCacheState | None:
        return engine.step_totals.cache_state  # type: ignore[no-any-return]
