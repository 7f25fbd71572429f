"""One serving engine: the ranks that run in lock-step.

The compiled loop of `engine.loop` is used by three calls: `submit` requests, `advance` to a time or a number of
completions, and read timestamps. Arrivals, routers, links and faults belong to `driver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np

from ...workloads.records import Records, records
from ...workloads.requests import RequestBlock
from ..deploy.deployment import Deployment
from ..part import Combination
from ..registry import PARTS, check_parts, hooks_by_name, parts_of
from ..step.launches import Launches, all_launches
from ..step.lowering import MOST_TOKENS, LoweredModel, Slots
from ..step.step_totals import StepTotals, new_step_totals
from ..step.timed import Costs, Lowered, costs_of, lowered
from . import counting, exact, plans, waiting_on
from . import state as col
from .engine_part import EnginePart
from .exact import new_exact
from .hooks import NONE, Brought, Hooks, hooks_of
from .host import hand_over_all, idle_front
from .kv import CacheSettings, KvRules, check_fits, kv_rules
from .loop import EngineArrays, run
from .orders import Waiting, queue_keys
from .plans import new_plans, taken
from .policies import Limits, Policy, check_order
from .prefix import stocked, widened
from .state import F8, I8, Contents, State, Status, check_hashes, grown, new_state, outlasting
from .work_log import WorkLog


@dataclass(slots=True)
class Engine:
    """One lock-step group of ranks.

    Attributes
    ----------
    deployment, policy
        The deployed model, and the batching policy.
    keep_log : bool
        Keep the log of fast-forwarded steps (stages.csv).
    cache : CacheSettings
        Settings of the KV cache.
    keep_plans : bool
        Keep every plan (`plans`) of an engine with one rank; steps then run one by one.
    seed : int
        Seed of the samples of requests: accepted drafts.
    most_plans : int or None
        Number of plan entries after which no more plans are kept; None: all plans are kept.
    given : mapping of str to object
        Data that the run passes to parts of the engine, keyed by part name.
    clone : Engine, optional
        Another engine of the same deployment and policy: its lowered model is reused, and both fill one histogram of gaps.
    among : int
        Number of engines in the run, see `WorkLog`.
    """

    deployment: Deployment
    policy: Policy
    replica: int = 0
    keep_log: bool = False
    cache: CacheSettings = field(default_factory=CacheSettings)
    keep_plans: bool = False
    seed: int = 0
    most_plans: int | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    clone: InitVar[Engine | None] = None
    among: int = 1
    plan: LoweredModel = field(init=False)
    slots: Slots = field(init=False)
    limits: Limits = field(init=False)
    launches: Launches = field(init=False)
    kv: KvRules = field(init=False)
    step_totals: StepTotals = field(init=False)
    state: State = field(init=False)
    work_log: WorkLog = field(init=False)
    expert_side: Any = field(init=False, default=None)  # the devices of disaggregated experts
    logs: list[F8] = field(init=False, default_factory=list)
    plans: list[tuple[Records, Records]] = field(init=False, default_factory=list)
    contents: Contents = field(init=False)
    width: int = field(init=False, default=0)  # blocks of the longest request
    parts: dict[str, Any] = field(init=False, default_factory=dict)  # states of parts, by name
    does: dict[str, EnginePart] = field(init=False, default_factory=dict)  # Python side of parts, by name
    model: Lowered | None = field(init=False, default=None)
    _costs: Costs | None = field(init=False, default=None)
    _brought: list[Brought] = field(init=False, default_factory=list)
    _hooks: Hooks | None = field(init=False, default=None)  # None: a part has a new state
    _loop: EngineArrays | None = field(init=False, default=None)
    _made_of: State | None = field(init=False, default=None)

    def __post_init__(self, clone: Engine | None) -> None:
        asked = parts_of(Combination(self.deployment, self.policy, self.cache))
        check_parts(asked)
        counts = max(self.policy.token_budget, self.policy.max_sequences, MOST_TOKENS)
        if clone is None:
            self.plan, self.slots = lowered(self.deployment, self.replica, counts)
        else:
            self.plan, self.slots = clone.plan._replace(replica=self.replica), clone.slots
        d, rules = self.deployment, self.policy.rules
        self.launches = clone.launches if clone else all_launches(d, self.policy.calls)
        caching = self.policy.caching or rules is not None
        self.kv = clone.kv if clone else kv_rules(self.deployment, self.cache, caching)
        first = self.policy.token_budget if self.policy.first_chunk else 0
        self.kv = self.kv._replace(bare_first=self.policy.bare_first, first=first)
        self.limits = self.policy.limits(self.launches, self.plan.stages)
        self.step_totals = new_step_totals(self.plan, self.policy.max_sequences)
        overlaps = self.plan.streams is not None or bool(self.plan.shares) or len(d.system.device.processors) > 1
        devices = d.layout.all_devices / d.replicas if overlaps else None
        self.work_log = WorkLog(d.device.board, devices, self.among)
        self.does = {
            n: part for n, hook in hooks_by_name("engine", {*asked, *self.given}) if (part := hook(self)) is not None
        }
        self._empty()
        if clone is not None:
            self.state = self.state._replace(hist=clone.state.hist)
        if "scheduler" not in self.parts and not any(part.orders for part in self.does.values()):
            check_order(self.policy)
        if "scheduler" in self.parts:
            self.limits = self.limits._replace(ahead=False)  # fast-forwarded steps must start before the cut (`exact`)

    def _empty(self) -> None:
        """Create the state of an engine without requests, at time 0."""
        stages, ranks, most = self.plan.stages, self.deployment.ranks, self.policy.max_sequences
        moments, rules = self.plan.forms.shape[2] - 1, self.policy.rules
        blocks = self.kv.blocks if self.kv.cached else 0
        scheduler, overlap = None, False
        if rules is not None and blocks:  # these schedulers have their own page tables
            scheduler, blocks = rules.start(ranks, most, blocks, self.kv.block, stages), 0
            most, overlap = rules.most(most, stages), rules.overlap and stages == 1
        rows = ranks, most, moments, self.kv.capacity, blocks, self.step_totals.busy.shape[1] - 1
        self.state = new_state(*rows)._replace(hooks=NONE, front=idle_front(self.policy.host.front))
        self.parts, self.contents = {}, Contents()
        if scheduler is not None:  # these schedulers read the prefix hashes from `contents`
            self.state = self.state._replace(contents=records(col.FEWEST_ROWS, col.CONTENT))
            self.parts = {"scheduler": scheduler, "exact": new_exact(overlap)}
        if self.keep_plans:
            self.parts["plans"] = new_plans(col.LOG_ROWS * (stages + 2), col.LOG_ROWS * 2 * most)
        for name, part in self.does.items():
            state = part.start(self)
            if state is not None:
                self.parts[name] = state
        self._loop = self._hooks = None

    def fail(self, now: float) -> None:
        """Lose all requests and caches at time `now`; the work log keeps the work done until then."""
        self.take_log(Status.REACHED)  # rows of steps that compiled code ran outside `advance`
        old = self.state
        for part in self.does.values():
            part.fail(self, now)
        self._empty()
        self.state = outlasting(old, self.state, now)
        for part in self.does.values():
            part.recover(self)
        self._widen_own()

    @property
    def loop(self) -> EngineArrays:
        """Return the arrays that the compiled loop of steps runs on; they are found by address."""
        if self._loop is None or self._made_of is not self.state:
            if self._costs is None:
                self.model = Lowered(self.plan, self.step_totals)
                self._costs = costs_of(self.model)
            if self._hooks is None:
                self._brought = self._brings()  # kept here, because compiled code has only their addresses
                self._hooks = hooks_of(self._brought, self.state, self.limits, self.kv)
            state = self.state._replace(costs=self._costs, hooks=self._hooks)
            self._loop, self._made_of = EngineArrays(self.limits, self.kv, state), self.state
        return self._loop

    def _brings(self) -> list[Brought]:
        """Return the compiled hook functions of all parts, with the state that each function receives."""
        rules, asked, brought = self.policy.rules, self.policy.part, list[Brought]()
        core = {"exact": (exact.HOOKS,), "plans": (plans.HOOKS,)}
        if "scheduler" in self.parts and rules is not None:
            core["scheduler"] = PARTS[rules.part].hook("scheduler")
        for name, state in self.parts.items():
            hooks = core[name] if name in core else self.does[name].hooks
            brought += [(state, functions) for functions in hooks]
        if asked is not None:
            brought.append((waiting_on.Asking(asked.compiled, asked.own), waiting_on.HOOKS))
        if self.plan.uneven is not None:
            brought.append((self.model, counting.HOOKS))
        return brought

    def put(self, name: str, state: Any) -> None:
        """Replace the state of the part `name`."""
        if state is not self.parts[name]:
            self.parts[name], self._loop, self._hooks = state, None, None

    @property
    def named(self) -> bool:
        """Return whether the content of blocks is tracked, so that requests have columns for it (prefix caching)."""
        return len(self.state.contents) > 0

    @property
    def now(self) -> float:
        """Return the time that the engine has reached [s]; a step may end after the requested time."""
        return float(self.state.clocks[0].now)

    @property
    def ready(self) -> float:
        """Return the earliest time at which a next step can begin [s], as far as it is known."""
        counters = self.state.counters[0]
        idle = counters.released == counters.completed
        if not idle or counters.walk == counters.submitted:
            return self.now
        return max(self.now, float(self.state.requests.arrival[counters.walk]))

    @property
    def done(self) -> bool:
        """Return whether every submitted request has finished or was rejected."""
        return self.completed == self.submitted - self.refused

    @property
    def refused(self) -> int:
        """Return the number of requests rejected since the latest failure."""
        return int(self.state.counters[0].refused)

    def curve(self) -> tuple[F8, F8]:
        """Return running totals of the engine's work over time (`WorkLog.curve`)."""
        return self.work_log.curve(self.now, int(self.state.counters[0].emitted))

    @property
    def submitted(self) -> int:
        """Return the number of requests submitted since the latest failure."""
        return int(self.state.counters[0].submitted)

    @property
    def completed(self) -> int:
        """Return the number of requests that have their last token by the end of the latest step."""
        return int(self.state.counters[0].completed)

    def check(self, block: RequestBlock) -> None:
        """Refuse requests that could never run here.

        Raises
        ------
        CapacityError
            A request whose KV cache could never fit, even on an idle engine.
        InputError
            The block size does not divide the tokens of a prefix hash.
        """
        spare = self.limits.spare
        if "scheduler" in self.parts and self.policy.rules is not None:
            spare += self.policy.rules.spare(self.kv.block)
        check_fits(
            self.kv, block.input_tokens, block.output_tokens + spare, block.request_id, self.deployment.system.name
        )
        check_hashes(self.kv, block)

    def submit(self, block: RequestBlock) -> None:
        """Check and queue requests; with open-loop arrivals, in order of arrival over all calls.

        Raises
        ------
        CapacityError, InputError
            See `check`.
        """
        self.check(block)
        self.widen(int((block.input_tokens + block.output_tokens).max(initial=0)))
        self.add(block)

    def widen(self, tokens: int) -> None:
        """Enlarge the block tables to requests of `tokens` tokens, prompt and output together.

        With several batches in flight a sequence may be in each of them, and some of these steps are after its last token.
        """
        if "scheduler" in self.parts:
            self.width = max(self.width, -(-(tokens + self.limits.spare) // self.kv.block))
            self._widen_own()
        elif self.named:
            tokens += self.plan.stages - 1 + self.limits.spare
            self.width = max(self.width, -(-tokens // self.kv.block))
            if self.state.pool.blocks.shape[1] > 1:
                self.stock()

    def _widen_own(self) -> None:
        if "scheduler" in self.parts and self.policy.rules is not None:
            self.put("scheduler", self.policy.rules.widen(self.parts["scheduler"], self.width))

    def stock(self) -> None:
        """Allocate the prefix cache's blocks and block tables; an engine without requests has neither."""
        if not self.named or "scheduler" in self.parts:
            return
        pool = stocked(self.state.pool, self.kv.blocks)
        # In powers of two, because each block of requests may contain a longer one.
        pool = widened(pool, 1 << max(self.width - 1, 0).bit_length(), self.state.ranks.slots)
        if pool is not self.state.pool:
            self.state = self.state._replace(pool=pool)
        for part in self.does.values():
            part.stock(self)

    def add(self, block: RequestBlock, fronted: bool = True) -> None:
        """Queue checked requests; if they are `fronted`, the server's front end delays their arrival."""
        self.stock()
        have, keys = self.submitted, queue_keys(self.policy.order, Waiting.of(block))
        self.state = grown(self.state, block.arrival_s, block.input_tokens, block.output_tokens, keys)
        if fronted and any(self.policy.host.front[:2]):
            hand_over_all(self.state.front, self.state.requests[: self.submitted], block.input_tokens)
        for part in self.does.values():
            part.add(self, block, have)
        if self.named:
            self.state = self.contents.name(block, self.state, self.state.pool)

    def advance(self, until: float, goal: int = 0) -> float:
        """Run until time `until` [s], until `goal` requests have completed, or until no request is left.

        Returns
        -------
        float
            The time reached [s]: the end of a step.
        """
        while self.take_log(run(self.loop, float(until), int(goal))) == Status.LOG_FULL:
            pass
        return self.now

    def resume(
        self, block: RequestBlock, generated: int, cached: int | I8, first_s: float | F8, last_s: float | F8
    ) -> int:
        """Queue requests that another engine has begun; return the row of the first one in the state.

        Parameters
        ----------
        block : RequestBlock
            Checked requests, after `widen`; their output tokens include those generated before.
        generated : int
            Tokens generated so far; the cache must contain them like the prompt.
        cached : int or int64 array, shape (n,)
            Tokens whose KV cache is transferred with the request; the rest is computed again.
        first_s, last_s : float or float64 array, shape (n,)
            Times of their first and their latest tokens [s].
        """
        first = self.submitted
        self.add(block, not generated)
        rows = slice(first, first + len(block))
        if generated:
            requests = self.state.requests
            requests.generated[rows], requests.cached[rows] = generated, cached
            # The latest token is the next step's input, which computes its keys and values.
            requests.target[rows] = requests.input[rows] + generated - (np.asarray(cached) > 0)
            requests.first[rows], requests.last[rows] = first_s, last_s
        return first

    def take_log(self, status: int) -> int:
        """Process the log of steps that stopped with `status`; return the status."""
        self.take_rows(self.state.log[: int(self.state.counters[0].logged)])
        self.state.counters[0].logged = 0
        if self.keep_plans:
            taken(self.parts["plans"], self.plans, self.most_plans)
        if status == Status.STUCK:
            raise RuntimeError("no sequence can make progress; a bug in the policy")
        return int(status)

    def take_rows(self, log: F8) -> None:
        """Add rows of the step log to the work log, in order of time."""
        if len(log):
            if self.expert_side is not None:
                log = self.expert_side.taken(log, self.keep_log)
            rows = self.work_log.taken(log, self.keep_log)
            self.logs += [] if rows is None else [rows]

    def end_warmup(self) -> None:
        """Clear the statistics of token gaps at the end of the warm-up."""
        self.state.hist[:] = 0
        clocks = self.state.clocks[0]
        clocks.gap_sum = clocks.gap_count = 0.0
