"""An expert cache as arrays: what a deployment's is made of, and what an engine's holds.

Cache policies in compiled code: the functions of `policies`, compiled, and their samples.

As with placement rules (`simulator.step.rules`), one compiled engine serves all policies of the library; for a
user-defined one a separate engine is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from ....workloads.draws import GOLDEN, layer_key, mix, step_key, uniform01
from ....workloads.jit import compiled, compiled_from_outside, compiled_given, compiled_part
from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...deploy.deployment import Deployment
from ...deploy.expert_parts import ExpertPart
from . import policies
from .policies import BUILT_IN, CACHE_POLICIES, Entry
from .store import MemoryTiers, tiers_of

Custom = Callable[[Entry], float] | None

LRU, FIFO, LFU, RANDOM, BELADY = (BUILT_IN.index(name) for name in ("lru", "fifo", "lfu", "random", "belady"))
FROM_OUTSIDE = -1

CHANCE_SEED, NAME_SEED = 0xCAC4E, 0x9A3ED
"""Seeds for random eviction and for predictors, separate from expert loads."""

_lru = compiled_part(policies.lru)
_fifo = compiled_part(policies.fifo)
_lfu = compiled_part(policies.lfu)
_random = compiled_part(policies.random)
_belady = compiled_part(policies.belady)
_predictive = compiled_part(policies.predictive)  # and transient, which differs in what it keeps


def policy_code(name: str) -> int:
    """Return the number of a built-in policy; `FROM_OUTSIDE` for user-defined ones."""
    return BUILT_IN.index(name) if name in BUILT_IN else FROM_OUTSIDE


def custom_policy(name: str) -> Custom:
    """Return a compiled user-defined policy; None for policies of the library.

    Raises
    ------
    InputError
        Numba cannot compile it.
    """
    if name in BUILT_IN:
        return None
    fields = (*(types.int64,) * 3, types.float64, types.boolean, types.float64)
    return compiled_from_outside(CACHE_POLICIES[name].score, Entry, fields, f"--expert-cache {name}")


@compiled_part
def built_in_policy(custom: None, policy: int, entry: Entry) -> float:
    """Return the score of an entry under a built-in policy."""
    if policy == LRU:
        return _lru(entry)
    if policy == FIFO:
        return _fifo(entry)
    if policy == LFU:
        return _lfu(entry)
    if policy == RANDOM:
        return _random(entry)
    if policy == BELADY:
        return _belady(entry)
    return _predictive(entry)


@compiled_given("custom", otherwise=built_in_policy)
def policy_score(custom: Callable[[Entry], float], policy: int, entry: Entry) -> float:
    """Return the score of an entry under a policy; `custom` is a user-defined policy or None."""
    return custom(entry)


@compiled_part
def drawn_number(key: np.uint64, part: int, expert: int) -> float:
    """Return a number from 0 to 1 for an expert of a part; `key` comes from `step_key`."""
    return uniform01(mix(layer_key(key, part) + np.uint64(expert) * GOLDEN))


@compiled
def draw_numbers(seed: int, replica: int, step: int, part: int, out: npt.NDArray[np.float64]) -> None:
    """`drawn_number` of all experts of a part, for callers outside compiled code."""
    key = step_key(seed, replica, step)
    for e in range(out.size):
        out[e] = drawn_number(key, part, e)


def chances_of(seed: int, replica: int, part: int, experts: int) -> Callable[[int, Sequence[int]], list[float]]:
    """Return the seed of the victims of one part's caches; see `cache.Chances`."""
    out = np.empty(experts)

    def chances(clock: int, held: Sequence[int]) -> list[float]:
        draw_numbers(seed ^ CHANCE_SEED, replica, clock, part, out)
        return [float(out[e]) for e in held]

    return chances


def named_by(
    seed: int, replica: int, step: int, part: int, needed: npt.NDArray[np.bool_], accuracy: float, false_rate: float
) -> npt.NDArray[np.bool_]:
    """Return the experts that a predictor of given accuracy names for a step, shape (experts,).

    Parameters
    ----------
    needed : bool array, shape (experts,)
        Experts that the step uses.
    accuracy, false_rate : float
        Probability that it names an expert that is needed, and one that is not.
    """
    out = np.empty(len(needed))
    draw_numbers(seed ^ NAME_SEED, replica, step, part, out)
    return np.asarray(out < np.where(needed, accuracy, false_rate))


F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]

ENTRY = named("held loaded used uses", "")
"""Whether an expert is in its device's cache; see `Entry`."""

FETCHED = named("", "needed hits misses ahead bytes far_bytes link_s wait_s")
"""Summed over layers and steps: experts that devices needed, that were there, that were fetched when they were needed and
before; bytes fetched, those from the disk; seconds that the busiest link of a part was busy, and that its layers
waited."""

CLOCK = named("stage", "now free began dense")
"""Times of one step on one pipeline stage, and which it is: now, when the link to the host is free, when the layer
before began; seconds of a layer without its experts."""


@by_address
class Fetch(NamedTuple):
    """Constants of a deployment's expert cache, for X expert parts and E experts."""

    slots: I8  # [X] of a layer, on each device that holds different experts; 0 = all of them always there
    sizes: F8  # [X] bytes of an expert
    seconds: F8  # [X, E] of fetching it
    far: B1  # [X, E] whether it lies on the disk
    layers: I8  # [stages] MoE layers of a stage
    policy: int  # code of a policy of the library
    custom: Custom  # a policy from outside, compiled; None = of the library
    drawn: bool
    keeps: bool
    look_ahead: int  # steps; 0 = the policy does not ask
    accuracy: float
    false_rate: float
    step_ahead: bool  # whether a predictor speaks before the first layer


