"""Do routers that remember prompts send them to where their start is, and forget as a cache would?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.recall import Recall, look_everywhere, new_recall, note_sent, with_pieces
from opbyte.simulator.fleet.routers import ROUTERS, Load
from opbyte.simulator.fleet.run import run
from opbyte.simulator.results.record import Run
from opbyte.workloads.jit import compiled
from opbyte.workloads.requests import open_requests

from .deployments import small

PIECE = 16


@compiled
def find_and_send(recall: Recall, row: int, tokens: int, n: int) -> int:
    look_everywhere(recall, row, tokens)
    found = recall.found[n].known
    note_sent(recall, row, tokens + 5, n)
    return int(found)


class Prompt(NamedTuple):
    """What a request's pieces are; of a session the only one is as long as what was sent, with its output."""

    tokens: int
    length: int
    pieces: tuple[object, ...]
    piece: int


class Slow:
    """The same list, as its description reads: newest first, whole pieces while they fit."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.newest = capacity, list[tuple[object, int]]()

    def found(self, prompt: Prompt) -> int:
        sizes, known = dict(self.newest), 0
        for piece in prompt.pieces:
            if piece not in sizes:
                break
            known += sizes[piece]
        return max(0, min(known, prompt.tokens - 1))

    def note(self, prompt: Prompt) -> None:
        for piece in prompt.pieces:
            self.newest = [(p, n) for p, n in self.newest if p != piece]
            self.newest.insert(0, (piece, prompt.piece or prompt.length))
        while sum(n for _, n in self.newest) > self.capacity:
            self.newest.pop()


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=3), st.booleans(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 2)), max_size=40),
)  # fmt: skip
@settings(deadline=None)
def test_what_is_remembered_equals_a_slow_list(
    capacities: list[int], session: bool, asked: list[tuple[int, int, int]]
) -> None:
    names = [(f"s{family}",) if session else tuple((family, i) for i in range(pieces)) for family, pieces, _ in asked]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(x for own in names for x in own))}
    recall = new_recall(capacities, 0 if session else PIECE)
    slots, starts = recall.slots, np.cumsum([0, *map(len, names)])
    for start, own in zip(starts, names, strict=False):
        slots = with_pieces(slots, int(start), np.array([numbers[x] for x in own], dtype=np.int64))
    recall = recall._replace(starts=starts, slots=slots, first=np.full(len(numbers), -1))
    slow = [Slow(capacity) for capacity in capacities]
    for row, (family, pieces, where) in enumerate(asked):
        n, tokens = where % len(capacities), PIECE * pieces + family
        prompt = Prompt(tokens, tokens + 5, names[row], 0 if session else PIECE)
        assert find_and_send(recall, row, tokens, n) == slow[n].found(prompt) < tokens
        slow[n].note(prompt)
        assert recall.ends[n].kept == sum(size for _, size in slow[n].newest) <= capacities[n]


def test_kv_aware_weighs_what_is_missing_against_what_is_held() -> None:
    loads = [Load(0, 1, held=900, found=0, missing=500), Load(0, 3, held=1000, found=450, missing=50)]
    assert ROUTERS["kv-aware"](0, loads) == 1
    loads[1] = Load(0, 3, held=1400, found=450, missing=50)
    assert ROUTERS["kv-aware"](0, loads) == 0


def test_cache_aware_follows_the_prompt_unless_loads_are_uneven() -> None:
    here = Load(0, 100, found=400, missing=600, kept=5000)
    there = Load(0, 60, found=0, missing=1000, kept=100)
    assert ROUTERS["cache-aware"](0, [there, here]) == 1
    assert ROUTERS["cache-aware"](0, [there, Load(0, 100, found=200, missing=800, kept=5000)]) == 0
    assert ROUTERS["cache-aware"](0, [there, Load(0, 125, found=400, missing=600)]) == 0


def served(deployment: Deployment, router: str, replicas: int = 3) -> Run:
    requests = open_requests(
        rate=60.0, input_len=200, output_len=40, lengths="uniform", limit=240, seed=1, turns=5.0, think=0.05
    )
    rules = make_policy("vllm", max_sequences=16)
    return run(deployment, rules, requests, fleet=Fleet(router, replicas=replicas))


def test_what_is_found_where_it_was_sent_is_not_computed_again() -> None:
    """Turns of sessions: dealt in turn they find only what an earlier turn left on that replica."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    asked = {name: served(d, name) for name in ("round-robin", "sticky", "kv-aware", "cache-aware")}
    for got in asked.values():
        assert got.output_tokens == got.requests.output_tokens.sum()
        assert got.prompt_tokens + got.cached_tokens == got.requests.input_tokens.sum()
    for name in ("kv-aware", "cache-aware"):
        assert asked[name].prompt_tokens < 0.8 * asked["round-robin"].prompt_tokens


@pytest.mark.parametrize("router", ["kv-aware", "cache-aware"])
def test_one_replica_is_the_plain_engine(router: str) -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    one, other = served(d, router, 1), served(d, "round-robin", 1)
    assert one.requests.last_token_s.tobytes() == other.requests.last_token_s.tobytes()


@pytest.mark.parametrize("router", ["kv-aware", "cache-aware"])
def test_without_a_cache_nothing_is_found(router: str) -> None:
    """Requests that share nothing, or policies that find nothing again: every one is served."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    requests = open_requests(rate=300.0, input_len=100, output_len=20, limit=60, seed=1)
    got = run(d, make_policy("mixed", max_sequences=16), requests, fleet=Fleet(router, replicas=2))
    assert got.output_tokens == 60 * 20
    assert got.cached_tokens == 0
