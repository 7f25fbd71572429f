"""Batching policies: which sequences run in the next step, and how many tokens of each.

A policy is data (:class:`Policy`), which one compiled function (`planning.plan_rank`) reads. ``chunked`` and ``mixed``
differ in how prompts join the running decodes. An engine with its own scheduler has `OwnRules` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...workloads.errors import InputError
from ...workloads.jit_address import by_address
from ...workloads.registry import Registry
from ..limits import MAX_SEQUENCES
from ..registry import all_hooks
from ..step.launches import PYTHON, Calls
from .host import LAUNCH_S, NO_FRONT, NO_HOST, OUTSIDE_S, Host, HostDelay
from .orders import LANED, ORDERS

if TYPE_CHECKING:
    from ..step.launches import Launches
    from .outside import AskedPart


class OwnRules(Protocol):
    """Interface of the options of an engine's own scheduler, which `exact` runs; frozen data."""

    @property
    def part(self) -> str:
        """Return the name of the part that implements the scheduler."""
        ...

    @property
    def calls(self) -> Calls:
        """Return how the engine calls the kernels of a layer from Python."""
        ...

    @property
    def serial(self) -> bool:
        """Return whether a pipeline stage's host waits for its devices to finish a batch before it goes on."""
        ...

    def ordered(self, order: str) -> OwnRules:
        """Return the rules with an order of `orders.ORDERS` for waiting requests, if the scheduler keeps one itself."""
        ...

    def limited(self, tokens: int) -> OwnRules:
        """Return the rules with at most `tokens` tokens in a step."""
        ...

    def verifying(self) -> OwnRules:
        """Return the rules for a server with speculative decoding, whose decodes verify drafts."""
        ...

    @property
    def caches(self) -> bool:
        """Return whether the scheduler caches computed prompts (prefix caching)."""
        ...

    def decoding(self) -> OwnRules:
        """Return the rules of a decode engine, which receives requests with their KV caches."""
        ...

    def most(self, sequences: int, stages: int) -> int:
        """Return the number of requests that run at once, for a policy with that number of sequences."""
        ...

    @property
    def overlap(self) -> bool:
        """Return whether results are processed while the next step runs."""
        ...

    def start(self, ranks: int, sequences: int, pages: int, page: int, stages: int) -> Any:
        """Return the state before the first request, with `pages` pages of `page` tokens per rank."""
        ...

    def widen(self, x: Any, blocks: int) -> Any:
        """Return the state enlarged to requests of `blocks` pages."""
        ...

    def spare(self, page: int) -> int:
        """Return the tokens that must fit in addition to a request's own before its admission."""
        ...


MOST_CAPTURED = 512
"""Largest batch with a captured graph in vLLM by default (vllm/config/vllm.py)."""

NO_LIMIT = 1 << 40
"""More tokens than any step has: all decodes run as captured graphs."""