@by_address
class ExpertCacheState(NamedTuple):
    """Content and counters of one engine's expert caches."""

    entries: npt.NDArray[Any]  # [X, E] of `ENTRY`
    clocks: I8  # [X, G] accesses of each group's cache
    held: I8  # [X, G] experts in it
    needed: B1  # [E] of the step and part at hand
    named: B1  # [E]
    next_use: F8  # [E]
    loads: I8  # [E] draws of steps ahead
    clock: npt.NDArray[Any]  # [1] of `CLOCK`
    totals: Records  # [X] of `FETCHED`


def fetch_of(deployment: Deployment) -> Fetch | None:
    """Return the expert cache of a deployment; None if it has none."""
    store = deployment.parts.get("resident-experts")
    if store is None or not deployment.experts:
        return None
    tiers = tiers_of(deployment.system.device)
    widest = max(max(p.spec.routed.experts, p.held * p.ep) for p in deployment.experts)
    shape = (len(deployment.experts), widest)
    seconds, far = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    sizes = np.array([part.expert_bytes(deployment.run) for part in deployment.experts])
    near = near_of(deployment, tiers)
    layers = np.zeros(deployment.layout.pp, dtype=np.int64)
    for x, part in enumerate(deployment.experts):
        if part.kept:
            continue
        far[x] = far_of(part, near[x], widest)
        seconds[x] = [tiers.seconds(sizes[x], bool(on_disk)) for on_disk in far[x]]
        layers[part.stage] += part.layers
    return Fetch(
        slots=np.array([0 if p.kept else store.slots(p.held, deployment.system.name) for p in deployment.experts]),
        sizes=sizes,
        seconds=seconds,
        far=far,
        layers=np.maximum(layers, 1),
        policy=policy_code(store.policy),
        custom=custom_policy(store.policy),
        drawn=store.rule.drawn,
        keeps=store.rule.keeps,
        look_ahead=store.look_ahead if store.rule.looks_ahead else 0,
        accuracy=store.accuracy,
        false_rate=store.false_rate,
        step_ahead=store.horizon == "step",
    )


def near_of(deployment: Deployment, tiers: MemoryTiers) -> list[int]:
    """Return the experts of each part, per device, in host memory (not on disk).

    Raises
    ------
    CapacityError
        Host and disk do not hold them.
    """
    out = []
    for part in deployment.experts:
        stage_parts = [p for p in deployment.experts if p.stage == part.stage and not p.kept]
        if part.kept:
            out.append(part.held)
            continue
        experts = sum(p.held * p.layers for p in stage_parts)
        total_bytes = sum(p.held * p.layers * p.expert_bytes(deployment.run) for p in stage_parts)
        near = tiers.near(total_bytes / experts, experts)
        out.append(part.held * near // experts)
    return out


def far_of(part: ExpertPart, near: int, widest: int) -> B1:
    """Return which experts of a part are on disk: the least popular ones of each device."""
    per_device, popularity = part.held, part.router.prob[part.row]
    if part.placed is not None:
        popularity = popularity[part.placed.experts] * part.placed.share.reshape(-1)
    out = np.zeros(widest, dtype=np.bool_)
    for first in range(0, per_device * part.ep, per_device):
        order = np.argsort(-popularity[first : first + per_device], kind="stable")
        out[first + order[near:]] = True
    return out


def new_shelf(fetch: Fetch, experts: Records) -> ExpertCacheState:
    """Return an engine's initial caches, each with the first experts of its device; `experts` are the plan's."""
    parts, widest = fetch.seconds.shape
    entries = records(parts * widest, ENTRY).reshape(parts, widest)
    full = np.zeros((parts, int(experts.groups.max())), dtype=np.int64)
    if fetch.keeps:
        for x, part in enumerate(experts):
            for g in range(part.groups):
                first = g * part.held
                entries.held[x, first : first + fetch.slots[x]] = 1
                full[x, g] = fetch.slots[x]
    return ExpertCacheState(
        entries=entries,
        clocks=np.zeros_like(full),
        held=full,
        needed=np.zeros(widest, dtype=np.bool_),
        named=np.zeros(widest, dtype=np.bool_),
        next_use=np.zeros(widest),
        loads=np.zeros(widest, dtype=np.int64),
        clock=records(1, CLOCK),
        totals=records(parts, FETCHED),
    )


def layer_wait(clock: Any, ahead_s: float, now_s: float, experts_s: float, step_ahead: bool) -> float:
    """Return the seconds that one MoE layer waits for experts, and advance the step's clock past the layer.

    The host link fetches one expert after another. A predicted expert is fetched when it is predicted and the link is
    free: before the first layer of the step, or at the start of the previous layer. It overlaps with computation until
    this layer needs its experts. Other experts are fetched after the gate, and the layer waits. Computation is the
    layer's dense part, an equal share of the stage's, then its experts.

    Parameters
    ----------
    clock : record of `CLOCK`
    ahead_s, now_s : float
        Seconds of fetching what was known ahead, and what was not.
    experts_s : float
        Seconds of the layer's experts.
    """
    began = clock.now
    now = began + clock.dense
    waited = 0.0
    if ahead_s > 0.0:
        known = 0.0 if step_ahead else clock.began
        clock.free = max(clock.free, known) + ahead_s
        waited = max(clock.free - now, 0.0)
    if now_s > 0.0:
        clock.free = max(clock.free, now + waited) + now_s
        waited = clock.free - now
    clock.began = began
    clock.now = now + waited + experts_s
    return float(waited)


compiled_wait = compiled_part(layer_wait)
