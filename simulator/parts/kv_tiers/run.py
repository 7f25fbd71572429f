"""KV cache tiers of an engine: supported policies and models, capacities in blocks, state, and reported values of a run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....workloads.errors import CapacityError, InputError
from ....workloads.jit import compiled
from ....workloads.records import summed
from ....workloads.requests import RequestBlock
from ...deploy.deployment import Deployment
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart
from ...engine.kv import MOST_BLOCKS, CacheSettings, KvRules, kv_rules, rank_rules
from ...engine.policies import Policy
from ...engine.prefix import new_pool
from ...engine.state import Contents, Face
from ...fleet.pools import Pools
from ...fleet.run_state import RunState
from ...quantity import Figures, Quantity, ratio
from ...results.record import Run
from ...step.step_totals import new_step_totals
from ...step.timed import Lowered
from . import hooks, loads, store
from .settings import KvTier, TierSettings
from .state import F8, Shelves, TierState, new_shelves, new_tiers, roomier_rows, with_rows
from .store import erase

OPTION = "--kv-tiers"


def block_bytes(deployment: Deployment, cache: CacheSettings) -> float:
    """Return the KV bytes of one block, summed over the devices of a rank [B]."""
    return float(rank_rules(deployment, cache).block_bytes[0]) * deployment.layout.tp


def check_tiers(deployment: Deployment, policy: Policy, kv_rules: KvRules) -> None:
    """Reject policies, models and systems that KV cache tiers do not support.

    Raises
    ------
    InputError
        Names the unsupported policy, model or system.
    """
    for wrong, what in (
        (not policy.caching, f"policy {policy.name}, which has no prefix cache; use --policy vllm"),
        (
            policy.prompts_alone or policy.poll_steps > 1 or policy.holds_back,
            f"policy {policy.name}, which delays prompts or runs them in separate steps; use --policy vllm",
        ),
        (deployment.system.mapping.separate, f"the separate processors of {deployment.system.name}"),
    ):
        if wrong:
            raise InputError(OPTION, f"is not simulated with {what}")
    if not kv_rules.cached or kv_rules.window.size > 1 or kv_rules.constant > 0.0:
        reason = "has layers with windows or constant states, whose blocks cannot be reused"
        raise InputError(OPTION, f"cannot keep blocks of {deployment.model.name}: it {reason}")


def rooms(deployment: Deployment, cache: CacheSettings, settings: TierSettings) -> list[int]:
    """Return the capacity of each tier in blocks: per rank, or in total for a shared pool.

    Raises
    ------
    CapacityError
        A tier is smaller than a block.
    InputError
        A tier has more blocks than can be tracked.
    """
    block_size, out = block_bytes(deployment, cache), []
    for tier in settings.tiers:
        share = 1 if tier.shared else deployment.ranks
        blocks = int(tier.capacity_bytes / share / block_size * (1 + 1e-12))
        name = f"{OPTION} {tier.name}"
        if blocks < 1:
            whose = "" if share == 1 else f" for each of {share} ranks"
            raise CapacityError(
                name, f"is smaller than a block{whose}: {block_size / 2**20:.3g} MiB of "
                f"{cache.block_tokens} tokens needed, {tier.capacity_bytes / share / 2**20:.3g} MiB available",
            )  # fmt: skip
        if blocks > MOST_BLOCKS:
            most = MOST_BLOCKS * block_size * share / 2**40
            reason = f"has {blocks:,} blocks; at most {MOST_BLOCKS:,} are tracked: {most:.3g} TiB"
            raise InputError(name, reason)
        out.append(blocks)
    return out


@dataclass(frozen=True, slots=True)
class Common:
    """State that engines with a shared pool have in common."""

    shelves: Shelves  # stores of all these engines
    # numbers of the block hashes in a trace
    names: dict[Hashable, int] = field(default_factory=dict)


def common_of(pools: Pools, policy: Policy, cache: CacheSettings | None) -> Common | None:
    """Return the stores of all engines that compute prompts, if they share a tier; else None."""
    settings, nodes = None if cache is None else cache.tiers, pools.entry
    if cache is None or settings is None or len(nodes) == 1:
        return None
    if not any(tier.shared for tier in settings.tiers):
        return None
    d = nodes[0]
    check_tiers(d, policy, kv_rules(d, cache, policy.caching))
    return Common(_stores(settings.tiers, rooms(d, cache, settings), d.ranks, len(nodes)))


def _stores(tiers: Sequence[KvTier], blocks: Sequence[int], ranks: int, engines: int) -> Shelves:
    """Build the empty stores: private tiers by engine and rank, then the shared tiers."""
    sizes = [n for n, tier in zip(blocks, tiers, strict=True) if not tier.shared] * ranks * engines
    return new_shelves(sizes + [n for n, t in zip(blocks, tiers, strict=True) if t.shared])


@dataclass(slots=True)
class Below(EnginePart):
    """KV cache tiers below the device memory of one engine."""

    hooks = (hooks.HOOKS, loads.HOOKS, store.HOOKS)

    settings: TierSettings
    blocks: list[int]  # capacity of each tier, see `rooms`
    block_bytes: float  # bytes of a block on all devices of a rank
    tiers: TierState  # tier arrays before the first request
    names: dict[Hashable, int]  # numbers of the block hashes in a trace; they outlast failures
    model: Lowered | None  # cost model of computing the tokens instead; None unless loads are compared with it
    life: int = 0  # failures so far

    @property
    def room(self) -> int:  # type: ignore[override]
        """Number of blocks that all tiers of the engine can store; shared tiers count in full."""
        stores = self.tiers.shelves.stores
        return int(stores.room[np.unique(self.tiers.which)].sum())

    def start(self, engine: Engine) -> TierState:
        """Return the tiers without requests; double the engine's slots, since loading requests need slots too."""
        state, blocks, slots = engine.state, engine.kv.blocks, 2 * engine.policy.max_sequences
        ranks = len(state.ranks)
        state.ranks.slots = slots
        engine.state = state._replace(pool=new_pool(ranks, blocks, slots))
        engine.contents = Contents(self.names)
        return self.tiers._replace(out_s=np.zeros((ranks, blocks)))

    def add(self, engine: Engine, block: RequestBlock, before: int) -> None:
        engine.put("kv-tiers", with_rows(engine.parts["kv-tiers"], before, engine.submitted - before))

    def grow(self, engine: Engine, before: int, size: int) -> None:
        engine.put("kv-tiers", roomier_rows(engine.parts["kv-tiers"], before, size))

    def stock(self, engine: Engine) -> None:
        tiers = engine.parts["kv-tiers"]
        if len(tiers.levels) < engine.width:
            engine.put("kv-tiers", tiers._replace(levels=np.zeros(engine.width, dtype=np.int64)))

    def face(self, engine: Engine, face: Face) -> Face:
        return face._replace(links=engine.parts["kv-tiers"].free_s)

    def recover(self, engine: Engine) -> None:
        engine.stock()

    def fail(self, engine: Engine, now: float) -> None:
        """Clear the engine's private tiers and the blocks that it was still writing to shared tiers."""
        old: TierState = engine.parts["kv-tiers"]
        x, self.life = old.shelves, self.life + 1
        for level, tier in enumerate(self.settings.tiers):
            for s in old.which[:, level].tolist():
                if tier.shared:
                    purge(x, s, old.owner, now)
                else:
                    _clear(x, s)
        new = new_tiers(self.settings, x, old.which, old.pace, self.model, old.owner, self.life, old.piped)
        old.seconds[0].held_until = 0.0
        self.tiers = new._replace(
            worth=old.worth, link_s=old.link_s, counts=old.counts, totals=old.totals, seconds=old.seconds
        )


