"""SGLang's scheduler, slow and obvious: lists of requests, and a radix tree of tokens.

It restates what SGLang 0.5.9 does, and by `rules.patch` what later 0.5.x do otherwise (sglang/srt/managers/scheduler.py, schedule_policy.py,
schedule_batch.py, scheduler_output_processor_mixin.py, sglang/srt/mem_cache/radix_cache.py), for
`test_sglang.py` to compare with. Requests ask for exactly what they get, with `ignore_eos`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import reference_engine as engine
from .reference_engine import Loop, LoweredModel, StagedLoop, Step

Token = tuple[object, ...]


@dataclass(eq=False)
class Request(engine.Request):
    entry: int = 0  # place among all entries to the queue
    committed: int = 0  # tokens that have memory, those of the planned step included
    protected: int = 0  # tokens in the tree
    pages: int = 0  # of its own
    node: Node | None = None
    retracted: bool = False

    def token(self, at: int) -> Token:
        """What stands at a place: told by a trace's hash if its whole page is, else its own."""
        return self.content(at) if at < self.hashed else ("own", self.index, at)

    def tokens(self, count: int, page: int = 1) -> list[Token]:
        """Its first tokens, as far as they fill pages."""
        return [self.token(at) for at in range(count // page * page)]


@dataclass(eq=False)
class Node:
    key: list[Token]
    parent: Node | None
    time: int
    children: dict[tuple[Token, ...], Node] = field(default_factory=dict)
    locks: int = 0


class Tree:
    """Everything that is known, page by page; a clock of its own tells what was used when."""

    def __init__(self, page: int) -> None:
        self.page, self.clock = page, 0
        self.root = Node([], None, 0, locks=1)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def same(self, one: Sequence[Token], other: Sequence[Token]) -> int:
        """Tokens of whole pages that two sequences begin with."""
        count = 0
        while count < min(len(one), len(other)) and one[count : count + self.page] == other[count : count + self.page]:
            count += self.page
        return count

    def walk(self, key: list[Token]) -> tuple[int, Node]:
        """How much of a key is there, and the node where it ends, cut out if need be."""
        now, node, found = self.tick(), self.root, 0
        while len(key) > found:
            child = node.children.get(tuple(key[found : found + self.page]))
            if child is None:
                break
            child.time = now
            count = self.same(child.key, key[found:])
            found += count
            if count < len(child.key):
                return found, self.cut(child, count)
            node = child
        return found, node

    def cut(self, child: Node, count: int) -> Node:
        assert child.parent is not None
        upper = Node(child.key[:count], child.parent, self.tick(), locks=child.locks)
        child.parent.children[tuple(child.key[: self.page])] = upper
        child.key, child.parent = child.key[count:], upper
        upper.children[tuple(child.key[: self.page])] = child
        return upper

    def insert(self, key: list[Token]) -> int:
        """Add a key; how much of it was there."""
        found, node = self.walk(key)
        if found < len(key):
            rest = key[found:]
            node.children[tuple(rest[: self.page])] = Node(rest, node, self.tick())
        return found

    def lock(self, node: Node | None, by: int) -> None:
        while node is not None and node is not self.root:
            node.locks += by
            node = node.parent

    def nodes(self) -> list[Node]:
        out, more = [], list(self.root.children.values())
        while more:
            node = more.pop()
            out.append(node)
            more += node.children.values()
        return out

    def evictable(self) -> int:
        """Tokens that no running request needs."""
        return sum(len(node.key) for node in self.nodes() if not node.locks)

    def evict(self, tokens: int) -> int:
        """Drop whole leaves, the one used longest ago first; tokens that went."""
        gone = 0
        while gone < tokens:
            leaves = [node for node in self.nodes() if not node.children and not node.locks]
            if not leaves:
                break
            leaf = min(leaves, key=lambda node: node.time)
            assert leaf.parent is not None
            del leaf.parent.children[tuple(leaf.key[: self.page])]
            gone += len(leaf.key)
        return gone


class Adder:
    """What a step's prompts may take (PrefillAdder)."""

    def __init__(self, rank: Rank) -> None:
        rules, self.rank, self.page = rank.rules, rank, rank.page
        beside = len(rank.running) if rules.mixed else 0
        self.input = rules.max_prefill_tokens - beside
        self.chunk = rules.chunked_prefill_size - beside if rules.chunked_prefill_size else math.inf
        self.total_offset = beside + sum(self.to_come(r) for r in rank.running)
        self.current_offset = beside
        self.added: LoweredModel = []
        self.preempted: list[Request] = []
        self.cut: Request | None = None
        self.states: list[tuple[int, int]] | None = None
        decodes = [r for r in rank.running if not r.finished and r.committed % self.page == 0]
        self.pages = len(decodes) if rules.mixed else 0

    def ceil(self, tokens: int) -> int:
        return -(-tokens // self.page) * self.page

    @property
    def total(self) -> float:
        return self.rank.available() - self.total_offset

    @property
    def current(self) -> float:
        return self.rank.available() - self.current_offset

    def add(self, request: Request, tokens: int, answer: int) -> None:
        paged = self.ceil(tokens)
        self.added.append((request, tokens))
        overhead = self.page if self.rank.rules.patch >= 11 else 0
        self.total_offset += paged + answer + overhead
        self.current_offset += paged + overhead
        self.input -= paged
        self.chunk -= paged
        self.pages += paged // self.page

    def state(self) -> str:
        if self.total <= 0 or self.current <= 0:
            return "no token"
        return "other" if self.input <= 0 or self.chunk <= 0 else "continue"

    def to_come(self, request: Request) -> float:
        share = 1.0 if self.rank.rules.patch >= 22 else self.rank.ratio  # with ignore_eos
        return float(min(request.output - request.generated, 4096) * share)

    def preempt_for(self, request: Request) -> bool:
        """preempt_to_schedule, but a prompt that has not been looked at yet counts as a whole."""
        rank = self.rank
        missing = request.length - request.protected + min(request.output, 4096) - self.total
        chosen = []
        running = [r for r in rank.running if not r.finished]
        for other in sorted(running, key=lambda r: (-rank.urgency(r), -r.entry)):
            if rank.urgency(other) - rank.urgency(request) <= rank.rules.threshold:
                break
            chosen.append(other)
            missing -= self.to_come(other)
            if missing <= 0:
                break
        if not chosen or missing > 0:
            return False
        many = len(rank.running)
        for other in [r for r in rank.running if r in chosen]:
            many -= 1
            self.total_offset -= self.to_come(other)
            self.pages -= int(rank.rules.mixed and other.committed % self.page == 0)
            rank.drop(other, many)
        rank.running = [r for r in rank.running if r not in chosen]
        self.preempted += chosen
        return True

    def add_chunked(self, request: Request) -> bool:
        """Go on with a prompt; False where its memory is short (SGLang would stop)."""
        left = request.target - request.committed
        most = min(self.chunk, int(self.total))
        tokens = int(min(left, most if most > 0 else self.chunk))
        if tokens <= 0:
            return False
        new = self.ceil(request.committed + tokens) - self.ceil(request.committed)
        if self.pages * self.page + new > self.rank.available():
            return False
        self.cut = request if tokens < left else None
        self.add(request, tokens, 0 if self.cut else min(request.output, 4096))
        # Pages are counted from the tokens, as SGLang does, whatever is left of the last page.
        return True

    def add_one(self, request: Request) -> str:
        """Try a waiting request whose prefix has been looked for."""
        extend = request.target - request.protected
        rules = self.rank.rules
        total = extend + min(max(request.output - request.generated, 0), 4096)
        total += self.page if rules.patch >= 11 else 0
        if total >= self.total:
            return "no token"
        limited = rules.patch < 13 or not rules.chunked_prefill_size
        if limited and self.ceil(extend) >= self.input and self.added:
            return "other"
        tree = self.rank.tree
        assert tree is not None
        tree.lock(request.node, 1)
        if total >= self.total:
            tree.lock(request.node, -1)
            return "no token"
        tokens, answer = extend, min(request.output, 4096)
        if self.ceil(extend) > self.chunk:
            tokens, answer = int(self.chunk) // self.page * self.page, 0
        if self.rank.rules.mixed and (self.pages * self.page + self.ceil(tokens) > self.rank.available()):
            tree.lock(request.node, -1)
            return "no token"  # SGLang would stop
        if tokens <= 0:
            tree.lock(request.node, -1)
            return "other"
        if tokens < extend:
            self.cut = request
        self.add(request, tokens, answer)
        return self.state()

    def add_one_ignoring_eos(self, request: Request) -> str:
        """The same without a tree: by when running requests will have ended."""
        extend = request.target
        paged = self.ceil(extend) + (self.page if self.rank.rules.patch >= 21 else 0)
        if paged > min(self.current, self.total):
            return "no token"

        def state(r: Request) -> tuple[int, int]:
            return r.output - r.generated, r.length

        if self.states is None:
            others = [request, *self.rank.running, *(r for r, _ in self.added)]
            self.states = sorted((s for s in map(state, others) if s[0] > 0), key=lambda s: s[0])
        else:
            place = 0
            for place in range(len(self.states)):
                if state(request)[0] <= self.states[place][0]:
                    break
            self.states.insert(place, state(request))
        freed, left = 0, self.current - paged
        for k, (tokens_left, occupied) in enumerate(self.states):
            many = len(self.states) - k
            if left + freed - tokens_left * many <= many:
                return "no token"
            freed += occupied
        if extend <= self.chunk:
            self.add(request, extend, min(request.output, 4096))
        elif self.chunk <= 0:
            return "other"
        else:
            self.cut = request
            self.add(request, int(self.chunk), 0)
        return self.state()


class Rank:
    """One scheduler: its queue, its running batch, its memory."""

    def __init__(self, rules: Any, sequences: int, pages: int, page: int, drafts: int = 0) -> None:
        self.rules, self.sequences, self.free, self.page = rules, sequences, pages, page
        self.drafts = drafts
        self.tree = Tree(page) if rules.radix else None
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.full = False
        self.chunked: Request | None = None
        self.last: list[Request] | None = None  # prompts of the latest batch
        self.last_chunked: Request | None = None
        self.ratio = rules.init_ratio
        self.hits = 0
        self.known = 0.0
        self.entries = 0
        self.fewest = 1  # that a retraction leaves
        self.stages = 1
        self.slots = math.inf  # free places of requests, of all stages' batches together
        self.queued: list[Request] = []  # of the step whose results are not processed

    @property
    def work(self) -> bool:
        return bool(self.waiting)

    def urgency(self, request: Request) -> int:
        """The smaller, the sooner."""
        if not self.rules.priority:
            return 0
        return request.priority if self.rules.low_first else -request.priority

    def queue(self, request: Request) -> None:
        """_add_request_to_queue"""
        self.entries += 1
        request.entry = self.entries
        self.waiting.append(request)

    def drop(self, request: Request, others: int) -> None:
        """release_req, of a request that is retracted or preempted"""
        self.release(request, keep=False)
        self.evict_until_fits(others * 20)
        request.committed = request.cached = 0
        request.retracted = True
        request.preemptions += 1

    def available(self) -> int:
        return self.free * self.page + (self.tree.evictable() if self.tree else 0)

    def evict_until_fits(self, tokens: int) -> None:
        if self.tree and self.free * self.page < tokens:
            self.free += self.tree.evict(tokens) // self.page

    def extend(self, request: Request, tokens: int) -> None:
        pages = -(-(request.committed + tokens) // self.page) - -(-request.committed // self.page)
        assert pages <= self.free
        request.committed += tokens
        request.pages += pages
        self.free -= pages

    def keep(self, request: Request, tokens: int) -> None:
        """cache_unfinished_req"""
        if self.tree is None:
            return
        key = request.tokens(tokens, self.page)
        found = self.tree.insert(key)
        self.free += (found - request.protected) // self.page
        _, node = self.tree.walk(key)
        request.pages -= (len(key) - request.protected) // self.page
        self.tree.lock(request.node, -1)
        self.tree.lock(node, 1)
        request.protected, request.node = len(key), node

    def release(self, request: Request, keep: bool) -> None:
        """release_kv_cache"""
        self.free += request.pages
        if self.tree is not None:
            if keep:
                key = request.tokens(request.committed, self.page)
                self.free -= (len(key) - self.tree.insert(key)) // self.page
            self.tree.lock(request.node, -1)
        request.pages, request.protected, request.node = 0, 0, None
        self.slots += 1

    def plan(self, known: float) -> LoweredModel:
        """get_next_batch_to_run"""
        self.known = known
        if self.chunked:
            self.keep(self.chunked, self.chunked.committed)
        if self.last is not None:
            kept = [r for r in self.last if not r.finished and r not in (self.chunked, self.last_chunked)]
            if len(kept) < len(self.last):
                self.full = False
            if kept:
                if not self.running:
                    self.full = False
                self.running = self.running + kept
        if self.rules.patch >= 23 and any(r.finished for r in self.running):
            self.running = [r for r in self.running if not r.finished]
            self.full = False
        batch = self.prefill()
        self.last = None if batch is None else [r for r, _ in batch]
        self.last_chunked = self.chunked
        return self.decode() if batch is None else batch

    def sort_queue(self) -> None:
        """calc_priority"""
        if self.rules.priority:
            self.waiting.sort(key=lambda r: (self.urgency(r), r.entry))
            return
        if not (self.rules.lpm and self.tree) or len(self.waiting) > 128:
            return
        keys: dict[Request, float] = {}
        told: list[list[Token]] = []
        for request in self.waiting:
            found, _ = self.tree.walk(request.tokens(request.length, self.page))
            keys[request] = -found
            if found <= 32:
                own = request.tokens(request.length)
                if any(Tree(1).same(own, other) >= 32 for other in told):
                    keys[request] = math.inf
                else:
                    told.append(own)
        self.waiting.sort(key=lambda r: keys[r])

    def prefill(self) -> LoweredModel | None:
        """get_new_batch_prefill"""
        if self.rules.priority or (self.rules.patch >= 22 and not self.running):
            self.full = False
        if (self.full or not self.waiting) and self.chunked is None:
            return None
        crowded = self.sequences <= len(self.running)
        if crowded and self.chunked is not None and not self.rules.priority and self.stages == 1:
            self.full = True
            return None
        self.sort_queue()
        adder = Adder(self)
        if self.chunked is not None and not adder.add_chunked(self.chunked):
            return None
        for request in list(self.waiting):
            if self.rules.patch >= 23 and adder.state() == "other":
                break
            if len(adder.added) >= min(self.sequences - len(self.running), self.slots):
                self.full = True
            if self.full and not (self.rules.priority and adder.preempt_for(request)):
                break
            request.protected, request.node = 0, None
            if self.tree is not None:
                key = request.tokens(request.length - 1, self.page)
                request.protected, request.node = self.tree.walk(key)
            request.target = request.length
            result = adder.add_one_ignoring_eos(request) if self.tree is None else adder.add_one(request)
            if result != "continue":
                if result == "no token":
                    self.full = True
                break
        for request in adder.preempted:
            self.queue(request)
        if not adder.added:
            return None
        batch = adder.added
        self.slots -= len(batch) - (self.chunked is not None)
        self.chunked = adder.cut
        self.waiting = [w for w in self.waiting if w not in [r for r, _ in batch]]
        overestimate = len(batch) * self.page if self.page > 1 else 0
        self.evict_until_fits(sum(tokens for _, tokens in batch) + overestimate)
        for request, tokens in batch:
            if request.committed == 0:
                self.hits += request.protected
                request.committed = request.protected
                if math.isnan(request.scheduled):
                    request.scheduled = self.known
            request.cached = request.committed
            self.extend(request, tokens)
            request.retracted = False
        if self.rules.mixed and self.running:
            last = self.finishing()
            self.full = self.full and not last
            going_on = [r for r in self.running if not r.finished and r not in last]
            batch = batch + self.decode_tokens(going_on)
            self.running = []
        return batch

    def decode_tokens(self, requests: list[Request]) -> LoweredModel:
        """prepare_for_decode"""
        if requests:
            self.evict_until_fits(len(requests) * (self.page + self.drafts))
        for request in requests:
            request.cached = request.committed
            self.extend(request, 1 + self.drafts)
        return [(request, 1 + self.drafts) for request in requests]

    def reject(self, request: Request, committed: int) -> None:
        """Free the memory of rejected drafts."""
        pages = -(-request.committed // self.page) - -(-committed // self.page)
        request.committed = committed
        request.pages -= pages
        self.free += pages

    def fits(self, requests: Sequence[Request]) -> bool:
        """check_decode_mem"""
        ends = [(r.committed, r.committed + 1 + self.drafts) for r in requests]
        need = sum(-(-after // self.page) - -(-before // self.page) for before, after in ends)
        self.evict_until_fits(need * self.page)
        return self.free >= need

    def finishing(self) -> list[Request]:
        """_reqs_finishing_inflight"""
        if self.rules.patch < 22:
            return []
        return [r for r in self.running if r in self.queued and not r.finished and r.generated + 1 >= r.output]

    def decode(self) -> LoweredModel:
        """update_running_batch"""
        if not self.running:
            return []
        before, last = len(self.running), self.finishing()
        self.running = [r for r in self.running if not r.finished and r not in last]
        if not self.running:
            self.full = False
            return []
        if self.fits(self.running):
            self.ratio = max(self.ratio - self.rules.decay, self.rules.min_ratio)
        elif last:
            self.full = False
            return []
        else:
            self.retract()
        if len(self.running) < before:
            self.full = False
        return self.decode_tokens(self.running)

    def retract(self) -> None:
        """retract_decode"""
        kept = sorted(self.running, key=lambda r: (r.generated, -r.input), reverse=True)
        first = True
        while first or not self.fits(kept):
            if len(kept) == self.fewest:
                break
            first = False
            request = kept.pop()
            self.drop(request, len(kept))
            self.queue(request)
        self.running = kept
        came, most = sum(r.generated for r in kept), sum(r.output for r in kept)
        self.ratio = min(1.0, (came + 20 * len(kept)) / (most + 1))


@dataclass
class Reference(Loop):
    """The event loop over ranks that step together, arrivals dealt in turn.

    It receives requests when the steps since the last time weigh enough: one with prompts always, another 1.
    A step's notes are, of each rank, its prompts and the one that was cut.
    """

    interval: int = 1
    dealt: int = 0
    weight: int = 0
    extended: bool = False

    @property
    def hits(self) -> int:
        return sum(rank.hits for rank in self.ranks)

    def receive(self, last: Step | None) -> None:
        """recv_requests, with SchedulerRecvSkipper"""
        self.weight += 1
        if self.extended or self.weight >= self.interval:
            self.weight = 0
            while self.to_come and self.to_come[0].arrival <= self.host:
                rank = self.ranks[self.dealt % len(self.ranks)]
                rank.queue(self.to_come.pop(0))
                self.dealt += 1
        for r, rank in enumerate(self.ranks):
            rank.queued = [request for request, _ in last.plans[r]] if last else []

    def launch(self) -> Step | None:
        """Run a batch behind the one that runs."""
        plans = [rank.plan(self.host) for rank in self.ranks]
        notes = [(rank.last or [], rank.chunked if rank.last else None) for rank in self.ranks]
        self.extended = any(prompts for prompts, _ in notes)
        return Step(plans, notes, self.run(plans)) if any(plans) else None

    def process(self, step: Step) -> None:
        """process_batch_result: wait for a step's results."""
        self.host = max(self.host, step.end)
        for rank, plan, (prompts, chunked) in zip(self.ranks, step.plans, step.notes, strict=True):
            for request, _ in plan:
                if request.finished or request.retracted or request is chunked:
                    continue
                good = 0
                if request not in prompts and rank.drafts:
                    good = self.accept(request)
                    last = request.input + request.output - 1
                    rank.reject(request, min(request.cached + good + 1, last))
                self.emit(request, good)
                if request.finished:
                    rank.release(request, keep=True)
                elif request in prompts:
                    rank.keep(request, request.target)

    def idle(self) -> bool:
        """self_check_during_idle"""
        for rank in self.ranks:
            rank.ratio = self.rules.init_ratio
        return super().idle()


@dataclass
class Stages(StagedLoop, Reference):
    """The loop over pipeline stages (event_loop_pp): every batch in turn has its running requests.

    One is planned and sent off, then the next one's results are waited for. Arrivals are received every time.
    """

    def serve(self, requests: list[Request]) -> None:
        self.begin(requests)
        for rank in self.ranks:
            rank.fewest, rank.stages, rank.slots = 0, self.stages, self.places
        self.kept: list[list[Any]] = [[([], None, None, False) for _ in self.ranks] for _ in self.free]
        flying: list[Step | None] = [None] * self.stages
        turn, nothing = 0, 0
        while True:
            self.extended = True
            self.receive(None)
            self.take_up(turn)
            flying[turn] = self.launch()
            self.put_down(turn)
            nothing = 0 if flying[turn] else nothing + 1
            turn = (turn + 1) % self.stages
            step = flying[turn]
            if step:
                self.take_up(turn)
                self.process(step)
                self.put_down(turn)
                flying[turn] = None
            elif nothing == self.stages and not any(flying) and not self.idle():
                return

    def take_up(self, turn: int) -> None:
        for rank, own in zip(self.ranks, self.kept[turn], strict=True):
            rank.running, rank.last, rank.last_chunked, rank.full = own

    def put_down(self, turn: int) -> None:
        self.kept[turn] = [(r.running, r.last, r.last_chunked, r.full) for r in self.ranks]
