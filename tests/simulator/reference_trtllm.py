"""TensorRT-LLM's executor, slow and obvious: lists of requests, and a tree of blocks.

It restates what the PyTorch backend of TensorRT-LLM 1.2 does (tensorrt_llm/_torch/pyexecutor/
py_executor.py; capacityScheduler.cpp, microBatchScheduler.cpp, kvCacheManager.cpp and evictionPolicy.cpp in
cpp/tensorrt_llm/batch_manager) but for blocks that are partly reused, for `test_trtllm.py` to compare
with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import reference_engine as engine
from .reference_engine import Loop, LoweredModel, StagedLoop, Step

Key = tuple[object, ...]


@dataclass(eq=False)
class Block:
    users: int = 0
    key: Key | None = None  # content, if it can be found
    parent: Block | None = None
    children: dict[Key, Block] = field(default_factory=dict)


@dataclass(eq=False)
class Request(engine.Request):
    """`target` is what is computed as a prompt, with what was generated before a pause."""

    position: int = 0  # of it computed or under way
    kv: int = 0  # tokens of its sequence; 0: none
    blocks: list[Block] = field(default_factory=list)
    flying: int = 0  # batches on stages that have it

    @property
    def generating(self) -> bool:
        return bool(self.kv) and self.position >= self.target

    def key(self, j: int, size: int) -> Key:
        """Content of its j-th block: a part of a hashed prefix, or its own tokens."""
        return self.content(j * size) if (j + 1) * size <= self.hashed else ("own", self.index, j)


class Memory:
    """Blocks of one rank."""

    def __init__(self, blocks: int, size: int, reuse: bool) -> None:
        self.size, self.reuse, self.hits = size, reuse, 0
        self.root = Block()
        self.free = [Block() for _ in range(blocks)]

    def ceil(self, tokens: int) -> int:
        return -(-tokens // self.size)

    def forget(self, block: Block) -> None:
        """Take a block and what follows it out of the tree."""
        for child in list(block.children.values()):
            self.forget(child)
        if block.key is not None and block.parent is not None:
            del block.parent.children[block.key]
        block.key = block.parent = None

    def take(self, request: Request) -> None:
        block = self.free.pop(0)
        self.forget(block)
        block.users = 1
        request.blocks.append(block)

    def begin(self, request: Request) -> int:
        at, most = self.root, (request.target - 1) // self.size if self.reuse else 0
        for j in range(most):
            found = at.children.get(request.key(j, self.size))
            if found is None:
                break
            if not found.users:
                self.free.remove(found)
            found.users += 1
            request.blocks.append(found)
            at = found
        reused = len(request.blocks) * self.size
        while len(request.blocks) < self.ceil(request.target):
            self.take(request)
        request.kv = request.target
        self.hits += reused
        return reused

    def store(self, request: Request, tokens: int) -> None:
        at, matching = self.root, True
        if not self.reuse:
            return
        for j in range(min(tokens // self.size, len(request.blocks))):
            key = request.key(j, self.size)
            found = at.children.get(key) if matching else None
            if found is None:
                matching, found = False, request.blocks[j]
                self.forget(found)
                found.key, found.parent = key, at
                at.children[key] = found
            at = found

    def end(self, request: Request, tokens: int) -> None:
        self.store(request, tokens)
        self.keep(request, 0)

    def keep(self, request: Request, kv: int) -> None:
        """Free what is beyond so many tokens, the last block first."""
        for block in reversed(request.blocks[self.ceil(kv) :]):
            block.users -= 1
            if not block.users:
                self.free.append(block)
        request.blocks, request.kv = request.blocks[: self.ceil(kv)], kv

    def first_new(self, request: Request) -> tuple[Block, Key] | None:
        """Where the first of a prompt's full blocks that cannot be found would be."""
        at = self.root
        for j in range(request.length // self.size):
            key = request.key(j, self.size)
            if key not in at.children:
                return at, key
            at = at.children[key]
        return None


class Rank:
    """One executor's requests and memory."""

    def __init__(self, rules: Any, requests: int, blocks: int, size: int, drafts: int = 0) -> None:
        self.rules, self.most, self.drafts = rules, requests, drafts
        self.stages = 1
        self.memory = Memory(blocks, size, rules.reuse)
        self.waiting: list[Request] = []
        self.active: list[Request] = []

    @property
    def work(self) -> bool:
        return bool(self.waiting or self.active)

    def fetch(self) -> None:
        self.active = [r for r in self.active if not r.finished]
        while self.waiting and len(self.active) < self.most * self.stages:
            request = self.waiting.pop(0)
            request.target = request.target or request.length
            self.active.append(request)

    def contributed(self) -> list[tuple[Block, Key]]:
        """What prompts under way will let others find."""
        if not self.rules.reuse:
            return []
        cut = [r for r in self.active if r.kv and not r.generating]
        return [new for new in map(self.memory.first_new, cut) if new]

    def skips(self, request: Request, told: list[tuple[Block, Key]]) -> bool:
        if request.kv or not self.rules.reuse:
            return False
        new = self.memory.first_new(request)
        if new is None:
            return False
        if new in told:
            return True
        told.append(new)
        return False

    def to_completion(self, request: Request) -> int:
        most = request.input + request.output + self.drafts
        return self.memory.ceil(most) - len(request.blocks)

    def guaranteed(self) -> list[Request]:
        """GuaranteedNoEvictScheduler"""
        told, chosen = self.contributed(), [r for r in self.active if r.generating]
        left = len(self.memory.free) - sum(map(self.to_completion, chosen))
        for request in [r for r in self.active if not r.generating]:
            if self.skips(request, told):
                continue
            if self.to_completion(request) > left:
                break
            left -= self.to_completion(request)
            chosen.append(request)
        return [r for r in self.active if r in chosen]

    def one_step(self, request: Request) -> int:
        ceil = self.memory.ceil
        if not request.kv:
            return ceil(request.target)
        if not request.generating:
            return 0
        left = request.input + request.output - request.kv + self.drafts
        more = min((1 if self.stages == 1 else 2) * (1 + self.drafts), left)
        return ceil(request.kv + more) - ceil(request.kv)

    def utilized(self) -> tuple[list[Request], list[Request]]:
        """MaxUtilizationScheduler: what runs, and what is paused."""
        told, chosen, paused = self.contributed(), list[Request](), list[Request]()
        users = {b: b.users for r in self.active for b in r.blocks}
        free, taken, line = len(self.memory.free), 0, list(self.active)
        while line:
            request = line[0]
            if self.skips(request, told):
                line.pop(0)
                continue
            if taken + self.one_step(request) <= free:
                taken += self.one_step(request)
                chosen.append(line.pop(0))
                continue
            started = [r for r in line if r.kv and not r.flying]
            if not started:
                break
            victim = started[-1]
            for block in victim.blocks:
                users[block] -= 1
                free += users[block] == 0
            paused.append(victim)
            line = line[: line.index(victim)]
        return chosen, paused

    def choose(self) -> tuple[LoweredModel, LoweredModel, list[Request]]:
        """Prompts and decodes of the next step with their tokens, and who is paused."""
        self.fetch()
        chosen, paused = self.utilized() if self.rules.evicts else (self.guaranteed(), [])
        most, tokens = self.rules.max_num_tokens, 0
        prompts: LoweredModel = []
        decodes: LoweredModel = []
        for request in chosen:
            if request.generating and request.flying:
                continue
            if request.generating:
                if tokens + 1 + self.drafts > most:
                    break
                decodes.append((request, 1 + self.drafts))
                tokens += 1 + self.drafts
            elif self.rules.chunked:
                prompts.append((request, request.target - request.position))
            else:
                whole, new = request.length, request.target
                if whole > most:  # TensorRT-LLM refuses one that is too long for any step; here it is cut
                    left, size = most - tokens, request.target - request.position
                    whole = new = size if size <= left else left // self.memory.size * self.memory.size
                if not new or tokens + whole > most:
                    break
                prompts.append((request, new))
                tokens += whole
            if len(prompts) + len(decodes) >= self.most:
                break
        if self.rules.chunked and sum(q for _, q in prompts) > most - tokens:
            left, size, cut = most - tokens, self.memory.size, []
            for request, q in prompts:
                new = q if q <= left else left // size * size
                left -= new
                if new:
                    cut.append((request, new))
            prompts = cut
        return prompts, decodes, paused

    def pause(self, request: Request) -> None:
        request.target, request.position = request.length, 0
        self.memory.end(request, request.target - 1)
        request.preemptions += 1

    def prepare(self, prompts: LoweredModel, decodes: LoweredModel, known: float) -> LoweredModel:
        """prepare_resources"""
        plan = []
        for request, tokens in prompts:
            if not request.kv:
                found = self.memory.begin(request)
                request.position = found
                if math.isnan(request.scheduled):
                    request.scheduled = known
                if found and found + tokens < request.target:
                    tokens = (found + tokens) // self.memory.size * self.memory.size - found
                tokens = min(tokens, request.target - found)
            request.cached = request.position
            plan.append((request, tokens))
        for request, tokens in decodes:
            request.kv += tokens
            while len(request.blocks) < self.memory.ceil(request.kv):
                self.memory.take(request)
            request.cached = request.position
            plan.append((request, tokens))
        return sorted(plan, key=lambda entry: self.active.index(entry[0]))


@dataclass
class Reference(Loop):
    """The executor's loop over ranks that step together. A step's notes are, of each rank, what a request brings."""

    waited: int = 0
    batched: int = 0

    @property
    def hits(self) -> int:
        return sum(rank.memory.hits for rank in self.ranks)

    def receive(self, last: Step | None) -> None:
        while self.to_come and self.to_come[0].arrival <= self.host:
            min(self.ranks, key=self.load).waiting.append(self.to_come.pop(0))

    def load(self, rank: Rank) -> int:
        return len(rank.active) + len(rank.waiting)

    def launch(self) -> Step | None:
        """_schedule, _pause_requests, prepare_resources, _forward_step"""
        choices = [rank.choose() for rank in self.ranks]
        waits = self.waits(choices)
        plans = []
        for rank, (prompts, decodes, paused) in zip(self.ranks, choices, strict=True):
            for request in paused:
                rank.pause(request)
            plans.append(rank.prepare([] if waits else prompts, decodes, self.host))
        if not any(plans):
            return None
        end = self.run(plans)
        kinds: list[dict[Request, str]] = []
        for plan in plans:
            kinds.append({})
            for request, tokens in plan:
                prompt = not request.generating
                request.position += tokens if prompt or tokens == 1 else 0
                whole = "prompt" if request.generating else "part"
                kinds[-1][request] = whole if prompt else "decode"
        return Step(plans, kinds, end)

    def waits(self, choices: Sequence[Any]) -> bool:
        """_waiting_requests and _balance_adp_requests"""
        rules = self.rules
        if len(choices) == 1:
            prompts, decodes, _ = choices[0]
            if not rules.wait_steps or not prompts or not decodes:
                return False
            tokens = sum(r.length for r, _ in prompts) + len(decodes)
            if self.waited >= rules.wait_steps or tokens >= rules.wait_tokens:
                self.waited = 0
                return False
            self.waited += 1
            return True
        if not rules.even:
            return False
        decoding = all(decodes for _, decodes, _ in choices)
        places = all(len(decodes) < rank.most for rank, (_, decodes, _) in zip(self.ranks, choices, strict=True))
        if places and all(prompts for prompts, _, _ in choices):
            self.waited = 0
            if not decoding:
                return False
            if self.batched < rules.even_batches:
                self.batched += 1
                return True
            self.batched = 0
            return False
        self.waited += 1
        if self.waited >= rules.even_steps or not decoding:
            self.waited = 0
            return False
        return True

    def process(self, step: Step) -> None:
        """_update_requests and _process_previous_batch: wait for a step's results."""
        self.host = max(self.host, step.end)
        for rank, plan, kinds in zip(self.ranks, step.plans, step.notes, strict=True):
            for request, tokens in plan:
                begun_anew = kinds[request] == "prompt" and not request.kv
                if request.finished or kinds[request] == "part" or begun_anew:
                    continue
                good = 0
                if kinds[request] == "decode" and tokens > 1:
                    good = self.accept(request)
                    last = request.input + request.output - 1
                    request.position = min(request.cached + good + 1, last)
                    rank.memory.keep(request, request.position)
                self.emit(request, good)
                if request.finished and request.kv:
                    rank.memory.end(request, request.length - 1)
            for request, _ in plan:
                if kinds[request] != "decode" and request.generating and not request.flying:
                    rank.memory.store(request, request.length - 1)


@dataclass
class Stages(StagedLoop, Reference):
    """The loop over pipeline stages (_executor_loop_pp): batches are planned from the same requests.

    A request whose last token is in flight is in no other batch, and none in flight
    is paused. One is planned and sent off; then the host waits for the first stage's work on the one before it (on this one
    up to 1.1, `serial`), and for the results of the next one.
    """

    def serve(self, requests: list[Request]) -> None:
        self.begin(requests)
        for rank in self.ranks:
            rank.stages, rank.most = self.stages, self.places
        flying: list[Step | None] = [None] * self.stages
        turn = 0
        while True:
            self.receive(None)
            before = self.free[0]
            flying[turn] = step = self.launch()
            self.count(step, 1)
            self.host = max(self.host, self.free[0] if self.rules.serial else before)
            turn = (turn + 1) % self.stages
            step = flying[turn]
            if step:
                self.count(step, -1)
                self.process(step)
                flying[turn] = None
            if not any(flying) and not self.idle():
                return

    def count(self, step: Step | None, more: int) -> None:
        for plan in step.plans if step else ():
            for request, _ in plan:
                request.flying += more