def of_engine(engine: Engine) -> Below | None:
    """Build the empty tiers of an engine; return None if its pool only decodes."""
    d, kv, cache, index = engine.deployment, engine.kv, engine.cache, engine.replica
    common: Common | None = engine.given.get("kv-tiers")
    settings = cache.tiers
    if settings is None:  # of a pool that only decodes
        return None
    check_tiers(d, engine.policy, kv)
    tiers, blocks = settings.tiers, rooms(d, cache, settings)
    near = sum(not tier.shared for tier in tiers)
    first = 0 if common is None else index * near * d.ranks
    common = common or Common(_stores(tiers, blocks, d.ranks, 1))
    shelves, which = common.shelves, np.zeros((d.ranks, len(tiers)), dtype=np.int64)
    last = len(shelves.stores) - (len(tiers) - near)
    for level, tier in enumerate(tiers):
        before = sum(other.shared == tier.shared for other in tiers[:level])
        private = first + before + near * np.arange(d.ranks)
        which[:, level] = last + before if tier.shared else private
    pace = np.array([(kv.block_bytes[0] / x.bandwidth_bytes_per_s, x.latency_s) for x in tiers])
    cheaper = settings.load == "cheaper"
    model = Lowered(engine.plan, new_step_totals(engine.plan)) if cheaper else None
    made = new_tiers(settings, shelves, which, pace, model, index, 0, engine.plan.stages > 1)
    return Below(settings, blocks, block_bytes(d, cache), made, common.names, model)