@by_address
class Limits(NamedTuple):
    """Limits of a policy for one step, as data for compiled code; see `Policy`."""

    token_budget: int
    max_sequences: int
    chunked: bool
    reserve: bool
    lazy: bool
    ahead: bool
    threshold: int
    lone: bool
    waiting_load: int
    prompts_alone: bool
    poll_steps: int
    gather_steps: int
    gather_tokens: int
    even_steps: int
    captured: int
    host_delay: HostDelay
    ordered: bool
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of a scheduler: running sequences before waiting ones, which are served in order of arrival by default.

    Attributes
    ----------
    token_budget : int
        Tokens of one step (decodes count one each).
    max_sequences : int
        Sequences that run at once on one rank.
    chunked : bool
        Whether prompts may be cut to the rest of the budget. If not, a prompt runs in one step; a prompt that exceeds the
        budget is the only prompt of its step.
    reserve : bool
        Whether admission reserves the KV cache of the finished request, so that nothing is preempted. If not, blocks
        are allocated as tokens are computed; if none is free, the last admitted request returns to the front of the
        queue and is recomputed.
    lazy : bool
        Whether blocks of a prompt are allocated chunk by chunk, although admission requires free memory for the whole
        prompt. If not, admission allocates all of them.
    first_chunk : bool
        Whether admission requires free memory only for the first chunk of a prompt. Needs `lazy`.
    ahead : bool
        Asynchronous scheduling: a step is planned when the previous one starts. An arrival, or the memory and batch slot
        of a finished sequence, is then first used in the step after the next one.
    caching : bool
        Prefix caching: freed blocks keep their content until they are reused. Models with attention windows or constant
        state use it only if the engine has a hybrid KV cache manager (vLLM).
    bare_first : bool
        Whether freed blocks without findable content are reused first, not last.
    serial_stages : bool
        Whether `ahead` applies to pipeline parallelism too: a decode is then in every batch in flight, and the first stage
        waits for the tokens of the last one.
    threshold : int
        Most tokens of one sequence in a step; 0: only the budget limits it. Needs `chunked`.
    lone : bool
        Whether the threshold is ignored if only one request is running or waiting.
    graphs : bool
        Whether decode-only steps run as CUDA graphs, padded to the next larger captured batch.
    waiting_load : int
        Weight of a waiting request, relative to a running one, when an arriving request is assigned to the least loaded rank.
    prompts_alone : bool
        Whether a step has either prompts or decodes; prompts come first, and decodes wait while a prompt can run. Not
        with `lazy`: blocks of a whole prompt are allocated at admission, so that its chunks always fit.
    poll_steps : int
        Number of decode-only steps between two polls for arrivals. The engine also polls after every step with a prompt,
        and before every plan while it is idle.
    gather_steps, gather_tokens : int
        While other requests decode, prompts wait until the prompts that could start and the decodes have
        `gather_tokens` tokens, or for `gather_steps` steps. 0 steps: prompts never wait.
    even_steps : int
        For data-parallel ranks: prompts start when every rank has one that could start, or after this number of steps; at
        once if a rank has nothing to decode. 0: prompts never wait.
    order : str
        Order in which waiting requests are admitted (`opbyte list orders`); empty: by arrival. A preempted request is
        before all others.
    rules : OwnRules, optional
        An engine's own scheduler, which replaces all rules above except `max_sequences`, `poll_steps`, `graphs`, `host`
        and `order`. For models with attention windows or constant state the fields above are used.
    part : AskedPart, optional
        A user-defined part, which lets prompts wait.
    sequences_why : str
        Source of `max_sequences`, if it depends on the deployment.
    eager : bool
        Whether no step runs as a CUDA graph.
    pieces : int
        Most tokens of a step with prompts that replays piecewise CUDA graphs, with attention between them; 0: none.
    largest : int
        If `graphs` is false: largest decode batch with a CUDA graph, without the time of padding; 0: any size has one.
    exact : bool
        Whether batches are not padded: decodes run as a graph only at captured sizes (1 to 32, and powers of two).
    host : Host
        Times of the host. They overlap with the devices' time with `ahead`, or with several batches in flight.
    """

    name: str
    token_budget: int
    max_sequences: int
    chunked: bool
    reserve: bool
    lazy: bool = False
    ahead: bool = False
    caching: bool = False
    bare_first: bool = False
    serial_stages: bool = False
    threshold: int = 0
    lone: bool = False
    waiting_load: int = 1
    prompts_alone: bool = False
    poll_steps: int = 1
    gather_steps: int = 0
    gather_tokens: int = 0
    even_steps: int = 0
    graphs: bool = False
    eager: bool = False
    pieces: int = 0
    largest: int = 0
    exact: bool = False
    host: Host = NO_HOST
    order: str = ""
    rules: OwnRules | None = None
    part: AskedPart | None = None
    sequences_why: str = ""
    first_chunk: bool = False

    def __post_init__(self) -> None:
        if self.prompts_alone and self.lazy:
            raise ValueError("prompts_alone needs whole prompts held at admission: not lazy")
        if self.threshold and not self.chunked:
            raise ValueError("a threshold cuts prompts: it needs chunked")

    @property
    def calls(self) -> Calls:
        """Return how the policy's engine calls the kernels of a layer from Python."""
        return PYTHON if self.rules is None else self.rules.calls

    @property
    def holds_back(self) -> bool:
        """Return whether the policy may delay prompts until others can start with them."""
        return self.gather_steps > 0 or self.even_steps > 0

    @property
    def captured(self) -> int:
        """Return the largest batch with a captured CUDA graph; 0: no graphs."""
        return self.captures(1)

    def captures(self, several: int) -> int:
        """Return the largest captured batch if a decode has up to `several` tokens; 0: no `graphs` (vllm/config/vllm.py)."""
        return min(2 * self.max_sequences * several, MOST_CAPTURED) if self.graphs else 0

    def hides_host(self, stages: int) -> bool:
        """Return whether the host plans the next step while the devices compute."""
        serial = stages > 1 and self.rules is not None and self.rules.serial
        return not serial and (self.ahead or stages > 1)

    def sync_s(self, stages: int) -> float:
        """Return the time between steps that synchronous scheduling adds [s]."""
        return 0.0 if self.hides_host(stages) else self.host.sync_s

    def host_delay(self, launches: Launches, stages: int, several: int = 1) -> HostDelay:
        """Return the host time of steps for a deployment's launches and stages, with `several` tokens per decode."""
        host, launch_s = self.host, self.host.launch_s / stages
        captured = self.captures(several) or self.largest * several or NO_LIMIT
        return HostDelay(
            host.step_s, host.sequence_s, launch_s * launches.decodes, self.hides_host(stages),
            host.gap_s + self.sync_s(stages), launch_s * launches.prompts,
            launch_s * launches.pieces, 0 if self.eager else min(self.pieces, self.captured or self.pieces),
            0 if self.eager else captured, launches.mixed_s / stages, self.exact,
        )  # fmt: skip

    def limits(self, launches: Launches, stages: int, several: int = 1) -> Limits:
        """Return the policy's limits as data for compiled code.

        Raises
        ------
        InputError
            Several stages, and a policy that polls arrivals or delays prompts.
        """
        if stages > 1 and (self.poll_steps > 1 or self.holds_back):
            reason = f"cannot be combined with policy {self.name}, which delays prompts"
            raise InputError("--pp", reason)
        return Limits(
            self.token_budget, self.max_sequences, self.chunked, self.reserve, self.lazy,
            self.ahead and (stages == 1 or self.serial_stages), self.threshold, self.lone, self.waiting_load,
            self.prompts_alone, self.poll_steps, self.gather_steps, self.gather_tokens, self.even_steps, self.captured,
            self.host_delay(launches, stages, several), bool(self.order),
        )  # fmt: skip


