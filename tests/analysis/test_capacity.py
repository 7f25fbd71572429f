"""Is the highest load within a service level found, and what limits it named?

Expected values: the search against functions whose answer is known, its result against single
simulations on either side of it, and runs made to be short of one resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte import plan
from opbyte.analysis.answers.interval import MEDIAN, SURE, Interval
from opbyte.analysis.answers.limits import limit_of
from opbyte.analysis.answers.run_interval import RunIntervals
from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.studies.capacity import _bracket, capacity, ends, share_at
from opbyte.analysis.studies.loads import Tried
from opbyte.simulator.results.record import Run
from opbyte.workloads.errors import InputError

from .conftest import Ask

MODEL, SYSTEM = "llama-3-8b", "h100-x1"
WORK: dict[str, Any] = {"input_len": 512, "output_len": 64, "lengths": "lognormal"}


@pytest.mark.parametrize("limit", [0.004, 0.3, 7.0, 1000.0])
def test_brackets_hold_the_limit(limit: float) -> None:
    low, high = _bracket(lambda load: load <= limit, 1.0)
    assert low is not None
    assert high is not None
    assert low <= limit < high == pytest.approx(2 * low)


@pytest.mark.parametrize("limit", [0.004, 0.3, 0.97, 2.0])
def test_brackets_below_what_full_engines_serve(limit: float) -> None:
    low, high = _bracket(lambda load: load <= min(limit, 0.99), 0.95, 1.0)
    assert low is not None
    assert high is not None
    assert low <= min(limit, 0.99) < high <= 2 * low
    assert _bracket(lambda load: False, 0.95, 1.0)[0] is None


def test_brackets_end() -> None:
    assert _bracket(lambda load: True, 1.0) == (4096.0, None)
    assert _bracket(lambda load: False, 1.0) == (None, 1 / 1024)


@pytest.mark.parametrize(("limit", "slow"), [(0.05, 1.2), (0.05, 1.6), (0.4, 1.2)])
def test_both_ends_of_a_load_are_searched(limit: float, slow: float) -> None:
    """Finding 7: A queue takes s / (1 - load s): near its limit the load falls by far more than steps grow."""
    s, fast = 0.04, 0.9

    def tried(load: float, level: Mapping[str, float]) -> Tried:
        over = load * s >= 1.0
        return Tried(load, None, {"ttft_mean": None if over else s / (1.0 - load * s)}, ("load",) * over)

    def held(r: float) -> float:
        return max((1.0 - s * r / limit) / s / r, 0.0)

    one = Interval(1.0, 1.0)
    sure = RunIntervals(one, one, one, one, one, tuple(np.interp(np.linspace(0, 1, 11), [0.1, 0.9], [fast, slow])))
    known = [tried(held(1.0) * x, {}) for x in (0.5, 1.0, 1.02, 2.0)]
    found = ends(known, held(1.0), {"ttft_mean": limit}, sure, tried)
    for end, r in ((found.high, fast), (found.low, slow)):
        assert held(r) / held(1.0) / 1.1 - 1e-9 <= end <= held(r) / held(1.0) + 1e-9
    for always, side in ((fast, "low"), (slow, "high")):  # as predicted is between the ends
        alike = replace(sure, slowdowns=(always,) * 11)
        assert getattr(ends(known, held(1.0), {"ttft_mean": limit}, alike, tried), side) == 1.0
    near = share_at(known, held(1.0), {"ttft_mean": limit}, slow, tried, 1.02)
    assert held(slow) / held(1.0) / 1.02 - 1e-9 <= near <= held(slow) / held(1.0) + 1e-9
    above = [*known, Tried(1.1 * held(1.0), None, {"ttft_mean": 0.0}, (), open=("ttft_mean",))]
    assert share_at(above, held(1.0), {"ttft_mean": limit}, 1.001, tried) <= 1.0
    assert share_at([], held(1.0), {}, 1.0, tried) == 1.0


def test_a_plan_needs_as_many_copies_as_capacity_says() -> None:
    """Finding U11: the load by its chance, at the median of the evidence and to be 80 % sure, in both answers."""
    work: dict[str, Any] = {**WORK, "framework": "vllm", "workers": 1}
    (found,) = capacity(MODEL, SYSTEM, "ttft_p99=1,tpot_p99=0.02", **work).found
    assert found.load_per_s is not None
    median, sure = (found.by_chance[q] for q in (MEDIAN, SURE))
    assert sure.load_per_s < median.load_per_s <= found.load_per_s
    assert 1.0 <= median.slow < sure.slow
    work |= {"tp": 1, "most_devices": 4}
    for load in (1.8 * median.load_per_s, 2.2 * median.load_per_s):
        planned = plan(MODEL, SYSTEM, "ttft_p99=1,tpot_p99=0.02", load=load, **work)
        (best,) = planned.searched
        assert best.sure is not None
        assert best.sure.copies[MEDIAN] == np.ceil(load / median.load_per_s)
        assert best.sure.slow[MEDIAN] == pytest.approx(median.slow, rel=0.03)
        needed = best.sure.copies[SURE]
        assert needed is None or needed >= np.ceil(load / sure.load_per_s / 1.1)


def test_found_load_lies_between_one_that_holds_and_one_that_fails() -> None:
    """Findings 8 and 9 of a trial: layout, policy and kernels are told, and are a plan's."""
    result = capacity(MODEL, [SYSTEM], {"ttft_p99": 0.2, "tbt_p99": 0.03}, requests=200, **WORK)
    (found,) = result.found
    assert found.load_per_s is not None
    assert found.next_load_per_s is not None
    assert 1 < found.next_load_per_s / found.load_per_s <= 1.02
    tried = {t.load_per_s: t for t in found.tried}
    for load, holds in ((found.load_per_s, True), (found.next_load_per_s, False)):
        alone = simulate(MODEL, SYSTEM, rate=load, framework="vllm", **{**WORK, "requests": tried[load].requests})
        within = alone.run.ttft_s.p99 <= 0.2 and alone.run.tbt_s.p99 <= 0.03  # type: ignore[operator]
        assert within is holds
        if holds:
            assert found.joules_per_token == alone.run.joules_per_token
            assert found.usd_per_million_tokens == pytest.approx(
                2.99 / 3600 / alone.run.output_tokens_per_s * 1e6  # type: ignore[operator]
            )
    assert "tp 1, dp 1; vllm on vllm's kernels" in str(result.rows())
    data = result.to_dict()
    assert data["rows"][0]["limit"]["resource"] == found.limit.resource  # type: ignore[union-attr]
    assert len(data["tried"]) == len(found.tried)
    assert capacity(MODEL, SYSTEM, "ttft_p99=0.2,tbt_p99=0.03", requests=200, **WORK) == result


