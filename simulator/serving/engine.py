"""Serving engines on a SimPy clock: one process per lock-step group of ranks.

An engine is the compiled loop of `core` behind three calls: `submit` requests, `advance` to a
time, read its stamps. The clock and whatever engines share (sources, routers, links, faults)
belong to SimPy; one event covers all steps between two blocks of arrivals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from ...workloads.errors import InputError
from ...workloads.requests import PREFIX_BLOCK_TOKENS, HashIds, RequestBlock, RequestStream
from ..batching.kv import CacheSettings, KvRules, check_fits, kv_rules
from ..batching.loop import LOG_FULL, STUCK, WARM, advance
from ..batching.pipeline import Pipe, advance_pipeline, new_pipe
from ..batching.plan_log import N_ENTRIES, N_PLANS, Plans, new_plans
from ..batching.policies import Limits, Policy
from ..batching.prefix import widened
from ..batching.state import (
    C_COMPLETED,
    C_EMITTED,
    C_LOG,
    C_OPENED,
    C_PREEMPTIONS,
    C_PROMPT,
    C_STEPS,
    C_SUBMITTED,
    F_ARRIVAL,
    F_FIRST,
    F_LAST,
    I_CACHED,
    I_GENERATED,
    I_HASHED,
    I_HASHES,
    I_INPUT,
    I_TARGET,
    T_NOW,
    T_TBT_COUNT,
    T_TBT_SUM,
    State,
    grown,
    new_state,
)
from ..deploy.deployment import Deployment
from ..step.compiled import Books, new_books, totals
from ..step.lowering import MOST_TOKENS, Plan, Slots, lower, ops_of

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


PLANS_KEPT = 256
"""Steps after which recorded plans are taken out of the state."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An engine's running totals at one moment: here, the end of its warm-up.

    Attributes
    ----------
    time_s : float
    emitted, prompt, steps, preemptions : int
        Tokens emitted, prompt tokens processed, steps run, sequences preempted.
    totals : float64 array, shape (ops, processors, 9)
        See `compiled.totals`.
    wall : float64 array, shape (ops,)
    """

    time_s: float
    emitted: int
    prompt: int
    steps: int
    preemptions: int
    totals: F8
    wall: F8


@dataclass(slots=True)
class Engine:
    """One lock-step group of ranks.

    Attributes
    ----------
    deployment, policy
        What runs, and how it is batched.
    clients : int or None
        Closed loop: requests in flight at once.
    warmup : int
        Completions after which rates and gap statistics start.
    keep_log : bool
        Keep the log of stretches (stages.csv).
    cache : CacheSettings
        How the KV cache is set up.
    keep_plans : bool
        Keep every plan (`plans`); steps then run one by one. Of one rank.
    """

    deployment: Deployment
    policy: Policy
    replica: int = 0
    clients: int | None = None
    warmup: int = 0
    keep_log: bool = False
    cache: CacheSettings = field(default_factory=CacheSettings)
    keep_plans: bool = False
    plan: Plan = field(init=False)
    slots: Slots = field(init=False)
    limits: Limits = field(init=False)
    kv: KvRules = field(init=False)
    books: Books = field(init=False)
    state: State = field(init=False)
    pipe: Pipe | None = field(init=False)
    warm: Mark = field(init=False)
    logs: list[F8] = field(init=False, default_factory=list)
    plans: list[tuple[F8, I8]] = field(init=False, default_factory=list)
    ids: list[I8] = field(init=False, default_factory=list)
    contents: dict[Hashable, int] = field(init=False, default_factory=dict)
    hashes: int = field(init=False, default=0)  # used entries of `Pool.hashes`

    def __post_init__(self) -> None:
        counts = max(self.policy.token_budget, self.policy.max_sequences, MOST_TOKENS)
        self.plan, self.slots = lower(self.deployment, self.replica, counts)
        self.kv = kv_rules(self.deployment, self.cache, self.policy.caching)
        self.kv = self.kv._replace(bare_first=self.policy.bare_first)
        self.books = new_books(self.plan, self.policy.max_sequences)
        self.limits = self.policy.limits(ops_of(self.plan), self.plan.stages)
        moments = self.plan.forms.shape[2] - 1
        self.state = new_state(
            self.deployment.ranks, self.policy.max_sequences, moments, self.kv.capacity,
            self.kv.blocks if self.kv.cached else 0, len(self.slots.processors),
        )  # fmt: skip
        stages, ranks = self.plan.stages, self.deployment.ranks
        if stages > 1 and (self.policy.poll_steps > 1 or self.policy.holds_back):
            raise InputError(
                "--pp",
                f"cannot go with policy {self.policy.name}, which polls or lets prompts wait",
            )
        self.pipe = new_pipe(stages, ranks, self.policy.max_sequences) if stages > 1 else None
        if self.keep_plans:
            plans = new_plans(PLANS_KEPT * (stages + 2), PLANS_KEPT * 2 * self.policy.max_sequences)
            self.state = self.state._replace(log=self.state.log[:PLANS_KEPT], plans=plans)
        self.warm = self.mark()

    @property
    def now(self) -> float:
        """Time reached [s]; a step that began before the asked-for time may end after it."""
        return float(self.state.clocks[T_NOW])

    @property
    def done(self) -> bool:
        """Whether every submitted request has finished."""
        counters = self.state.counters
        return bool(counters[C_COMPLETED] == counters[C_SUBMITTED])

    def mark(self) -> Mark:
        """Running totals as they stand."""
        counters = self.state.counters
        return Mark(
            self.now, int(counters[C_EMITTED]), int(counters[C_PROMPT]), int(counters[C_STEPS]),
            int(counters[C_PREEMPTIONS]), totals(self.plan, self.books.tally),
            self.books.wall.copy(),
        )  # fmt: skip

    def submit(self, block: RequestBlock) -> None:
        """Queue requests; open loop: in order of arrival, none earlier than submitted before.

        Raises
        ------
        CapacityError
            A request whose KV cache could never fit, even alone.
        """
        check_fits(
            self.kv, block.input_tokens, block.output_tokens, block.request_id,
            self.deployment.system.name,
        )  # fmt: skip
        arrival = block.arrival_s
        if self.clients is not None:
            arrival = np.full(len(block), np.inf)
        self.state = grown(self.state, arrival, block.input_tokens, block.output_tokens)
        self.ids.append(block.request_id)
        if self.kv.cached:
            self._note_content(block)
        if self.clients is not None:
            self._open(self.clients)

    def _note_content(self, block: RequestBlock) -> None:
        """Prefix hashes of new requests, and room for the blocks of the longest."""
        longest = int((block.input_tokens + block.output_tokens).max(initial=0))
        pool = widened(self.state.pool, -(-longest // self.kv.block))
        ids, covered = _contents(block)
        if ids is not None:
            if PREFIX_BLOCK_TOKENS % self.kv.block:
                raise InputError(
                    "block_size", f"must divide the {PREFIX_BLOCK_TOKENS} tokens of a prefix hash, "
                    f"not be {self.kv.block}",
                )  # fmt: skip
            numbers = [self.contents.setdefault(h, len(self.contents)) for own in ids for h in own]
            counts = np.array([len(own) for own in ids], dtype=np.int64)
            rows = self.state.ints[int(self.state.counters[C_SUBMITTED]) - len(block) :][
                : len(block)
            ]
            rows[:, I_HASHES] = self.hashes + np.cumsum(counts) - counts
            rows[:, I_HASHED] = np.minimum(counts * PREFIX_BLOCK_TOKENS, covered)
            if self.hashes + len(numbers) > len(pool.hashes):  # doubled, so that adding is linear
                pool = pool._replace(
                    hashes=np.resize(pool.hashes, 2 * (self.hashes + len(numbers)))
                )
            pool.hashes[self.hashes : self.hashes + len(numbers)] = numbers
            self.hashes += len(numbers)
        self.state = self.state._replace(pool=pool)

    def _open(self, clients: int) -> None:
        """Give the first `clients` requests of a closed loop their arrival at time 0."""
        counters = self.state.counters
        first = min(clients, int(counters[C_SUBMITTED]))
        if counters[C_OPENED] < first:
            self.state.floats[counters[C_OPENED] : first, F_ARRIVAL] = 0.0
            counters[C_OPENED] = first

    def advance(self, until: float) -> float:
        """Run until `until` or until nothing is left; returns the time reached [s]."""
        while True:
            status = self._run(until, self.warmup)
            if status == WARM:
                self.end_warmup()
            elif status != LOG_FULL:
                return self.now

    def resume(
        self, block: RequestBlock, generated: int, cached: int, first_s: float, last_s: float
    ) -> int:
        """Queue one request that has run elsewhere; returns its row in the state.

        Parameters
        ----------
        block : RequestBlock
            The request; its output counts all tokens, those generated before too.
        generated : int
            Tokens generated so far; they are part of what must be in the cache.
        cached : int
            Tokens whose KV cache comes along; the rest is computed again.
        first_s, last_s : float
            When its first and its latest token came [s].
        """
        row = int(self.state.counters[C_SUBMITTED])
        self.submit(block)
        if generated:
            request, stamps = self.state.ints[row], self.state.floats[row]
            request[I_GENERATED], request[I_CACHED] = generated, cached
            # The latest token is the next step's input: its own keys and values come then.
            request[I_TARGET] = request[I_INPUT] + generated - (cached > 0)
            stamps[F_FIRST], stamps[F_LAST] = first_s, last_s
        return row

    def advance_to_completion(self, until: float) -> float:
        """Run until `until`, until a request completes or nothing is left; the time reached [s].

        What shares a clock with other engines must stop where it may change them.
        """
        goal = int(self.state.counters[C_COMPLETED]) + 1
        status = LOG_FULL
        while status == LOG_FULL:
            status = self._run(until, goal)
        return self.now

    def _run(self, until: float, completions: int) -> int:
        """Run compiled steps until something is to be done here; why they stopped."""
        what = self.plan, self.limits, self.kv, self.state, self.books
        how = until, self.clients is not None, completions
        if self.pipe is None:
            status = advance(*what, *how)
        else:
            status = advance_pipeline(*what, self.pipe, *how)
        rows = int(self.state.counters[C_LOG])
        if self.keep_log and rows:
            self.logs.append(self.state.log[:rows].copy())
        self.state.counters[C_LOG] = 0
        if self.state.plans is not None:
            self._take_plans(self.state.plans)
        if status == STUCK:
            raise RuntimeError("no sequence can make progress; a bug in the policy")
        return int(status)

    def _take_plans(self, plans: Plans) -> None:
        """Move the recorded plans out of the state."""
        made, entries = int(plans.counts[N_PLANS]), int(plans.counts[N_ENTRIES])
        self.plans.append((plans.plans[:made].copy(), plans.entries[:entries].copy()))
        plans.counts[:] = 0

    def end_warmup(self) -> None:
        """Rates and gap statistics start here."""
        self.warm = self.mark()
        self.state.hist[:] = 0
        self.state.clocks[[T_TBT_SUM, T_TBT_COUNT]] = 0.0


def _contents(block: RequestBlock) -> tuple[Sequence[Sequence[Hashable]] | None, I8]:
    """Names of the content of each request's blocks, and how many tokens they cover.

    A trace's hashes cover prompts. A session is one growing text, each request's prompt and output
    a longer start of it, whose pieces are named here; they cover outputs too.
    """
    if block.hash_ids is not None or block.turns is None:
        return block.hash_ids, block.input_tokens
    covered = block.input_tokens + block.output_tokens
    counts = (-(-covered // PREFIX_BLOCK_TOKENS)).tolist()
    sessions = block.turns.session.tolist()
    names = [[(s, k) for k in range(n)] for s, n in zip(sessions, counts, strict=True)]
    return names, covered


Progress = Callable[[int, int, float], None]
"""Told (requests completed, requests known, simulated seconds) a few times a second."""


def serve(engines: list[Engine], stream: RequestStream, progress: Progress | None = None) -> float:
    """Run a stream of requests through engines, dealt to them in turn (round robin).

    Returns
    -------
    float
        Time of the last completion [s].
    """
    env = simpy.Environment()
    inboxes = [simpy.Store(env) for _ in engines]
    for engine, inbox in zip(engines, inboxes, strict=True):
        env.process(_engine_process(env, engine, inbox, _report(engines, progress)))
    env.process(_source(env, stream, inboxes))
    env.run()
    return max(engine.now for engine in engines)


def _source(
    env: simpy.Environment, stream: RequestStream, inboxes: list[simpy.Store]
) -> Generator[simpy.Event, Any, None]:
    """Deal blocks of arrivals; a block is known to engines before its first arrival."""
    for block, horizon in _with_horizon(iter(stream)):
        for i, inbox in enumerate(inboxes):
            mine = (block.request_id % len(inboxes)) == i
            share = RequestBlock(
                block.request_id[mine], block.arrival_s[mine], block.input_tokens[mine],
                block.output_tokens[mine], _of(block.hash_ids, mine),
                None if block.turns is None else block.turns.take(mine),
            )  # fmt: skip
            yield inbox.put((share, horizon))
        if stream.closed_loop is None and np.isfinite(horizon):
            yield env.timeout(max(horizon - env.now, 0.0))


def _of(ids: HashIds | None, mine: npt.NDArray[np.bool_]) -> HashIds | None:
    return None if ids is None else tuple(ids[i] for i in np.flatnonzero(mine))


def _with_horizon(blocks: Iterator[RequestBlock]) -> Iterator[tuple[RequestBlock, float]]:
    """Each block with the time up to which all arrivals are then known (infinity at the end)."""
    held: RequestBlock | None = None
    for block in blocks:
        if held is not None:
            yield held, float(block.arrival_s[0])
        held = block
    if held is not None:
        yield held, np.inf


def _report(engines: list[Engine], progress: Progress | None) -> Callable[[], None] | None:
    if progress is None:
        return None

    def report() -> None:
        done = sum(int(e.state.counters[C_COMPLETED]) for e in engines)
        known = sum(int(e.state.counters[C_SUBMITTED]) for e in engines)
        progress(done, known, max(e.now for e in engines))

    return report


def _advance_reporting(engine: Engine, horizon: float, report: Callable[[], None]) -> float:
    """Advance in slices of simulated time that take about a fifth of a second each."""
    slice_s, until = 1.0, engine.now
    while until < horizon and not engine.done:
        until = min(horizon, max(until, engine.now) + slice_s)
        began = time.perf_counter()
        engine.advance(until)
        took = time.perf_counter() - began
        slice_s *= 2.0 if took < 0.1 else (0.5 if took > 0.4 else 1.0)
        report()
    return engine.now


def _engine_process(
    env: simpy.Environment,
    engine: Engine,
    inbox: simpy.Store,
    report: Callable[[], None] | None,
) -> Generator[simpy.Event, Any, None]:
    """Take blocks, run to their horizon, let the shared clock follow."""
    while True:
        block, horizon = yield inbox.get()
        engine.submit(block)
        closed = engine.clients is not None
        if closed and np.isfinite(horizon):
            continue  # a closed loop needs every request before it can release the next
        if report is None:
            reached = engine.advance(horizon)
        else:
            reached = _advance_reporting(engine, horizon, report)
        yield env.timeout(max(reached - env.now, 0.0))
        if not np.isfinite(horizon):
            return
