"""Do any two parts run together, and is nothing lost between them?

Of every pair of parts that is not refused, random scenarios run twice: compiled, and as plain Python in another process,
where each step's price is compared with the explicit path's for the sequences that were counted into its batch. Both
runs are equal to 1e-9. What has no effect leaves every byte as it was. Where two parts share the host's link it never
carries more than its time allows.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.simulator.engine import counting, prefix
from opbyte.simulator.parts.drafts import verify
from opbyte.simulator.parts.expert_cache.fetched import StepCaches
from opbyte.simulator.registry import PAIRS, PARTS
from opbyte.simulator.results.record import Run
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.simulator.step import lowering, timed
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import DECODE, PREFILL, TOKENS, Batch
from opbyte.workloads.catalog import load_model

from ..tables import tables

TOP = Path(__file__).resolve().parents[2]
AT_ONCE, SEED = 20, 138_620
"""Scenarios of a test; ``make nightly`` draws as many more as it has examples."""
DRAWN: dict[str, Any] = tables(__file__)
"""Options to draw from: of any scenario, of parts, and of pairs that need others."""


def pair_of(number: int) -> tuple[str, ...]:
    """Parts of a scenario by its number: all pairs in turn, of which the first 20 have every part."""
    pairs = [pair for pair in combinations(PARTS, 2) if not {pair, pair[::-1]} & PAIRS.keys()]
    random.Random(SEED).shuffle(pairs)
    return pairs[number % len(pairs)]


def drawn(number: int) -> Scenario:
    """A random scenario of a pair of parts."""
    draw, pair = random.Random(number), pair_of(number)
    options = {name: draw.choice(values) for name, values in DRAWN["load"].items()}
    both = DRAWN["parts"].get("+".join(pair))
    for choices in [*DRAWN["any"], *([both] if both else [DRAWN["parts"][part] for part in pair])]:
        options |= draw.choice(choices)
    name, system = options.pop("model"), None if "prefill" in options else "h100-x4"
    text = {key: x.format(model=name, here=Path(__file__).parent) for key, x in options.items() if isinstance(x, str)}
    model = load_model(name)
    return Scenario.of(replace(model, layers=model.layers[:2]), system, seed=number, costs="roofline", **options | text)


def outcome(run: Run) -> list[float]:
    """What came of a run: stamps and tokens of every request, and sums."""
    rows = run.requests
    columns = rows.scheduled_s, rows.first_token_s, rows.last_token_s, rows.output_tokens, rows.preemptions
    sums = [run.joules, run.prompt_tokens, run.cached_tokens, run.makespan_s]
    out: list[float] = np.concatenate([*columns, sums]).tolist()
    return out


Row = tuple[int, int, int, bool]
"""Tokens and context of a sequence, its phase, and whether each of its tokens has logits."""
COUNTS: dict[str, Callable[..., list[Row]]] = {
    "count_chunk": lambda windows, context, tokens: [(tokens, context, PREFILL, True)],
    "count_decode": lambda windows, context: [(1, context, DECODE, True)],
    "count_several": lambda windows, context, tokens, rows: [(tokens, context, DECODE, rows == tokens)],
    "count_decodes": lambda n, keys: [(1, keys // n + (j < keys % n) - 1, DECODE, True) for j in range(n)],
}
"""Functions that add to a batch's sums, and the sequences that each adds, from its arguments."""