def test_none_with_a_reason() -> None:
    """One step of a lone request takes longer than the level allows."""
    (found,) = capacity(MODEL, [SYSTEM], "tbt_p99=0.001", requests=20, **WORK).found
    assert found.load_per_s is None
    assert found.joules_per_token is None
    assert "even at" in found.reason
    assert "tbt p99" in found.reason
    assert found.limit is not None
    assert found.limit.resource == "memory bandwidth of xpu"  # a lone decode: weights once a token


def test_a_model_that_does_not_fit_is_an_answer() -> None:
    in_turn, both = (
        capacity("llama-3-70b", "h100-x1,h100-x4", "e2e_p90=10", requests=20, tolerance=0.5, workers=n, **WORK)
        for n in (1, 2)
    )
    assert in_turn.to_dict() == both.to_dict()  # whoever searches
    small, large = both.found
    assert small.load_per_s is None
    assert small.limit is not None
    assert small.limit.resource == "memory capacity"
    assert "GiB" in small.reason
    assert large.load_per_s is not None
    assert both.rows()[0]["requests/s"] == "none"


def test_a_level_on_steps_alone_does_not_hide_a_growing_queue() -> None:
    """Time between tokens stays short while requests wait: the load is too high all the same."""
    (found,) = capacity(MODEL, [SYSTEM], "tbt_p99=10", requests=400, max_seqs=4, tolerance=0.2, **WORK).found
    assert found.load_per_s is not None
    assert "not sustained" in found.reason
    assert found.limit is not None
    assert found.limit.resource == "sequence limit"


