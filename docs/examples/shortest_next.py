"""A part that changes which request is served next: the shortest prompt, unless another has waited too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from opbyte.extend import CheckedOptions, Figures, Part, Quantity, add, described, real
from opbyte.extend.engine import EnginePart, by_address, compiled_code, cut_out, int64, link_in, named, records

COUNTS = named("moved overdue", "")
"""Prompts that went before earlier ones, and prompts that had waited for longer than the limit."""


@described
@dataclass(frozen=True, slots=True)
class ShortestOptions(CheckedOptions):
    """Which waiting prompt is next."""

    shortest_within: float | None = real(
        "Serve the shortest prompt next unless another has waited longer.", 0.0, 1e6, "s"
    )


@by_address
class Order(NamedTuple):
    """State of the part in one engine."""

    limit_s: float
    counts: Any  # [1] of `COUNTS`


@compiled_code
def find_head(order: Order, state: Any, rank: int) -> None:
    """Put the request that is next at the head of the queue; preempted ones stay there."""
    queue, now = state.ranks[rank], state.clocks[0].now
    if queue.head < 0 or state.requests[queue.head].preempted > 0:
        return
    first = shortest = oldest = i = queue.head
    while i >= 0:
        if state.requests[i].target < state.requests[shortest].target:
            shortest = i
        if state.requests[i].arrival < state.requests[oldest].arrival:
            oldest = i
        i = state.requests[i].next
    overdue = now - state.requests[oldest].arrival > order.limit_s
    chosen = oldest if overdue else shortest
    order.counts[0].overdue += overdue
    if chosen != first:
        cut_out(state, queue, chosen)
        link_in(state, queue, chosen, -1, queue.head)
        order.counts[0].moved += 1


@compiled_code
def alike(order: Order, state: Any, limits: Any, kv_rules: Any) -> int:
    """One step where a prompt waits and could be admitted: it may become overdue."""
    for r in range(state.ranks.shape[0]):
        if state.ranks[r].waiting > 0 and state.ranks[r].running < limits.max_sequences:
            return int64(1)
    return int64(1 << 40)


class Shortest(EnginePart):
    """The part in one engine."""

    hooks = ({"find_head": find_head, "alike": alike},)

    def start(self, engine: Any) -> Order:
        return Order(float(engine.deployment.parts["shortest"]), records(1, COUNTS))


@dataclass(frozen=True)
class Left:
    """What the part did in a run."""

    moved: int
    overdue: int


def collect(run: Any, served: Any, stream: Any, warmup: Any) -> Left:
    counts = [engine.parts["shortest"].counts[0] for engine in served.engines]
    return Left(int(sum(c.moved for c in counts)), int(sum(c.overdue for c in counts)))


FIGURES = Figures("shortest", "Shortest next", (
    Quantity("moved", "Prompts that went before earlier ones.", label="prompts moved ahead"),
    Quantity("overdue", "Times that a prompt was served because of its wait.", label="overdue"),
))  # fmt: skip
add(
    Part(
        "shortest", "--shortest-within", "the shortest prompt is next", options=ShortestOptions, scope="deployment",
        asked=lambda a: a.part("shortest") is not None,
        hooks={
            "value": lambda options, said: options.shortest_within, "engine": Shortest, "collect": collect,
            "figures": FIGURES,
        },
        cannot={
            "classes": "each class has its own queue", "sglang": "its scheduler sorts its queue itself",
            "tensorrt-llm": "its scheduler has its own queue",
        },
    )
)  # fmt: skip

if __name__ == "__main__":
    from opbyte import simulate

    load = {"rate": 10.0, "requests": 200, "input_len": 2000, "output_len": 100, "lengths": "lognormal", "max_seqs": 8}
    for limit in (None, 60.0, 10.0):
        run = simulate("llama-3-8b", "h100-x1", policy="vllm", **load, shortest_within=limit)
        print(
            limit, f"{run.run.ttft_s.p50:.2f} s median, {run.run.ttft_s.p99:.2f} s p99", run.to_dict().get("shortest")
        )