def _clear(shelves: Shelves, store: int) -> None:
    """Clear a store; its peak number of blocks is kept."""
    row = shelves.stores[store]
    row.used = row.held = 0
    shelves.table[row.table : row.table + row.mask + 1] = 0
    head = row.first + row.room
    shelves.entries.next[head] = shelves.entries.previous[head] = head


@compiled
def purge(shelves: Shelves, store: int, owner: int, now: float) -> None:
    """Remove the blocks that a failed engine was still writing to a store at `now` [s]."""
    row = shelves.stores[store]
    for e in range(row.first, row.first + row.used):
        if shelves.entries[e].key != 0 and shelves.entries[e].owner == owner and shelves.came[e] > now:
            erase(shelves, store, shelves.entries[e].key)
            shelves.entries[e].key = 0
            row.held -= 1


@dataclass(frozen=True, slots=True)
class TierRun:
    """Results of one tier in a run, summed over engines.

    Attributes
    ----------
    capacity_bytes, peak_bytes : float
        Capacity in complete blocks, and the largest amount stored, over all replicas [B].
    hit_tokens : int
        Prompt tokens whose blocks were loaded from the tier.
    loaded_bytes, stored_bytes, evicted_bytes, prefetched_bytes : float
        Bytes moved to the devices, written to the tier, evicted from it, and copied to it ahead of a request [B].
    up_s, down_s : float
        Busy time of a device's link to the devices and from them [s].
    """

    tier: KvTier
    capacity_bytes: float
    peak_bytes: float
    hit_tokens: int
    loaded_bytes: float
    stored_bytes: float
    evicted_bytes: float
    prefetched_bytes: float
    up_s: float
    down_s: float
    hit_rate: float | None


@dataclass(frozen=True, slots=True)
class TiersRun:
    """Results of the KV cache tiers in a run, summed over engines.

    Attributes
    ----------
    near_tokens, declined_tokens : int
        Prompt tokens found in device memory; tokens found in a tier but computed again.
    loads : int
        Requests that waited for a load; a preempted request that loads again counts again.
    waited_s, longest_s : float
        Sum and maximum of the waiting times [s].
    held_s : float
        Time that steps waited for copies of the blocks that they overwrite [s].
    """

    settings: TierSettings
    tiers: tuple[TierRun, ...]
    near_tokens: int
    declined_tokens: int
    loads: int
    waited_s: float
    longest_s: float
    held_s: float
    hit_rate: float | None
    near_rate: float | None

    @classmethod
    def of(cls, belows: Sequence[tuple[Below, TierState, int]], found_tokens: int, asked_tokens: int) -> TiersRun:
        """Return the results of engines' tiers; each entry has the tier, its state and the tokens of a block.

        `found_tokens` of the `asked_tokens` prompt tokens were found in any cache; both count again after a preemption.
        """
        (first, _, block), size = belows[0], belows[0][0].block_bytes
        states = [tiers for _, tiers, _ in belows]
        link_s: F8 = np.sum([t.link_s for t in states], axis=0)
        seconds, totals = summed([t.seconds for t in states]), summed([t.totals for t in states])
        tier_runs = []
        for level, tier in enumerate(first.settings.tiers):
            n, stores = summed([t.counts[level : level + 1] for t in states]), {
                (id(t.shelves.stores), s) for t in states for s in t.which[:, level].tolist()
            }  # fmt: skip
            whose = {id(t.shelves.stores): t.shelves.stores for t in states}
            rows = [whose[where][s] for where, s in stores]
            tier_runs.append(TierRun(
                tier, float(sum(row.room for row in rows)) * size, float(sum(row.peak for row in rows)) * size,
                n.loaded * block, n.loaded * size, n.stored * size, n.evicted * size,
                n.prefetched * size, float(link_s[level, 0]), float(link_s[level, 1]),
                ratio(n.loaded * block, asked_tokens),
            ))  # fmt: skip
        return cls(
            first.settings, tuple(tier_runs), int(totals.found) * block,
            int(totals.declined) * block, int(totals.loads), float(seconds.waited),
            max(float(t.seconds[0].longest) for t in states), float(seconds.held),
            ratio(found_tokens, asked_tokens), ratio(int(totals.found) * block, asked_tokens),
        )  # fmt: skip


def tiers_left(run: Run, served: RunState, *_: object) -> TiersRun | None:
    """Return the results of the KV cache tiers in a run; None if no engine has tiers."""
    by_engine = [(e.does.get("kv-tiers"), e) for e in served.engines]
    belows = [(below, e.parts["kv-tiers"], e.kv.block) for below, e in by_engine if isinstance(below, Below)]
    return TiersRun.of(belows, run.cached_tokens, run.prompt_tokens + run.cached_tokens) if belows else None


