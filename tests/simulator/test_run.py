"""Do a run's totals add up, and is a run repeatable to the byte?

No op beats its roofline, energy is the sum over ops, no token comes faster than the weights it
needs can be read, and the histogram of token gaps agrees with the stamps.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.engine.state import HIST_RATIO, NUM_LOG, LogColumn
from opbyte.simulator.engine.work_log import LEAST_ROWS, WorkLog
from opbyte.simulator.fleet.run import run
from opbyte.simulator.results.metrics import NOTHING, histogram_quantiles, quantiles
from opbyte.simulator.results.record import Run
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import open_requests

CASES = (
    ("llama-3-8b", "h100-x1", "chunked", 30.0),
    ("llama-3-8b", "h100-2x1", "chunked", 40.0),  # two replicas
    ("mixtral-8x7b", "duplex-x4", "chunked", 10.0),
    ("mixtral-8x7b", "duplex-gpu-x4", "mixed", 10.0),
    ("glam-143b", "duplex-pe-2x8", "mixed", 20.0),
    ("qwen3-30b-a3b", "h100-x2", "chunked", 20.0),
)
cases = pytest.mark.parametrize(("model", "system", "policy", "rate"), CASES)


def simulated(model: str, system: str, policy: str, rate: float, seed: int = 0, warmup: int = 0) -> Run:
    found = deploy(load_model(model), load_system(system), seed=seed)
    stream = open_requests(rate=rate, input_len=300, output_len=60, lengths="lognormal", limit=150, seed=3)
    return run(found, make_policy(policy), stream, seed=seed, warmup=warmup)


@pytest.mark.parametrize("policy", ["vllm", "sglang", "tensorrt-llm"])
def test_a_run_ends_with_its_last_step(policy: str) -> None:
    """Finding G9: the step after the last completion, whose token is dropped, was work outside of the run."""
    found = deploy(load_model("llama-3-8b"), load_system("rtx-4090-x1"))
    stream = open_requests(rate=300.0, input_len=60, output_len=20, lengths="lognormal", limit=5, seed=0)
    result = run(found, make_policy(policy), stream)
    last = result.requests.last_token_s.max()
    step = sum(op.wall_s for op in result.ops) / result.iterations
    assert sum(op.wall_s for op in result.ops) <= result.makespan_s * (1 + 1e-9)
    assert last <= result.makespan_s <= last + 2 * step


@cases
def test_tokens_and_time_add_up(model: str, system: str, policy: str, rate: float) -> None:
    result = simulated(model, system, policy, rate)
    rows = result.requests
    assert result.output_tokens == rows.output_tokens.sum()
    assert result.prompt_tokens == rows.input_tokens.sum()
    assert result.makespan_s == rows.last_token_s.max()
    assert (rows.arrival_s <= rows.scheduled_s).all()
    assert (rows.scheduled_s < rows.first_token_s).all()
    ttft = rows.first_token_s - rows.arrival_s
    assert result.ttft_s.mean == pytest.approx(ttft.mean())
    decode = (rows.last_token_s - rows.first_token_s)[rows.output_tokens > 1]
    gaps = (rows.output_tokens - 1).sum()
    assert result.tbt_s.mean == pytest.approx(decode.sum() / gaps, rel=1e-9)
    window = result.window
    assert result.output_tokens_per_s == pytest.approx(result.interval_output_tokens / (window.end_s - window.start_s))
    if window.kind == "whole":
        assert result.interval_output_tokens == result.output_tokens
        assert (window.start_s, window.end_s) == (0.0, result.makespan_s)


@cases
def test_no_op_beats_its_roofline(model: str, system: str, policy: str, rate: float) -> None:
    result = simulated(model, system, policy, rate)
    processors = result.deployment.device.processors
    for total in result.ops:
        if total.processor not in processors:
            assert total.layer == "communication"
            continue
        p = processors[total.processor]
        peak = max(p.peak.values())
        assert total.flops <= peak * total.busy_s * (1 + 1e-9), total
        moved = total.stream_bytes + total.act_bytes
        assert moved <= p.bandwidth * total.busy_s * (1 + 1e-9), total


@cases
def test_energy_is_the_sum_over_ops(model: str, system: str, policy: str, rate: float) -> None:
    result = simulated(model, system, policy, rate)
    assert result.joules == pytest.approx(sum(sum(t.joules.values()) for t in result.ops))
    share = result.window.length_s / result.makespan_s
    assert result.interval_joules / result.joules == pytest.approx(share, abs=0.25)
    power = result.deployment.system.device.static_W
    devices = result.deployment.system.devices_per_node * result.deployment.system.nodes
    assert result.interval_static_joules == pytest.approx(power * devices * result.interval_s)


def floor_s(found: Deployment) -> float:
    """Seconds to read the weights that one token needs once, over all of a rank's memory."""
    model, layout = found.model, found.layout
    table = model.vocab * model.hidden
    active = model.active_params - (0 if model.tied else table)
    width = model.weight_bytes / model.total_params
    fastest = max(p.bandwidth for p in found.device.processors.values())
    return active * width / (fastest * layout.devices)


