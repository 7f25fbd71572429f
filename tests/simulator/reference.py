"""A slow, obvious scheduler: one step at a time, lists and numbers, the explicit path's cost.

It restates the rules of batching in the plainest way, for `test_scheduler.py` to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opbyte.simulator.engine.policies import Policy
from opbyte.simulator.step.launches import NO_LAUNCHES, Launches
from opbyte.workloads.batch import Batch

from . import reference_engine as engine
from .reference_engine import LoweredModel, batch_of, with_host


@dataclass(eq=False)
class Request(engine.Request):
    session: int | None = None
    follows: Request | None = None
    think: float = 0.0
    held: float = 0.0
    blocks: list[int] = field(default_factory=list)
    noted: int = 0
    flight: int = 0  # tokens that batches under way will bring, with asynchronous pipelines
    known: int = 0  # tokens in the cache whose content the scheduler knows
    far: int = 0  # tokens it would have cached had all drafts of its latest step been accepted
    came: int = 0  # tokens that its latest step brought
    tenant: int = 0
    place: int = -1  # among arrivals

    @property
    def hashed(self) -> int:
        """Of the prompt, or all where a session goes on."""
        return self.input + self.output if self.session is not None else super().hashed


@dataclass
class Bytes:
    """KV memory of one rank, counted in bytes; nothing is found again."""

    free: float
    kv_bytes: Callable[[int], float]
    hits: int = 0

    def missing(self, request: Request, tokens: int) -> float:
        return max(self.kv_bytes(tokens) - request.held, 0.0)

    def size(self, tokens: int) -> float:
        """What `tokens` tokens of one sequence take."""
        return self.kv_bytes(tokens)

    def left(self) -> float:
        """What is free."""
        return self.free

    def admit(self, request: Request, whole: int) -> bool:
        """Whether `whole` tokens of a waiting request fit."""
        return self.missing(request, whole) <= self.free

    def hold(self, request: Request, tokens: int) -> bool:
        """Raise what a sequence holds to `tokens` tokens, if that fits."""
        more = self.missing(request, tokens)
        if more > self.free:
            return False
        self.free -= more
        request.held += more
        return True

    def note(self, request: Request, tokens: int) -> None:
        """Nothing is known by its content."""

    def drop(self, request: Request) -> None:
        """Free all that a sequence holds."""
        self.free += request.held
        request.held = 0.0


@dataclass
class Blocks:
    """KV memory of one rank as numbered blocks, which keep their content while they are free."""

    block: int
    free: list[int]  # the block that was freed longest ago first
    bare_first: bool = False  # freed blocks without content to be found go before all others
    users: dict[int, int] = field(default_factory=dict)
    content: dict[tuple[object, ...], list[int]] = field(default_factory=dict)
    hits: int = 0

    def blocks_of(self, tokens: int) -> int:
        return math.ceil(tokens / self.block)

    def size(self, tokens: int) -> float:
        """What `tokens` tokens of one sequence take, were nothing of it found."""
        return self.blocks_of(tokens)

    def left(self) -> float:
        """What is free."""
        return len(self.free)

    def name(self, request: Request, j: int) -> tuple[object, ...]:
        """What block `j` of a sequence holds: a part of a hashed prefix, or its own tokens."""
        if (j + 1) * self.block > request.hashed:
            return ("own", request.index, j)
        if request.session is not None:
            return ("session", request.session, j)
        return request.content(j * self.block)

    def found(self, request: Request) -> list[int]:
        """Leading blocks of a waiting request that are still there; one token is always left.

        A request that never ran has no tokens of its own to find, nor have others.
        """
        out = []
        for j in range((request.target - 1) // self.block):
            same = self.content.get(self.name(request, j))
            if not same:
                break
            out.append(same[0])
        return out

    def admit(self, request: Request, whole: int) -> bool:
        """Take what is found over, if the rest of `whole` tokens fits without it."""
        found = self.found(request)
        left = len([b for b in self.free if b not in found])
        if self.blocks_of(whole) - len(found) > left:
            return False
        for b in found:
            if b in self.free:
                self.free.remove(b)
            self.users[b] = self.users.get(b, 0) + 1
        request.blocks = list(found)
        request.noted = len(found)
        request.cached = len(found) * self.block
        self.hits += request.cached
        return True

    def hold(self, request: Request, tokens: int) -> bool:
        """Give a sequence blocks for `tokens` tokens, if there are enough."""
        more = self.blocks_of(tokens) - len(request.blocks)
        if more > len(self.free):
            return False
        for _ in range(more):
            b = self.free.pop(0)
            for same in self.content.values():
                if b in same:
                    same.remove(b)
            self.users[b] = 1
            request.blocks.append(b)
        return True

    def note(self, request: Request, tokens: int) -> None:
        """Make the hashed blocks that `tokens` tokens fill findable, behind their likes."""
        self._note_until(request, min(tokens, request.hashed) // self.block)

    def _note_until(self, request: Request, full: int) -> None:
        for j in range(request.noted, full):
            self.content.setdefault(self.name(request, j), []).append(request.blocks[j])
        request.noted = max(request.noted, full)

    def drop(self, request: Request) -> None:
        """Free a sequence's blocks, its last one first; a preempted one can find them again."""
        done = request.generated == request.output
        known = min(request.known, request.hashed) if done else request.known
        self._note_until(request, known // self.block)
        bare: list[int] = []
        for j in reversed(range(len(request.blocks))):
            b = request.blocks[j]
            self.users[b] -= 1
            if self.users[b] == 0:
                found = j < request.known // self.block or not self.bare_first
                (self.free if found else bare).append(b)
        self.free[:0] = bare
        request.blocks, request.noted, request.known = [], 0, 0


@dataclass
class Rank:
    kv: Bytes | Blocks
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    late: list[Request] = field(default_factory=list)  # finished, which the next plan ignores
    admitted: list[Request] = field(default_factory=list)  # both, in order


@dataclass
class Reference:
    """Serve requests on ranks that step together.

    A plan is made at `known`, of what has arrived by then. Without asynchronous scheduling that
    is now, between two steps. With it, it is when the step before began: what finishes in that
    step is known not to go on, but its memory and its place are not free yet.
    """

    policy: Policy
    memories: Sequence[Bytes | Blocks]
    cost: Callable[[Sequence[Batch], int], Any]  # seconds, of each stage in a `Pipeline`
    clients: int | None = None
    launches: Launches = NO_LAUNCHES
    steps: int = 0
    now: float = 0.0
    known: float = 0.0
    unpolled: int = 0  # decoding-only steps since arrivals were looked at
    waited: int = 0  # plans that let prompts wait
    later: list[Request] = field(default_factory=list)  # what follows a request that is not done
    coming: list[Request] = field(default_factory=list)  # got a token in the step in flight
    several: int = 1  # most tokens of a decode
    spare: int = 0  # tokens that a sequence may hold beyond those it will ever have
    gave_way: bool = False  # whether a plan preempted the only request that it could have run
    wasted: int = 0  # sequences in steps that had ended

    @property
    def hits(self) -> int:
        return sum(kv.hits for kv in self.memories)

    def begin(self, requests: list[Request]) -> tuple[list[Request], list[Rank]]:
        """Requests that follow no other, in order of arrival, and empty ranks."""
        to_come, self.later = ([r for r in requests if (r.follows is None) == first] for first in (True, False))
        for request in requests:
            request.target = request.input
        for request in to_come[: self.clients or 0]:
            request.arrival = 0.0
        ranks = [Rank(kv) for kv in self.memories]
        return to_come, ranks

    def seconds(self, plans: Sequence[LoweredModel]) -> list[float]:
        """Seconds of each stage for a new step, the host's work included."""
        batches = [batch_of(plan) for plan in plans]
        devices = np.atleast_1d(self.cost(batches, self.steps)).tolist()
        self.steps += 1
        return with_host(self.policy, self.launches, batches, devices, self.several)

    def serve(self, requests: list[Request]) -> None:
        to_come, ranks = self.begin(requests)
        while True:
            if not self.policy.ahead:
                self.known = self.now
            idle = not any(map(self.busy, ranks))
            look = idle or self.unpolled >= self.policy.poll_steps or self.policy.poll_steps == 1
            while look and to_come and to_come[0].arrival <= self.known:
                self.take(ranks, to_come)
            self.unpolled = 0 if look else self.unpolled
            if not any(map(self.busy, ranks)):  # nothing in flight: do not wait
                self.forget_late(ranks)
                if not to_come:
                    return
                self.now = self.known = max(self.now, to_come[0].arrival)
                continue
            plans = self.plans(ranks, self.hold_back(ranks))
            unfree = self.forget_late(ranks)
            if not any(plans):
                if unfree or self.gave_way or self.known < self.now:
                    self.known = self.now  # the step in flight has ended: look again
                    self.landed([])
                else:
                    self.sleep(to_come)
                continue
            self.landed(plans)
            self.step(ranks, plans)
            prompts = any(request.in_prefill for plan in plans for request, _ in plan)
            self.unpolled += self.policy.poll_steps if prompts else 1
            self.stepped(ranks, plans, to_come)

    def stepped(self, ranks: Sequence[Rank], plans: Sequence[LoweredModel], to_come: list[Request]) -> None:
        """Give out the tokens of a step that ends now."""
        for rank, plan in zip(ranks, plans, strict=True):
            for request, tokens in plan:
                self.stamp(request, tokens)
            rank.admitted = list(rank.running)
            rank.late = [r for r in rank.running if r.generated == r.output]
            rank.running = [r for r in rank.running if r.generated < r.output]
            self.open(to_come, rank.late)
        if not self.policy.ahead:
            self.landed([])
            self.forget_late(ranks)

    def busy(self, rank: Rank) -> bool:
        return bool(rank.running or rank.waiting or self.away(rank))

    def take(self, ranks: Sequence[Rank], to_come: list[Request]) -> None:
        """The next request comes to a rank."""
        self.queue(self.least_loaded(ranks), to_come.pop(0))

    def plans(self, ranks: Sequence[Rank], closed: bool) -> list[LoweredModel]:
        return [self.plan(rank, closed) for rank in ranks]

    def sleep(self, to_come: list[Request]) -> None:
        raise AssertionError("no sequence can make progress")

    def step(self, ranks: Sequence[Rank], plans: list[LoweredModel]) -> None:
        self.known = self.now
        self.now += self.seconds(plans)[0]

    def landed(self, plans: Sequence[LoweredModel]) -> None:
        """The step in flight has ended; `plans` come next. What was computed is known."""
        new = {id(request): tokens for plan in plans for request, tokens in plan}
        for request in self.coming:
            tokens = new.get(id(request), 0)
            if request.cached:  # not preempted
                request.known = max(request.known, request.cached + tokens - (tokens > 0))
        self.coming = []

    def open(self, to_come: list[Request], done: Sequence[Request]) -> None:
        """What comes after requests that are done: a client's next, or a session's."""
        unopened = [r for r in to_come if r.arrival == math.inf]
        for following, _ in zip(unopened, done, strict=False):
            following.arrival = self.now
        for request in done:
            for following in [r for r in self.later if r.follows is request]:
                following.arrival = max(following.arrival, self.now + following.think)
                self.later.remove(following)
                to_come.append(following)
                to_come.sort(key=lambda r: r.arrival)  # stable

    def least_loaded(self, ranks: Sequence[Rank]) -> Rank:
        weight = self.policy.waiting_load
        return min(ranks, key=lambda r: len(r.running) + weight * len(r.waiting))

    def queue(self, rank: Rank, request: Request) -> None:
        """Put a request behind all that its policy's order does not put behind it."""
        key = {"": lambda r: 0, "shortest-prompt": lambda r: r.input,
               "shortest-answer": lambda r: r.output}[self.policy.order]  # fmt: skip
        behind = [w for w in rank.waiting if not w.preemptions and key(w) > key(request)]
        place = rank.waiting.index(behind[0]) if behind else len(rank.waiting)
        rank.waiting.insert(place, request)

    def forget_late(self, ranks: Sequence[Rank]) -> bool:
        """Free what finished sequences hold; whether there were any."""
        any_late = False
        for rank in ranks:
            for request in rank.late:
                request.known = request.cached
                rank.kv.drop(request)
                any_late = True
            rank.late = []
            rank.admitted = list(rank.running)
        return any_late

    def able(self, rank: Rank) -> int:
        """Tokens of the prompts at the head of a queue that could start in this step."""
        budget = self.policy.token_budget - len(rank.running)
        places = self.policy.max_sequences - len(rank.running) - len(rank.late)
        tokens, needed = 0, 0.0
        for request in rank.waiting[: max(places, 0)]:
            if budget <= 0:
                break
            whole = request.input + request.output - 1 if self.policy.reserve else request.target
            needed += rank.kv.size(whole)
            if needed > rank.kv.left():
                break
            if tokens and tokens + request.target > budget:
                return budget if self.policy.chunked else tokens
            tokens += request.target
        return tokens

    def hold_back(self, ranks: Sequence[Rank]) -> bool:
        """Whether waiting prompts wait on: for one another, or for the other ranks' prompts."""
        able, policy = [self.able(rank) for rank in ranks], self.policy
        decoding = [len(rank.running) for rank in ranks]
        if policy.even_steps:
            if all(able):
                self.waited = 0
                return False
            self.waited += 1
            if self.waited >= policy.even_steps or not all(decoding):
                self.waited = 0
                return False
            return True
        if not policy.gather_steps or not any(able) or not any(decoding):
            return False
        self.waited += 1
        enough = sum(able) + sum(decoding) >= policy.gather_tokens
        if enough or self.waited > policy.gather_steps:
            self.waited = 0
            return False
        return True

    def plan(self, rank: Rank, closed: bool) -> LoweredModel:
        """New tokens of each sequence in the next step."""
        self.look(rank)
        if not self.policy.prompts_alone:
            plan, budget, preempted = self.plan_running(rank, list(rank.running))
            if not closed and not preempted:
                plan += self.admit(rank, budget)
            return plan
        prompts = [request for request in rank.running if request.in_prefill]
        plan, budget, _ = self.plan_running(rank, prompts)
        if not closed:
            plan += self.admit(rank, budget)
        return plan or self.plan_running(rank, list(rank.running))[0]

    def plan_running(self, rank: Rank, requests: Sequence[Request]) -> tuple[LoweredModel, int, bool]:
        """Tokens of running sequences, what is left of the budget, whether memory was short."""
        budget, plan, preempted = self.policy.token_budget, [], False
        for request in requests:
            if request not in rank.running:  # preempted for one before it
                continue
            tokens = request.input + request.generated + request.flight - request.cached
            tokens = min(tokens, budget, self.most or tokens)
            enough = request.cached + 2 - request.flight >= request.input + request.output
            if request.flight and enough:
                tokens = 0
            while tokens and not rank.kv.hold(request, request.cached + tokens):
                preempted = True
                victim = rank.admitted.pop()
                self.preempt(rank, victim)
                if victim is request:
                    tokens = 0
            budget -= tokens
            if tokens:
                self.note(rank, request, tokens)
                plan.append((request, tokens))
        return plan, budget, preempted

    def look(self, rank: Rank) -> None:
        """Note the most tokens of one sequence in the next step."""
        alone = len(rank.running) + len(rank.late) + len(rank.waiting) + self.away(rank) <= 1
        self.most = 0 if self.policy.lone and alone else self.policy.threshold

    def away(self, rank: Rank) -> int:
        """Waiting requests that stand in no queue."""
        return 0

    def new_tokens(self, request: Request) -> int:
        """Known tokens of a running sequence that are not computed."""
        return request.input + request.generated - request.cached

    def slots(self, request: Request, tokens: int) -> int:
        """Tokens that a sequence must hold for so many new ones."""
        return request.cached + tokens

    def runs_on(self, request: Request) -> bool:
        """Whether a plan cannot know that a request ends."""
        return False

    def before(self, one: Request, other: Request) -> bool:
        """Whether one waiting request goes before another whatever came of them."""
        return False

    def note(self, rank: Rank, request: Request, tokens: int) -> None:
        """What a planned step computes can be found, but for tokens that are still unknown."""
        there = request.input + request.generated - (request in self.coming)
        request.known = min(request.cached + tokens, there)
        rank.kv.note(request, request.known)

    def admit(self, rank: Rank, budget: int) -> LoweredModel:
        """Start waiting requests with what is left of the budget."""
        plan: LoweredModel = []
        prompts = 0
        while rank.waiting and budget > 0:
            request, room = rank.waiting[0], budget
            if len(rank.running) + len(rank.late) == self.policy.max_sequences:
                break
            if not self.policy.chunked and request.target > room:
                if prompts:
                    break
                room = request.target  # too long for any step: the only prompt of its own
            whole = request.target
            if self.policy.reserve:
                whole = request.input + request.output - 1 + self.spare
            if not rank.kv.admit(request, whole):
                break
            tokens = self.start(rank, request, room, whole)
            rank.waiting.pop(0)
            plan.append((request, tokens))
            budget -= min(tokens, budget)
            prompts += 1
        return plan

    def start(self, rank: Rank, request: Request, room: int, whole: int) -> int:
        """Put an admitted request among the running ones; its tokens of this step, at most `room`."""
        tokens = min(request.target - request.cached, room, self.most or room)
        held = rank.kv.hold(request, request.cached + tokens if self.policy.lazy else whole)
        assert held, "admitted without room"
        self.note(rank, request, tokens)
        rank.running.append(request)
        rank.admitted.append(request)
        if math.isnan(request.scheduled):
            request.scheduled = self.known
        return tokens

    def preempt(self, rank: Rank, victim: Request) -> None:
        """Back to the front of the queue, to be computed again; one that is done just frees."""
        rank.kv.drop(victim)
        victim.preemptions += 1
        if victim in rank.late:
            rank.late.remove(victim)
            return
        rank.running.remove(victim)
        victim.cached = 0
        victim.target = victim.input + victim.generated
        rank.waiting.insert(0, victim)

    def stamp(self, request: Request, tokens: int) -> None:
        request.cached += tokens
        if not request.in_prefill:
            self.token(request)
            if self.policy.ahead:
                self.coming.append(request)

    def token(self, request: Request) -> None:
        request.emit(self.now)


@dataclass
class Pipeline(Reference):
    """The same over pipeline stages: `cost` gives the seconds of each.

    As many batches as there are stages may be under way. A new one is planned as long as there
    is a place; a plan of nothing takes a place too, and then, or without a place, the oldest is
    waited for. What a batch holds counts as cached from when it is sent. With asynchronous
    scheduling a decode is in every batch, and the first stage waits for the last one's tokens.
    """

    stages: int = 1

    @property
    def ahead(self) -> bool:
        return self.policy.ahead and self.policy.serial_stages

    def serve(self, requests: list[Request]) -> None:
        to_come, ranks = self.begin(requests)
        sent: list[tuple[float, list[Any]]] = []
        free = [0.0] * self.stages
        while True:
            self.known = self.now
            while to_come and to_come[0].arrival <= self.now:
                self.take(ranks, to_come)
            if any(map(self.busy, ranks)):
                lost = sum(r.preemptions for r in requests)
                plans = self.plans(ranks, False)
                sent.append(self.send(ranks, plans, free))
                if any(plans) and len(sent) < self.stages and sent[0][0] > self.now:
                    continue
                if lost == sum(r.preemptions for r in requests) and not any(x for _, x in sent):
                    self.sleep(to_come)
                    sent.clear()
                    continue
            elif not sent:
                if not to_come:
                    return
                self.now = max(self.now, to_come[0].arrival)
                continue
            end, held = sent.pop(0)
            self.now = max(self.now, end)
            for rank, request, *rest in held:
                if request.generated < request.output:
                    self.ended(to_come, rank, request, *rest)

    def ended(self, to_come: list[Request], rank: Rank, request: Request, brings_a_token: bool) -> None:
        """A batch with a request has left the last stage."""
        if brings_a_token:
            self.arrived(to_come, rank, request)

    def send(self, ranks: Sequence[Rank], plans: Sequence[LoweredModel], free: list[float]) -> tuple[float, list[Any]]:
        """Send a batch through the stages: when it ends, and whose token it brings."""
        held: list[Any] = []
        if not any(plans):
            return self.now, held
        at = max(self.now, free[-1]) if self.ahead else self.now
        for s, seconds in enumerate(self.seconds(plans)):
            at = free[s] = max(at, free[s]) + seconds  # a stage takes a batch when it is free
        for rank, plan in zip(ranks, plans, strict=True):
            for request, tokens in plan:
                request.cached += tokens
                whole = request.cached == request.input + request.generated + request.flight
                request.flight += whole and self.ahead
                held.append((rank, request, whole))
        return at, held

    def arrived(self, to_come: list[Request], rank: Rank, request: Request) -> None:
        """A token has come; its request may have been preempted meanwhile."""
        if request.in_prefill:
            request.target += 1
        self.token(request)
        if request.flight:
            request.flight -= 1
            if request in rank.running:
                request.known = max(request.known, request.cached - request.flight)
        if request.generated < request.output:
            return
        if request in rank.waiting:
            rank.waiting.remove(request)
        else:
            rank.running.remove(request)
            rank.admitted.remove(request)
            rank.kv.drop(request)
        self.open(to_come, [request])


@dataclass
class Verifying(Reference):
    """The same where every decode brings drafts, of which some are accepted.

    A plan made ahead does not know how many: it holds slots as if all were, and runs a sequence once
    more whose end it cannot be sure of.
    """

    drafts: int = 0
    lookahead: int = 0  # slots beyond a step's tokens, which drafting fills
    accept: Callable[[Request], int] = lambda request: 0
    verified: int = 0  # sequences in steps that verify, those that have ended left out

    def plan(self, rank: Rank, closed: bool) -> LoweredModel:
        self.look(rank)
        budget, plan, preempted = self.policy.token_budget, [], False
        for request in list(rank.admitted):
            ended = request in rank.late
            if request not in rank.admitted or (ended and not self.runs_on(request)):
                continue
            tokens = min(self.new_tokens(request), budget)
            tokens = min(tokens, self.most or tokens)
            while tokens and not rank.kv.hold(request, self.slots(request, tokens)):
                preempted = True
                victim = rank.admitted.pop()
                self.preempt(rank, victim)
                if victim is request:
                    tokens = 0
            budget -= tokens
            if tokens:
                if not ended:
                    self.note(rank, request, tokens)
                plan.append((request, tokens))
                self.wasted += ended
        if not preempted:
            plan += self.admit(rank, budget)
        return plan

    def new_tokens(self, request: Request) -> int:
        return request.target - request.cached if request.in_prefill else 1 + self.drafts

    def slots(self, request: Request, tokens: int) -> int:
        ahead = self.policy.ahead and not request.in_prefill
        return (request.far if ahead else request.cached) + tokens + self.lookahead

    def runs_on(self, request: Request) -> bool:
        """One token was left, or more."""
        return self.policy.ahead and request.came > 1

    def note(self, rank: Rank, request: Request, tokens: int) -> None:
        new = request.came if request in self.coming else 0
        request.known = min(request.cached + tokens, request.input + request.generated - new)
        rank.kv.note(request, request.known)

    def landed(self, plans: Sequence[LoweredModel]) -> None:
        self.coming = []  # what is known of content is what was when a sequence was planned

    def stamp(self, request: Request, tokens: int) -> None:
        if request.generated == request.output:
            return
        if request.in_prefill:
            request.cached += tokens
            request.far, request.came = request.cached, 0
            if request.in_prefill:
                return
            came = 1
        else:
            good = min(self.accept(request), tokens - 1)
            came = min(good + 1, request.output - request.generated)
            request.far = request.cached + tokens
            most = request.input + request.output - 1
            request.cached = min(request.cached + good + 1, most)
            self.verified += 1
        request.came = came
        for _ in range(came):
            self.token(request)
        if self.policy.ahead:
            self.coming.append(request)


@dataclass
class ByPriority(Reference):
    """The same with vLLM's priorities: its own loop over running requests, in its own words.

    `Rank.admitted` is its list of running requests, those among them that the step in flight ends.
    """

    arrived: int = 0

    def queue(self, rank: Rank, request: Request) -> None:
        if request.place < 0:
            request.place = self.arrived
            self.arrived += 1
        rank.waiting.append(request)
        rank.waiting.sort(key=lambda r: (r.priority, r.place))

    def before(self, one: Request, other: Request) -> bool:
        return (one.priority, one.place) < (other.priority, other.place)

    def plan(self, rank: Rank, closed: bool) -> LoweredModel:
        self.look(rank)
        budget, index, preempted = self.policy.token_budget, 0, False
        self.gave_way = False
        scheduled: dict[Request, int] = {}
        while index < len(rank.admitted) and budget > 0:
            request = rank.admitted[index]
            ended = request in rank.late
            if ended and not self.runs_on(request):  # sure to have its last token
                index += 1
                continue
            tokens = min(self.new_tokens(request), budget)
            tokens = min(tokens, self.most or tokens)
            fits = True
            while fits and not rank.kv.hold(request, self.slots(request, tokens)):
                victim = max(rank.admitted, key=lambda r: (r.priority, r.place))
                rank.admitted.remove(victim)
                if victim in scheduled:
                    budget += scheduled.pop(victim)
                    index -= 1
                self.preempt(rank, victim)
                preempted = True
                fits = victim is not request
            if not fits:
                self.gave_way = True
                break
            if not ended:
                self.note(rank, request, tokens)
            scheduled[request] = tokens
            budget -= tokens
            index += 1
        plan = list(scheduled.items())
        self.wasted += sum(request in rank.late for request in scheduled)
        return plan if preempted or closed else plan + self.admit(rank, budget)

    def preempt(self, rank: Rank, victim: Request) -> None:
        ended = victim in rank.late
        super().preempt(rank, victim)
        if not ended:
            rank.waiting.remove(victim)
            self.queue(rank, victim)


@dataclass
class ByService(Reference):
    """The same with virtual token counters (algorithm 2 of Sheng et al., OSDI 2024), of one rank."""

    served: dict[int, int] = field(default_factory=dict)
    arrived: int = 0
    last: int = -1  # tenant whose request left the queue last
    spread: int = 0  # most that the counters of two tenants in the queue differed by
    ranks: list[Rank] = field(default_factory=list)

    def begin(self, requests: list[Request]) -> tuple[list[Request], list[Rank]]:
        to_come, self.ranks = super().begin(requests)
        return to_come, self.ranks

    def open(self, to_come: list[Request], done: Sequence[Request]) -> None:
        super().open(to_come, done)
        for rank in self.ranks:
            self.measure(rank)

    def measure(self, rank: Rank) -> None:
        found = [self.served[r.tenant] for r in rank.waiting]
        self.spread = max([self.spread, *(max(found) - c for c in found)])

    def queue(self, rank: Rank, request: Request) -> None:
        waiting = {r.tenant for r in rank.waiting}
        mine = self.served.setdefault(request.tenant, 0)
        if request.tenant not in waiting:
            others = [self.served[t] for t in waiting] or [self.served.get(self.last, 0)]
            self.served[request.tenant] = max(mine, min(others))
        request.place = self.arrived
        self.arrived += 1
        rank.waiting.append(request)
        self.measure(rank)

    def admit(self, rank: Rank, budget: int) -> LoweredModel:
        """One at a time, of the tenant served least."""
        plan: LoweredModel = []
        while rank.waiting and budget > 0:
            rank.waiting.sort(key=lambda r: r.place)
            least = min(self.served[r.tenant] for r in rank.waiting)
            first = next(r for r in rank.waiting if self.served[r.tenant] == least)
            rank.waiting.remove(first)
            others, rank.waiting = rank.waiting, [first]
            new = math.isnan(first.scheduled)
            own = super().admit(rank, budget)
            rank.waiting += others
            if not own:
                break
            self.last = first.tenant
            if new:
                self.served[first.tenant] += first.input
            self.measure(rank)
            plan += own
            budget -= min(own[0][1], budget)
        return plan

    def token(self, request: Request) -> None:
        super().token(request)
        self.served[request.tenant] += 2
