"""The slow scheduler with KV cache tiers: dictionaries in order of use, one step and one block at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opbyte.workloads.batch import Batch

from .reference import Blocks, ByPriority, Pipeline, Rank, Reference, Request, Verifying
from .reference_engine import LoweredModel, with_host

Name = tuple[object, ...]


@dataclass
class Tier:
    """What one tier keeps, least recently used first, and when it is there."""

    room: int
    block_s: float
    latency_s: float
    worth: bool = True
    items: OrderedDict[Name, float] = field(default_factory=OrderedDict)
    up: float = 0.0
    down: float = 0.0
    loaded: int = 0
    stored: int = 0
    evicted: int = 0
    prefetched: int = 0
    ever: set[Name] = field(default_factory=set)

    def raise_up(self, begin: float, count: int) -> float:
        self.up = max(self.up, begin) + count * self.block_s
        return self.up + self.latency_s


@dataclass
class Tiered(Blocks):
    """Blocks of one rank with tiers below them."""

    tiers: list[Tier] = field(default_factory=list)
    through: bool = True
    now: float = 0.0
    held: float = 0.0  # before when the next step cannot begin
    out: dict[int, float] = field(default_factory=dict)  # when a block's first copy is there
    written: dict[int, int] = field(default_factory=dict)  # blocks of a request written through

    def copy(self, level: int, name: Name, now: float) -> float | None:
        """Write a block to a level; when it is there, None where it was."""
        if level == len(self.tiers):
            return now
        tier = self.tiers[level]
        if not tier.worth:
            return now if self.through else self.copy(level + 1, name, now)
        if name in tier.items:
            tier.items.move_to_end(name)
            return None
        begin = now
        if len(tier.items) == tier.room:
            out, came = tier.items.popitem(last=False)
            tier.evicted += 1
            if not self.through:
                ready = self.copy(level + 1, out, max(now, came))
                begin = now if ready is None else max(now, ready)
                if not any(t.worth for t in self.tiers[level + 1 :]):
                    begin = now
        tier.down = max(tier.down, begin) + tier.block_s
        tier.items[name] = tier.down + tier.latency_s
        tier.stored += 1
        tier.ever.add(name)
        return tier.items[name]

    def leave(self, b: int, name: Name) -> None:
        """The last copy of a content is about to be written over."""
        if self.through:
            self.held = max(self.held, self.out.get(b, 0.0))
            return
        ready = self.copy(0, name, self.now)
        if ready is None:
            ready = self.tiers[0].items[name]
        self.held = max(self.held, ready)

    def pop(self) -> int:
        """Hand out the block that was freed longest ago."""
        b = self.free.pop(0)
        for name, same in self.content.items():
            if b in same:
                if same == [b]:
                    self.leave(b, name)
                same.remove(b)
        self.out[b] = 0.0
        self.users[b] = 1
        return b

    def hold(self, request: Request, tokens: int) -> bool:
        more = self.blocks_of(tokens) - len(request.blocks)
        if more > len(self.free):
            return False
        request.blocks += [self.pop() for _ in range(more)]
        return True

    def write(self, request: Request, tokens: int) -> None:
        """Copy the blocks that are full to all tiers."""
        first = self.written.get(request.index, 0)
        for j in range(first, tokens // self.block) if self.through else ():
            name, ends = self.name(request, j), []
            for level, tier in enumerate(self.tiers):
                if tier.worth:
                    self.copy(level, name, self.now)
                    ends.append(tier.items[name])
            self.out[request.blocks[j]] = min(ends, default=0.0)
        self.written[request.index] = max(first, tokens // self.block)

    def note(self, request: Request, tokens: int) -> None:
        self.write(request, request.cached)
        self._note_until(request, tokens // self.block)

    def drop(self, request: Request) -> None:
        self._note_until(request, request.known // self.block)
        self.write(request, request.known)
        self.written[request.index] = 0
        super().drop(request)

    def look(self, request: Request) -> list[int | Tier]:
        """Leading blocks that are anywhere: a block, or the tier that has it."""
        out: list[int | Tier] = []
        for j in range((request.target - 1) // self.block):
            name = self.name(request, j)
            same = self.content.get(name)
            where = [t for t in self.tiers if name in t.items]
            if not same and not where:
                break
            out.append(same[0] if same else where[0])
        return out

    def load_end(self, request: Request, found: Sequence[int | Tier]) -> float:
        """When blocks would be there if their load began now."""
        end = self.now
        for tier in self.tiers:
            names = [self.name(request, j) for j, x in enumerate(found) if x is tier]
            if names:
                begin = max([self.now, tier.up, *(tier.items[n] for n in names)])
                end = max(end, begin + len(names) * tier.block_s + tier.latency_s)
        return end

    def take_over(self, request: Request, found: Sequence[int | Tier], whole: int) -> float | None:
        """Give a request what it found; when it is there, None where the rest does not fit."""
        near = [x for x in found if isinstance(x, int)]
        if self.blocks_of(whole) - len(near) > len([b for b in self.free if b not in near]):
            return None
        end = self.now
        for tier in self.tiers:
            names = [self.name(request, j) for j, x in enumerate(found) if x is tier]
            begin = max([self.now, *(tier.items[n] for n in names)])
            for name in names:
                assert name in tier.ever, "loaded, never stored"
                tier.items.move_to_end(name)
            if names:
                tier.loaded += len(names)
                end = max(end, tier.raise_up(begin, len(names)))
        for b in near:
            if b in self.free:
                self.free.remove(b)
            self.users[b] = self.users.get(b, 0) + 1
        request.blocks = [x if isinstance(x, int) else self.pop() for x in found]
        return end

    def landed(self, request: Request, found: int) -> None:
        """Note what blocks hold that a request found."""
        for j in range(found):
            b, name = request.blocks[j], self.name(request, j)
            if not any(b in same for same in self.content.values()):
                self.content.setdefault(name, []).append(b)
        request.noted = found

    def prefetch(self, request: Request) -> None:
        """Bring what an arriving request will find below the first tier to it."""
        for j in range(min(request.target - 1, request.hashed) // self.block):
            name = self.name(request, j)
            if self.content.get(name):
                continue
            where = [t for t in self.tiers if name in t.items]
            if not where:
                return
            where[0].items.move_to_end(name)
            if where[0] is self.tiers[0]:
                continue
            first, at = self.tiers[0], request.arrival
            there = where[0].raise_up(max(at, where[0].items[name]), 1)
            first.prefetched += 1
            first.ever.add(name)
            if len(first.items) == first.room:
                out, came = first.items.popitem(last=False)
                first.evicted += 1
                if not self.through:
                    begin = max(at, came)
                    ready = self.copy(1, out, begin)
                    if ready is None:
                        ready = next(t for t in self.tiers[1:] if t.worth).items[out]
                    there = max(there, ready)
            first.items[name] = there


@dataclass
class TieredReference(Reference):
    """The scheduler whose waiting requests load: `kv_tiers.hooks` and `loads` in the plainest way."""

    cheaper: bool = False
    ahead_of: bool = False  # prefetch at arrival
    loading: list[tuple[Rank, Request, int, float, float]] = field(default_factory=list)
    there: list[tuple[Rank, Request, int]] = field(default_factory=list)
    loads: int = 0
    longest: int = 0
    waited: float = 0.0
    stood: float = 0.0
    prices: dict[tuple[int, int], float] = field(default_factory=dict)

    def come_near(self, rank: Rank, request: Request) -> None:
        """What follows for tiers when a request arrives."""
        longest = request.input + request.output
        if self.cheaper and longest > self.longest:
            self.longest, tokens = longest, self.policy.token_budget
            start = max(longest - tokens, 0)
            takes = self.price(start, start + tokens) * self.kv(rank).block / tokens
            for tier in (tier for kv in self.memories for tier in kv.tiers):
                tier.worth = tier.worth or tier.block_s <= takes
        if self.ahead_of:
            self.kv(rank).prefetch(request)

    def kv(self, rank: Rank) -> Tiered:
        assert isinstance(rank.kv, Tiered)
        return rank.kv

    def least_loaded(self, ranks: Sequence[Rank]) -> Rank:
        weight = self.policy.waiting_load
        return min(ranks, key=lambda r: len(r.running) + weight * (len(r.waiting) + self.away(r)))

    def away(self, rank: Rank) -> int:
        """Requests whose blocks are on their way or there."""
        return sum(x[0] is rank for x in (*self.loading, *self.there))

    def tell(self, ranks: Sequence[Rank]) -> None:
        for rank in ranks:
            self.kv(rank).now = self.now

    def take(self, ranks: Sequence[Rank], to_come: list[Request]) -> None:
        self.tell(ranks)
        rank, request = self.least_loaded(ranks), to_come.pop(0)
        self.queue(rank, request)
        self.come_near(rank, request)

    def sleep(self, to_come: list[Request]) -> None:
        """Until a load has ended, or a request comes."""
        ends = [end for *_, end in self.loading]
        assert ends, "no sequence can make progress"
        self.now = self.known = max(self.now, min([*ends, *(r.arrival for r in to_come[:1])]))

    def step(self, ranks: Sequence[Rank], plans: list[LoweredModel]) -> None:
        held = max(self.kv(rank).held for rank in ranks)
        self.stood += max(held - self.now, 0.0)
        self.now = max(self.now, held)
        super().step(ranks, plans)
        self.tell(ranks)

    def plans(self, ranks: Sequence[Rank], closed: bool) -> list[LoweredModel]:
        self.tell(ranks)
        plans = []
        for rank in ranks:
            self.land(rank)
            plans.append(self.plan(rank, closed))
        return plans

    def land(self, rank: Rank) -> None:
        """Loads that a plan knows to have ended."""
        ended = [x for x in self.loading if x[0] is rank and x[4] <= self.known]
        self.loading = [x for x in self.loading if x not in ended]
        for _, request, found, begun, end in ended:
            self.waited += end - begun
            self.kv(rank).landed(request, found)
            self.there.append((rank, request, found))

    def price(self, start: int, end: int) -> float:
        """Seconds of computing a prompt's tokens alone, the same at every plan."""
        if (start, end) not in self.prices:
            self.prices[start, end] = self.computed(start, end)
        return self.prices[start, end]

    def computed(self, start: int, end: int) -> float:
        seconds = 0.0
        while start < end:
            q = min(end - start, self.policy.token_budget) if self.policy.chunked else end - start
            batches = [Batch.of(chunks=[(q, start)])]
            batches += [Batch.of()] * (len(self.memories) - 1)
            step = float(self.cost(batches, 0))
            seconds += with_host(self.policy, self.launches, batches, [step])[0]
            start += q
        return seconds

    def wanted(self, kv: Tiered, request: Request, found: list[int | Tier]) -> list[int | Tier]:
        """What of the found blocks is loaded."""
        if not self.cheaper:
            return found
        cuts = [found]
        for level in reversed(range(len(kv.tiers))):
            deeper = [j for j, x in enumerate(found) if x in kv.tiers[level:]]
            cuts.insert(0, found[: deeper[0]] if deeper else found)
        best, soonest = cuts[0], self.price(len(cuts[0]) * kv.block, request.target)
        for cut in cuts[1:]:
            if len(cut) > len(best):
                takes = kv.load_end(request, cut) - self.now
                takes += self.price(len(cut) * kv.block, request.target)
                if takes < soonest:
                    best, soonest = cut, takes
        return best

    def first_there(self, rank: Rank, head_fits: bool) -> tuple[Rank, Request, int] | None:
        """The request with its blocks there that is admitted next, if it is one.

        One that goes before it keeps it waiting, unless that has no place and nothing runs whose end would give it one.
        """
        mine = [x for x in self.there if x[0] is rank]
        best = mine[0] if mine else None
        for x in mine:
            best = x if best is not None and self.before(x[1], best[1]) else best
        if not head_fits and not rank.running and not rank.late:
            return best
        if best is not None and rank.waiting and self.before(rank.waiting[0], best[1]):
            return None
        return best

    def admit(self, rank: Rank, budget: int) -> LoweredModel:
        plan: LoweredModel = []
        kv, policy, head_fits = self.kv(rank), self.policy, True
        while budget > 0 and len(rank.running) + len(rank.late) < policy.max_sequences:
            mine = self.first_there(rank, head_fits)
            if mine is not None:
                request, found = mine[1], []
            elif rank.waiting and head_fits:
                request = rank.waiting[0]
            else:
                break
            most = request.input + request.output - 1 + self.spare
            whole = most if policy.reserve else request.target
            if mine is None:
                there = kv.look(request)
                wanted = self.wanted(kv, request, there)
                if kv.load_end(request, wanted) > self.now:
                    seats = len(rank.running) + len(rank.late) + self.away(rank)
                    end = None
                    if seats < policy.max_sequences:
                        end = kv.take_over(request, wanted, whole)
                    if end is None:
                        head_fits = False
                        continue
                    assert kv.hold(request, whole)
                    self.loading.append((rank, request, len(wanted), self.now, end))
                    self.loads += 1
                    rank.waiting.pop(0)
                    continue
                found = wanted
            room = budget
            if not policy.chunked and request.target > room:
                if plan:
                    break
                room = request.target
            if mine is not None:
                self.there.remove(mine)
                count = mine[2]
            else:
                if kv.take_over(request, found, whole) is None:
                    head_fits = False
                    continue
                count = len(found)
                kv.landed(request, count)
                rank.waiting.pop(0)
            request.cached = count * kv.block
            kv.hits += request.cached
            tokens = self.start(rank, request, room, whole)
            plan.append((request, tokens))
            budget -= min(tokens, budget)
            head_fits = True  # with what this one computes, maybe
        return plan