@cases
def test_no_token_outruns_its_weights(model: str, system: str, policy: str, rate: float) -> None:
    result = simulated(model, system, policy, rate)
    rows = result.requests
    several = rows.output_tokens > 1
    tpot = (rows.last_token_s - rows.first_token_s)[several] / (rows.output_tokens[several] - 1)
    assert tpot.min() > floor_s(result.deployment)


def columns(result: Run) -> bytes:
    return b"".join(values.tobytes() for values in result.requests.columns().values())


@pytest.mark.parametrize(("model", "system"), [("mixtral-8x7b", "duplex-x4"), ("llama-3-8b", "h100-x1")])
def test_same_seed_same_bytes(model: str, system: str) -> None:
    one, two = (simulated(model, system, "chunked", 20.0, seed=5) for _ in range(2))
    assert columns(one) == columns(two)
    assert one.ops == two.ops
    assert one.tbt_s == two.tbt_s


def test_warmup_leaves_out_the_first_completions() -> None:
    case = ("llama-3-8b", "h100-x1", "chunked", 30.0)
    whole, warm = simulated(*case), simulated(*case, warmup=50)
    rows = warm.requests
    assert columns(whole) == columns(warm)
    late = rows.order >= 50
    ttft = (rows.first_token_s - rows.arrival_s)[late]
    assert warm.ttft_s.mean == pytest.approx(ttft.mean())
    ended = np.sort(rows.last_token_s)[49]
    assert warm.window.start_s >= ended
    assert warm.interval_output_tokens < whole.interval_output_tokens <= whole.output_tokens
    assert 0 < warm.interval_joules < warm.joules == pytest.approx(whole.joules)


def test_warmup_must_leave_requests() -> None:
    with pytest.raises(InputError, match="--warmup"):
        simulated("llama-3-8b", "h100-x1", "chunked", 30.0, warmup=150)


def test_gaps_are_counted_once() -> None:
    found = deploy(load_model("llama-3-8b"), load_system("h100-x1"))
    engine = Engine(found, make_policy("chunked"))
    block = open_requests(rate=50.0, input_len=100, output_len=40, limit=80).read()
    engine.submit(block)
    engine.advance(float("inf"))
    assert engine.state.hist.sum() == (block.output_tokens - 1).sum()
    assert engine.state.clocks[0].gap_count == engine.state.hist.sum()


def test_quantiles_of_the_histogram() -> None:
    counts = np.zeros(36_864, dtype=np.int64)
    values = np.random.default_rng(0).lognormal(-4.0, 1.0, 20_000)
    for value in values:
        counts[int(np.log(value / 1e-9) / np.log(HIST_RATIO))] += 1
    got = histogram_quantiles(counts, float(values.sum()), float(len(values)))
    exact = quantiles(values)
    assert got.mean == exact.mean
    for name in ("p50", "p90", "p99"):
        assert getattr(got, name) == pytest.approx(getattr(exact, name), rel=2e-3)
    assert histogram_quantiles(counts * 0, 0.0, 0.0) == NOTHING == quantiles(np.array([np.nan]))


@pytest.mark.parametrize("count", [LEAST_ROWS + 1, LEAST_ROWS + 2])
def test_a_long_log_ends_with_its_last_step(count: int) -> None:
    """Entries that are merged in pairs leave no rest behind where their number is even."""
    board: Any = SimpleNamespace(held_joules=lambda spent, busy: spent)
    work_log, log = WorkLog(board, among=1 << 20), np.zeros((count, NUM_LOG + 1))
    log[:, LogColumn.START], log[:, LogColumn.END] = np.arange(count), np.arange(1.0, count + 1)
    work_log.add(log)
    assert work_log.end_s == count
