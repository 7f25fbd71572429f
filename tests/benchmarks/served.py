"""Serves loads and says what they took; with `before`, by the rules as they were before vLLM's own.

Run by `test_exact_rules.py`, once for each set of rules: ``POLICY LOAD`` in, CPU seconds, requests and steps
out, a line each. What the exact rules replaced is put in their place before anything is compiled:

- content of a token in flight is findable after a preemption, and is looked at for no sequence;
- who ends in the step in flight is not preempted;
- of several blocks of one content the first alone is findable, without a ring of the others;
- with stages a decode is in one batch at a time.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from opbyte.devices.catalog import load_system
from opbyte.simulator.batching import holding, planning, prefix
from opbyte.simulator.batching.kv import CacheSettings
from opbyte.simulator.batching.policies import POLICIES
from opbyte.simulator.batching.prefix import KEY, NAMED, NEXT, UNUSED, USERS, Pool, place
from opbyte.simulator.batching.state import I_CACHED, I_FLIGHT, I_HASHED, I_KEYED, I_TARGET, State
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.parts.kv_tiers import store as tier_store
from opbyte.simulator.serving.run import run
from opbyte.workloads.catalog import load_model
from opbyte.workloads.jit import compiled_given, compiled_part
from opbyte.workloads.requests import open_requests

LENGTHS: dict[str, Any] = {"input_len": 512, "output_len": 128, "lengths": "lognormal"}

LOADS: dict[str, tuple[int, dict[str, Any], int | None]] = {
    # Pipeline stages, workload, KV blocks (None: what fits).
    "open": (1, {"rate": 50.0, "limit": 10_000, **LENGTHS}, None),
    "sessions": (1, {"rate": 12.0, "turns": 4.0, "limit": 6_000, **LENGTHS}, 8_000),
    "tight": (1, {"closed_loop": 256, "limit": 6_000, **LENGTHS}, 6_000),
    "stages": (4, {"rate": 50.0, "limit": 5_000, **LENGTHS}, None),
}
"""An ordinary load; content that is shared and evicted; a cache that preempts; a pipeline."""


@compiled_part
def remember(pool: Pool, r: int, key: int) -> int:
    table, blocks = pool.table[r], pool.blocks[r]
    top, mask = blocks[blocks.shape[0] - 1], table.shape[0] - 1
    b, at = top[UNUSED], place(key, mask)
    if b < 0:
        b = top[NAMED]
        top[NAMED] += 1
    else:
        top[UNUSED] = blocks[b, NEXT]
    blocks[b, USERS], blocks[b, KEY] = 1, 0
    while table[at, 0] != 0:
        if table[at, 0] == key:
            return int(b)
        at = (at + 1) & mask
    table[at, 0], table[at, 1], blocks[b, KEY] = key, b, key
    return int(b)


@compiled_part
def forget(pool: Pool, r: int, b: int) -> None:
    table, blocks = pool.table[r], pool.blocks[r]
    top, mask, key = blocks[blocks.shape[0] - 1], table.shape[0] - 1, blocks[b, KEY]
    blocks[b, NEXT], top[UNUSED] = top[UNUSED], b
    if key == 0:
        return
    hole = place(key, mask)
    while table[hole, 0] != key:
        hole = (hole + 1) & mask
    at = (hole + 1) & mask
    while table[at, 0] != 0:
        home = place(table[at, 0], mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            table[hole, 0], table[hole, 1] = table[at, 0], table[at, 1]
            hole = at
        at = (at + 1) & mask
    table[hole, 0] = 0


note_content = holding.note_content


@compiled_given("st.pool", otherwise=lambda st, kv, r, i, want: None)
def note_pooled(state: State, kv: Any, r: int, i: int, want: int) -> None:
    request = state.ints[i]
    found = min(request[I_CACHED] + want, request[I_HASHED])
    if found >= (request[I_KEYED] + 1) * kv.block:
        note_content(state, kv, r, i, found)


@compiled_part
def next_tokens(request: Any) -> int:
    left = request[I_TARGET] - request[I_CACHED]
    if left > 0:
        return int(left)
    return int(request[I_FLIGHT] == 0)


@compiled_part
def found_again(state: State, i: int) -> int:
    return int(state.ints[i, I_CACHED])


@compiled_part
def preempt_late(state: State, kv: Any, r: int) -> bool:
    return False


def use_rules_before() -> None:
    """Put them wherever the exact ones are called from."""
    replaced: list[tuple[object, object]] = [
        (prefix.remember, remember),
        (prefix.forget, forget),
        (tier_store.lose, forget),
        (holding.note_planned, note_pooled),
        (holding.found_again, found_again),
        (holding.preempt_late, preempt_late),
        (planning.next_tokens, next_tokens),
    ]
    for name, module in list(sys.modules.items()):
        if name.startswith("opbyte.simulator"):
            for key, value in list(vars(module).items()):
                for exact, before in replaced:
                    if value is exact:
                        setattr(module, key, before)


def serve(policy: str, load: str, limit: int | None = None) -> tuple[float, int, int]:
    """CPU seconds, requests and steps of a load."""
    stages, options, blocks = LOADS[load]
    options = options | ({"limit": limit} if limit else {})
    name = policy.removesuffix("-fields")
    rules = replace(POLICIES[name], rules=None) if policy != name else POLICIES[name]
    deployment = deploy(load_model("llama-3-8b"), load_system(f"h100-x{stages}"), pp=stages)
    stream = open_requests(**options)
    began = time.process_time()
    found = run(deployment, rules, stream, cache=CacheSettings(blocks=blocks))
    return time.process_time() - began, options["limit"], found.iterations


if __name__ == "__main__":
    if "before" in sys.argv:
        use_rules_before()
    met: set[str] = set()
    for line in sys.stdin:
        what = line.split()
        if line not in met:
            met.add(line)
            serve(what[0], what[1], 40)  # compiles
        print(*serve(what[0], what[1]), flush=True)