def _rate(name: str, where: str) -> Quantity:
    """Declare the share of the requested prompt tokens that one tier supplied; its value is None without the tier."""

    def value(run: TiersRun) -> float | None:
        return next((tier.hit_rate for tier in run.tiers if tier.tier.name == name), None)

    return Quantity(f"kv_hit_rate_{name}", f"Share that came from {where}.", value, column=True)


TIER = (
    Quantity("name", "Name of the tier.", "tier.name", label="tier"),
    Quantity("capacity_bytes", "Capacity of the tier [B].", unit="B", label="size"),
    Quantity("peak_bytes", "Largest number of bytes stored in the tier [B].", unit="B", label="peak"),
    Quantity("bandwidth_bytes_per_s", "Bandwidth of the tier's link per device, one way [B/s].",
             lambda t: t.tier.bandwidth_bytes_per_s if t.tier.paced else None, "B/s", "link"),
    Quantity("latency_s", "Latency of one transfer [s].", "tier.latency_s", "s", "latency"),
    Quantity("link", "Source of bandwidth and latency.", "tier.source"),
    Quantity("hit_tokens", "Prompt tokens loaded from the tier."),
    Quantity("hit_rate", "Prompt tokens loaded from the tier over all prompt tokens.", unit="%", label="hits"),
    Quantity("loaded_bytes", "Bytes loaded from the tier [B].", unit="B", label="loaded"),
    Quantity("stored_bytes", "Bytes written to the tier [B].", unit="B", label="stored"),
    Quantity("evicted_bytes", "Bytes evicted from the tier [B]."),
    Quantity("prefetched_bytes", "Bytes prefetched to the tier from lower tiers [B]."),
    Quantity("link_up_s", "Time that the tier's link was busy with loads [s].", "up_s"),
    Quantity("link_down_s", "Time that the tier's link was busy with writes [s].", "down_s"),
)  # fmt: skip
FIGURES = Figures("kv_tiers", "KV cache tiers", (
    Quantity("write", "When blocks are written to tiers.", "settings.write", label="write"),
    Quantity("load", "When blocks are loaded from tiers.", "settings.load", label="load"),
    Quantity("prefetch", "Whether blocks are prefetched to the first tier.", "settings.prefetch"),
    Quantity("hit_rate", "Prompt tokens found in device memory or a tier over all prompt tokens.", unit="%", label="prompt tokens found"),
    Quantity("hbm", "Hits in device memory.", lambda r: r, inside=(
        Quantity("hit_tokens", "Prompt tokens found in device memory.", "near_tokens"),
        Quantity("hit_rate", "Prompt tokens found in device memory over all prompt tokens.", "near_rate", "%", "of them in HBM"),
    )),
    Quantity("tiers", "Values of each tier.", inside=TIER),
    Quantity("declined_tokens", "Prompt tokens found in a tier but recomputed, because that was faster.", label="tokens computed sooner"),
    Quantity("loads", "Requests that loaded blocks from a tier.", label="loads"),
    Quantity("load_wait_s_mean", "Mean time from the request of a load to its completion [s].",
             lambda r: ratio(r.waited_s, r.loads), "s", "mean load"),
    Quantity("load_wait_s_max", "Longest time from the request of a load to its completion [s].", "longest_s", "s", "longest load"),
    Quantity("load_wait_s_total", "Sum of the times from the request of a load to its completion [s].", "waited_s"),
    Quantity("steps_held_s", "Time that steps waited for copies of the blocks that they overwrite [s].", "held_s", "s", "steps waited"),
), (
    Quantity("kv_hit_rate", "Prompt tokens found in device memory or a tier over all prompt tokens.", "hit_rate", column=True),
    Quantity("kv_hit_rate_hbm", "Prompt tokens found in device memory over all prompt tokens.", "near_rate", column=True),
    _rate("host", "the host's memory"), _rate("disk", "the disk"), _rate("shared", "the shared pool"),
    Quantity("kv_loaded_bytes", "Bytes loaded from all tiers [B].", lambda r: sum(t.loaded_bytes for t in r.tiers), column=True),
    Quantity("kv_stored_bytes", "Bytes written to all tiers [B].", lambda r: sum(t.stored_bytes for t in r.tiers), column=True),
    Quantity("kv_load_wait_s_mean", "Mean time from the request of a load to its completion [s].",
             lambda r: ratio(r.waited_s, r.loads), column=True),
    Quantity("kv_steps_held_s", "Time that steps waited for copies of the blocks that they overwrite [s].", "held_s", column=True),
), "kv_tiers", "it is of a KV cache with tiers (kv_tiers)")  # fmt: skip
