"""Does a part from outside hold prompts back as its function says, and what it cannot be combined with say so?

Expected values: the slow scheduler with the same rule in plain Python, stamp for stamp; and the engine without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.extend import WaitingPrompt, part
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.outside import OUTSIDE, AskedPart, read_part
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.registry import PAIRS, PARTS, check_parts
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.workloads.errors import InputError

from .deployments import small
from .pieces import block_of, check_served, play, slow_engine, slow_requests, small_engine, stamps
from .reference import Rank, Reference, Request
from .test_scheduler import workloads

NAME = "late-decodes"


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    @part(NAME, options={"length": 100, "late_s": 0.01}, cannot={"failures": "it is a test"})
    def late_decodes(p: WaitingPrompt) -> bool:
        """Prompts over a length wait while decodes are late."""
        length, late_s = p.own
        return p.tokens > length and p.slowest_s > late_s

    yield
    del OUTSIDE._items[NAME], PARTS[NAME]
    for pair in [pair for pair in PAIRS if NAME in pair]:
        del PAIRS[pair]


@dataclass
class Patient(Reference):
    """The slow scheduler that lets long prompts wait while a decode is late."""

    length: float = 0.0
    late: float = 0.0

    def admit(self, rank: Rank, budget: int) -> list[tuple[Request, int]]:
        """One by one, as what runs changes with each."""
        plan: list[tuple[Request, int]] = []
        while rank.waiting and budget > 0:
            head, rest = rank.waiting[0], rank.waiting[1:]
            means = [(r.last - r.first) / (r.generated - 1) for r in rank.running if r.generated > 1]
            long_ = head.generated == 0 and head.target - head.cached > self.length
            if rank.running and long_ and max(means, default=0.0) > self.late:
                break
            rank.waiting = [head]
            own = super().admit(rank, budget)
            rank.waiting += rest
            if not own:
                break
            plan += own
            budget -= min(own[0][1], budget)
        return plan


@given(load=workloads(), length=st.integers(0, 400), late=st.floats(0.0, 0.02))
@settings(max_examples=12)
def test_same_schedule_as_the_slow_one(load: dict[str, Any], length: int, late: float) -> None:
    policy = replace(
        load["policy"], chunked=True, prompts_alone=False, poll_steps=1, gather_steps=0,
        even_steps=0, part=AskedPart(NAME, (float(length), late)),
    )  # fmt: skip
    load = load | {"policy": policy, "clients": None}
    d = small("llama-3-8b")
    engine = small_engine(d, load)
    play(engine, load)
    slow, requests = slow_engine(engine, None, Patient, length=length, late=late), slow_requests(load)
    slow.serve(requests)
    check_served(engine, slow, requests)


def test_what_holds_nothing_back_changes_no_byte() -> None:
    found = []
    for asked in (None, read_part(f"{NAME}:length=1e9")):
        policy = replace(make_policy("vllm", 512, 4), part=asked)
        engine = Engine(small("llama-3-8b"), policy)
        engine.submit(block_of(BUSY))
        engine.advance(math.inf)
        found.append(stamps(engine, 6))
    assert np.array_equal(*found)


BUSY: dict[str, Any] = {
    "inputs": [700, 30, 900, 10, 500, 800], "outputs": [40, 9, 30, 50, 8, 20],
    "gaps": [0.0, 1.0, 0.5, 2.0, 0.0, 1.0], "hashes": None,
}  # fmt: skip


def test_what_is_wrong_is_one_line() -> None:
    for text, says in (
        ("nobody", "unknown part"), (f"{NAME}:size=3", "unknown option 'size'"),
        (f"{NAME}:length=x", "must be a number"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            read_part(text)
    with pytest.raises(InputError, match="registered twice"):
        part(NAME, options={})(OUTSIDE[NAME][0])
    with pytest.raises(InputError, match="'kv-tier': unknown"):
        part("other", options={}, cannot={"kv-tier": "no"})(OUTSIDE[NAME][0])
    with pytest.raises(InputError, match="it is a test"):
        check_parts({NAME: "--part", "failures": "--fail"})
    load: dict[str, Any] = {"rate": 9.0, "requests": 4, "input_len": 40, "output_len": 4}
    with pytest.raises(InputError, match="has its own admission rules") as caught:
        run_scenario(Scenario.of("llama-3-8b", "h100-x1", policy="sglang", part=NAME, **load))
    assert f"--part {NAME}" in str(caught.value)
    assert "--policy sglang" in str(caught.value)