@dataclass
class Composed(ByPriority, Verifying, TieredReference):
    """Tiers, drafts and priorities together: each keeps its own rules."""


@dataclass
class Piped(Tiered):
    """Tiers of a rank in stages: a block can leave once the batch that computes it has left the last one."""

    computed: dict[int, int] = field(default_factory=dict)

    def write(self, request: Request, tokens: int) -> None:
        super().write(request, min(tokens, self.computed.get(request.index, 0)))

    def drop(self, request: Request) -> None:
        super().drop(request)
        self.computed[request.index] = 0

    def landed(self, request: Request, found: int) -> None:
        super().landed(request, found)
        self.computed[request.index] = found * self.block


@dataclass
class TieredPipeline(Pipeline, TieredReference):
    """Pipeline stages over tiers: what is loaded is there for the plan after the batch that was waited for."""

    def plans(self, ranks: Sequence[Rank], closed: bool) -> list[LoweredModel]:
        self.tell(ranks)
        for rank in ranks:
            self.land(rank)
        return [self.plan(rank, closed) for rank in ranks]

    def ended(
        self, to_come: list[Request], rank: Rank, request: Request, brings_a_token: bool, cached: int = 0, life: int = 0
    ) -> None:
        kv = self.kv(rank)
        assert isinstance(kv, Piped)
        kv.now = self.now
        if life == request.preemptions:
            kv.computed[request.index] = cached
            kv.write(request, request.known)
        super().ended(to_come, rank, request, brings_a_token)

    def send(self, ranks: Sequence[Rank], plans: Sequence[LoweredModel], free: list[float]) -> tuple[float, list[Any]]:
        """Once the blocks that the batch takes have been copied."""
        if any(plans):
            start = max(self.now, free[-1 if self.ahead else 0])
            held = max(self.kv(rank).held for rank in ranks)
            self.stood += max(held - start, 0.0)
            free[0] = max(start, held)
        end, sent = super().send(ranks, plans, free)
        return end, [(*x, x[1].cached, x[1].preemptions) for x in sent]