def busy(**options: Any) -> Run:
    return simulate(MODEL, SYSTEM, keep_stages=True, **{**WORK, **options}).run


def test_kv_capacity_is_named() -> None:
    """256 sequences of 8,000 tokens need more than the 58 GiB that weights leave."""
    run = busy(rate=50, requests=400, input_len=8000, output_len=400, lengths="fixed", token_budget=65536)
    assert run.kv_peak > 0.95
    assert limit_of(run, {"ttft_p99": 1.0}).resource == "KV capacity"


def test_a_cache_that_the_engine_file_limits_is_what_is_full(tmp_path: Path) -> None:
    """W5: 600 blocks of 16 tokens are full, though the device's memory would hold many more."""
    engine = tmp_path / "engine.json"
    engine.write_text('{"kv_cache": {"num_gpu_blocks": 601, "block_size": 16}}')  # one is a place holder
    run = busy(closed_loop=64, requests=192, input_len=1024, output_len=128, engine=engine)
    assert run.kv_peak > 0.95
    assert run.kv_capacity == pytest.approx(600 * 16 * 131_072)  # of Llama-3-8B's K and V
    assert limit_of(run, {"ttft_p99": 0.01}).resource == "KV capacity"


def test_long_prompts_are_bound_by_arithmetic() -> None:
    run = busy(rate=0.1, requests=20, input_len=8000, output_len=2, lengths="fixed")
    found = limit_of(run, {"ttft_p99": 0.01})
    assert found.resource == "arithmetic of xpu"
    assert found.share > 0.8
    assert "8,000 prompt tokens" in found.why


def test_a_trace_is_played_faster(tmp_path: Path) -> None:
    def trace_of(count: int) -> str:
        trace = tmp_path / f"{count}.csv"
        rows = "".join(f"{i * 2},{200 + i % 7},{10 + i % 5}\n" for i in range(count))
        trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
        return str(trace)

    (found,) = capacity(MODEL, [SYSTEM], "ttft_p99=0.05", trace=trace_of(1500), tolerance=0.2).found
    assert found.load_per_s is not None
    assert found.load_per_s > 5  # the trace itself has 0.5 requests a second
    alone = simulate(MODEL, SYSTEM, trace=trace_of(1500), rate_scale=found.load_per_s / 0.5, framework="vllm")
    assert alone.run.output_tokens_per_s == pytest.approx(found.output_tokens_per_s)
    # 60 requests played so fast all come while the first ones are served.
    (short,) = capacity(MODEL, [SYSTEM], "ttft_p99=0.05", trace=trace_of(60)).found
    assert short.undecided
    assert "cannot be decided" in short.reason


def test_command(ask: Ask, tmp_path: Path) -> None:
    arguments = ["capacity", MODEL, "--systems", f"{SYSTEM},a100-80gb-x1", "--slo", "e2e_p90=3",
                 "--requests", 50, "--input-len", 128, "--output-len", 16, "--tolerance", 0.5]  # fmt: skip
    answer = ask(*arguments, "--json", "--out", tmp_path / "out").json()
    assert [row["system"] for row in answer["rows"]] == [SYSTEM, "a100-80gb-x1"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"loads.csv", "capacity.png", "capacity.json"}
    with pytest.raises(InputError, match="is varied by the search"):
        capacity(MODEL, [SYSTEM], "e2e_p90=1", rate=3.0)


def test_the_best_layout_serves_no_less_than_the_usual_one() -> None:
    """Of a dense model on two devices: one tensor-parallel rank, two ranks, two stages."""
    coarse = {**WORK, "tolerance": 0.5, "workers": 1}
    usual = capacity(MODEL, "h100-x2", "ttft_p99=0.3", **coarse).found[0]
    (best,) = capacity(MODEL, "h100-x2", "ttft_p99=0.3", search="layouts", **coarse).found
    assert best.load_per_s is not None
    assert usual.load_per_s is not None
    assert best.load_per_s >= usual.load_per_s
    assert best.served.startswith("tp ")
    for options in ({"search": "pools"}, {"search": "layouts", "tp": 2}):
        with pytest.raises(InputError):
            capacity(MODEL, "h100-x2", "ttft_p99=0.3", **options, **WORK)
