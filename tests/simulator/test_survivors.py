"""Rules that single faults in the code once broke unseen, each stated on its own.

The faults were put in by hand, one at a time: a lost factor, a lost weight, a lost seed.
"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.analysis.answers.seeds import simulate_seeds
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.hardware import hardware
from opbyte.devices.calibrated.rules import parameters
from opbyte.devices.calibrated.terms import F8, Parts, Work, floored
from opbyte.devices.catalog import load_device, load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.engine.hooks import NONE
from opbyte.simulator.engine.kv import KvRules
from opbyte.simulator.engine.policies import POLICIES, Limits
from opbyte.simulator.engine.queues import release
from opbyte.simulator.engine.state import State, grown, new_state
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.simulator.step.launches import NO_LAUNCHES
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.jit import compiled
from opbyte.workloads.ops import Op


@compiled
def one_release(state: State, limits: Limits, kv_rules: KvRules, now: float) -> None:
    """`release` for a caller outside compiled code."""
    release(state, limits, kv_rules, now)


def test_embedding_and_head_are_split_by_vocabulary() -> None:
    """Llama-3-8B at tp 2, by hand: every matrix is halved, norms are on both devices.

    Embedding and head 128,256 x 4,096 each; 32 layers of qkv 6,144 x 4,096, out 4,096 x 4,096,
    three matrices of 14,336 x 4,096, and two norms of 4,096; one norm at the end.
    """
    tables = 2 * 128_256 * 4_096
    layer = (6_144 + 4_096 + 3 * 14_336) * 4_096
    norms = (2 * 32 + 1) * 4_096
    held = 2 * ((tables + 32 * layer) / 2 + norms)  # bf16
    found = deploy(load_model("llama-3-8b"), load_system("h100-x2"), tp=2).memory()
    assert found.weights == held
    whole = deploy(load_model("llama-3-8b"), load_system("h100-x1")).memory()
    assert whole.weights == 2 * (tables + 32 * layer + norms)


def test_a_waiting_request_counts_four_times_for_vllm() -> None:
    """Its data-parallel load balancer: score = 4 x waiting + running (DPLBAsyncMPClient)."""
    policy = POLICIES["vllm"]
    limits = policy.limits(NO_LAUNCHES, 1)
    assert limits.waiting_load == 4
    kv = KvRules(np.zeros(1, dtype=np.int64), np.ones(1), 0.0, 16, 1e9)
    for running, chosen in ((3, 0), (5, 1)):
        state = new_state(2, 8, 4, 1e9, 0, 1)
        state = grown(state, np.zeros(1), np.array([4]), np.array([2]), np.zeros(1))._replace(hooks=NONE)
        assert state.counters[0].submitted == 1
        state.ranks.running[0], state.ranks.waiting[1] = running, 1
        one_release(state, limits, kv, 0.0)
        assert state.ranks.waiting.tolist() == [chosen == 0, 1 + (chosen == 1)]


def test_seeds_draw_other_experts() -> None:
    """Fixed requests, skewed experts: what is left to differ is the draw."""
    found = simulate_seeds(
        "mixtral-8x7b", "duplex-x4", closed_loop=4, requests=8, input_len=32, output_len=8,
        routing="power_law:1", seeds=3,
    )  # fmt: skip
    times = {run.run.makespan_s for run in found.runs}
    assert len(times) == 3


@compiled
def held_down(parts: Parts, work: Work, h: F8) -> Parts:
    """`floored` for a caller outside compiled code."""
    return floored(parts, work, h)


def test_no_fit_beats_the_roofline() -> None:
    """A call of a femtosecond takes its work at nominal rates: 1e12 FLOP at an H100's 989.4 TFLOP/s,
    1e9 bytes at 3.352 TB/s, 1e9 over the link at 450 GB/s (datasheet), whichever is most."""
    h = hardware(load_device("h100")[0])
    for work, least in (
        ((1e12, 1.0, 1.0, 0), 1e12 / 989.4e12),
        ((1.0, 1e9, 1.0, 0), 1e9 / 3.352e12),
        ((1.0, 1e9, 1e9, 0), 1e9 / 450e9),
    ):
        total, *_ = held_down((1e-15, 0.0, 0.0, 0.0), work, h)
        assert total == pytest.approx(least, rel=1e-12)
        slow, *_ = held_down((1.0, 0.0, 0.0, 0.0), work, h)
        assert slow == 1.0


@pytest.mark.parametrize("name", [n for n, f in families().items() if f.kinds])
def test_prices_are_the_formula_or_the_roofline(name: str) -> None:
    """Of a step's ops: the seconds are the larger of what the formula and the floors say."""
    spec = load_device("h100")[0]
    family, h = families()[name], hardware(spec)
    ops = ops_of_a_step()
    rows = [x for k in family.kinds if k in ops if (x := family.from_op(ops[k])) is not None]
    x = np.stack(rows) if rows else np.full((1, len(family.quantities)), 64.0)
    found = family.prices(parameters(spec, family).fit.values, h, x)
    floors = np.max([found.floor_compute, found.floor_memory, found.floor_link], axis=0)
    assert found.seconds == pytest.approx(np.maximum(found.formula, floors), rel=1e-12)
    assert (floors > 0).all()


def ops_of_a_step() -> dict[str, Op]:
    """One op of each kind, of a step with a prompt and decodes."""
    found: dict[str, Op] = {}
    for name in ("llama-3-8b", "deepseek-v2-lite"):
        d = deploy(load_model(name), load_system("h100-x4"))
        batches = [Batch.of([900] * 9, [(300, 0)])] * d.ranks
        found |= {p.op.kind: p.op for p in explicit_stage(d, batches, expected=True).ops}
    return found