def _known_order(policy: Policy) -> None:
    """Refuse a policy whose order is unknown."""
    if policy.order:
        ORDERS[policy.order]  # says which there are


class _Policies(Registry[Policy]):
    """Registry of batching policies, including those of parts."""

    def load(self) -> None:
        super().load()
        for _ in all_hooks("policy"):  # a part's module registers it
            pass


POLICIES: Registry[Policy] = _Policies("policy", described=True, check=_known_order)

POLICIES.register("chunked", "prompts in chunks with decodes (Sarathi-Serve), paged KV cache (vLLM)")(
    Policy("chunked", 8192, 256, chunked=True, reserve=False)
)
"""Token budget with chunked prefill (Sarathi-Serve, OSDI 2024) and paged KV (vLLM, SOSP 2023)."""

POLICIES.register("mixed", "whole prompts with decodes, as in the Duplex paper's mixed stage")(
    Policy("mixed", 524_288, 256, chunked=False, reserve=True)
)
"""Whole prompts join the running decodes: the Duplex paper's mixed stage; the budget is from the authors' simulator
(eval/test.cpp)."""


POLICIES.register("vllm", "vLLM's V1 engine: chunks, prefix caching, asynchronous scheduling")(
    Policy(
        "vllm", 8192, 1024, chunked=True, reserve=False, lazy=True, ahead=True, caching=True, serial_stages=True,
        waiting_load=4, graphs=True, pieces=MOST_CAPTURED, host=Host(launch_s=LAUNCH_S, request_s=OUTSIDE_S),
    )
)  # fmt: skip
"""vLLM's scheduler (V1 engine, 0.19): chunked prefill, running before waiting, prefix caching, and asynchronous scheduling,
which is its default. Limits: the server's defaults on GPUs with at least 70 GiB (vllm/engine/arg_utils.py). A request goes to
the data-parallel rank with the least 4 x waiting + running requests (vllm/v1/engine/core_client.py)."""


def without_front(policy: Policy) -> Policy:
    """Return a policy without the server's front end.

    Requests reach the engine as they are sent, as with a server of many threads or timestamps of the engine.
    """
    return replace(policy, host=replace(policy.host, front=NO_FRONT))


def make_policy(name: str, token_budget: int | None = None, max_sequences: int | None = None) -> Policy:
    """Return the policy registered as ``POLICY`` or, with a queue order, ``POLICY+ORDER``, with changed limits.

    Raises
    ------
    InputError
        Unknown policy or order, or a limit outside [1, 2^31).
    """
    try:
        policy = _ordered(name)
    except InputError as error:
        raise InputError(f"--policy {name!r}", error.reason) from None
    return limited(policy, token_budget, max_sequences)


def _ordered(name: str) -> Policy:
    """Return a registered policy, or one with the queue order named after a plus sign."""
    base, plus, order = name.partition("+")
    if not plus or name in POLICIES:
        return POLICIES[name]
    ORDERS[order]  # says which there are
    policy = POLICIES[base]
    rules = policy.rules
    return replace(policy, name=name, order=order, rules=rules and rules.ordered(order))


def limited(policy: Policy, token_budget: int | None, max_sequences: int | None) -> Policy:
    """Return a policy with changed limits, see `make_policy`."""
    for option, value in (("--token-budget", token_budget), ("--max-seqs", max_sequences)):
        if value is not None and not 1 <= value < 2**31:
            raise InputError(option, f"must be in [1, 2^31), not {value}")
    if max_sequences is not None and max_sequences > MAX_SEQUENCES:
        reason = f"must be at most {MAX_SEQUENCES:,} sequences, not {max_sequences}"
        raise InputError("--max-seqs", reason)
    if token_budget is not None:
        rules = policy.rules and policy.rules.limited(token_budget)
        policy = replace(policy, token_budget=token_budget, rules=rules)
    if max_sequences is not None:
        policy = replace(policy, max_sequences=max_sequences)
    return policy


def check_order(policy: Policy) -> None:
    """Refuse a queue order that an engine with a single queue cannot follow.

    Raises
    ------
    InputError
    """
    if policy.order in LANED:
        raise InputError(
            f"--policy {policy.name}", "supports priorities only for models in which all layers cache every token"
        )