def wrap(module: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Put a wrapper, which gets what it wraps first, in the place of a function wherever that is imported."""
    old = getattr(module, name)
    for other in [m for m in sys.modules.values() if getattr(m, name, None) is old]:
        setattr(other, name, partial(wrapper, old))


class ExplicitSteps:
    """Compares each step's price with the explicit path's, while engines run as plain Python."""

    def __init__(self) -> None:
        self.rows, self.lowered, self.caches = defaultdict[int, list[Row]](list), dict[int, Any](), dict[int, Any]()
        self.captured = self.done = 0
        for name, rows_of in COUNTS.items():
            wrap(counting, name, partial(self.count, rows_of))
        wrap(lowering, "lower", self.note)
        wrap(verify, "pad", self.pad)
        wrap(timed, "step_seconds", self.compare)
        # Integers have no limit here: keys begin elsewhere in a table.
        wrap(prefix, "place", lambda old, key, mask: hash(int(key)) & int(mask))

    def count(self, rows_of: Any, old: Any, sums: Any, *given: Any) -> None:
        """Note the sequences of a batch by the address of its sums."""
        rows = self.rows[sums.ctypes.data]
        if sums[TOKENS] == 0.0:
            rows.clear()
        rows += rows_of(*given)
        old(sums, *given)

    def note(self, old: Any, deployment: Any, *given: Any, **more: Any) -> Any:
        """Note what a plan was lowered from."""
        lowered = old(deployment, *given, **more)
        self.lowered[id(lowered[0].params)] = (deployment, lowered)
        return lowered

    def pad(self, old: Any, sums: Any, drafts: Any) -> Any:
        """Note the largest graph of a step that verifies or drafts."""
        self.captured = drafts.captured
        return old(sums, drafts)

    def batch(self, sums: Any, chunks: Iterator[int]) -> Batch:
        """A rank's batch; its decodes are longer by the steps that were fast-forwarded."""
        rows = sorted(self.rows[sums.ctypes.data], key=lambda row: row[2]) if sums[TOKENS] else []
        columns = [
            (new, context if phase else context + self.done, phase, next(chunks) if phase else 0)
            for new, context, phase, _ in rows
        ]
        return Batch(*np.array(columns, dtype=np.int64).reshape(-1, 4).T, every=all(row[3] for row in rows))

    def compare(self, old: Any, plan: Any, moments: Any, batch: Any, fresh: bool, captured: int, sums: Any) -> float:
        """A step's price, which must be the explicit path's."""
        seconds = float(old(plan, moments, batch, fresh, captured, sums))
        self.done = 0 if fresh else self.done + 1
        deployment, caches = self.lowered[id(plan.params)][0], None
        chunks = iter(batch.chunks[1])
        given = deployment, [self.batch(x, chunks) for x in moments], int(batch.step), int(plan.replica), False
        if "resident-experts" in deployment.parts:
            known = self.caches.setdefault(id(sums), (sums, StepCaches(deployment, int(plan.replica))))
            caches = known[1]
        stage = explicit_stage(*given, captured or self.captured, caches)
        self.captured = 0
        assert seconds == pytest.approx(stage.seconds, rel=1e-9), given
        return seconds


@pytest.mark.parametrize("first", range(0, AT_ONCE * int(os.environ.get("OPBYTE_EXAMPLES", "1")), AT_ONCE))
def test_a_pair_runs_compiled_as_by_the_explicit_path(first: int) -> None:
    plain = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.simulator.test_parts_together", str(first)], cwd=TOP,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr[-3000:]
    for number, expected in enumerate(json.loads(plain.stdout), first):
        run = run_scenario(drawn(number))
        np.testing.assert_allclose(outcome(run), expected, rtol=1e-9, err_msg=f"{number}: {pair_of(number)}")
        rows = run.requests
        assert run.output_tokens == rows.output_tokens.sum()
        assert (rows.arrival_s <= rows.scheduled_s).all()
        assert (rows.scheduled_s < rows.first_token_s).all()
        assert (rows.first_token_s <= rows.last_token_s).all()


LOAD: dict[str, Any] = {"rate": 12.0, "requests": 40, "input_len": 160, "output_len": 12, "seed": 5}
ADAPTERS: dict[str, Any] = {"adapters": 12, "adapters_resident": 2}
LLAMA = ("llama-3-8b", "h100-x2")
MIXTRAL = ("mixtral-8x7b", "h100-x4")


def run_of(where: tuple[str, str | None], **options: Any) -> Run:
    return run_scenario(Scenario.of(*where, **(LOAD | {"policy": "vllm"} | options)))


def test_what_never_happens_changes_no_byte() -> None:
    """A failure after the end, an autoscaler that has nothing to decide, adapters that are all named 0."""
    plain = run_of(LLAMA, **ADAPTERS)
    for options in ({"fail": ("0@1e6",)}, {"autoscale": "1:1"}, {"replicas": 1}):
        other = run_of(LLAMA, **ADAPTERS, **options)
        assert np.array_equal(plain.requests.last_token_s, other.requests.last_token_s)
        assert plain.joules == other.joules
        assert plain.parts["adapters"].counts == other.parts["adapters"].counts


def test_a_failed_replica_comes_back_without_adapters() -> None:
    """One adapter is brought once, and once more after each failure."""
    one: dict[str, Any] = {"adapters": 2, "adapters_resident": 1, "adapter_popularity": "power_law:10"}
    whole, failed = (run_of(LLAMA, **one, **more) for more in ({}, {"fail": ("0@1.5",), "repair": 0.1}))
    assert failed.parts["adapters"].counts.loads == whole.parts["adapters"].counts.loads + 1
    assert failed.restarts > 0


def test_the_link_to_the_host_carries_one_thing_at_a_time() -> None:
    """What experts, adapters and KV blocks take of it adds up to no more than there is; experts go first."""
    sessions: dict[str, Any] = {"kv_tiers": "host:8GiB", "turns": 4, "think": 0.2}
    load = ADAPTERS | sessions | {"tp": 4, "requests": 60, "rate": 30.0, "experts_resident": "0.25"}
    found = run_of(MIXTRAL, **load)
    up = sum(tier.up_s for tier in found.parts["kv-tiers"].tiers)
    used = up + found.parts["adapters"].counts.link_s + found.parts["resident-experts"].fetch.link_s
    assert found.parts["resident-experts"].fetch.link_s > 0.5 * found.makespan_s  # it is what all wait for
    assert used <= found.makespan_s * (1 + 1e-9)
    alone = run_of(MIXTRAL, **{k: v for k, v in load.items() if k != "experts_resident"})
    waits = [x.parts["adapters"].counts.waited_s / x.parts["adapters"].counts.asked for x in (alone, found)]
    assert waits[1] > waits[0]


def test_devices_with_experts_come_and_go_with_their_replica() -> None:
    found = run_of(MIXTRAL, experts_on="h100-x4", autoscale="1:3,by=requests:3,start=0.1,every=0.2")
    fixed = run_of(MIXTRAL, experts_on="h100-x4", replicas=3)
    assert found.parts["autoscale"].devices == 8
    assert found.parts["autoscale"].mean_devices(found.window) <= 24
    assert fixed.devices == 24


if __name__ == "__main__":
    steps, begin = ExplicitSteps(), int(sys.argv[1])
    print(json.dumps([outcome(run_scenario(drawn(number))) for number in range(begin, begin + AT_ONCE)]))
