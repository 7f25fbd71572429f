"""Do intervals follow from the errors of the parts, and behave?

Expected values: normal sums in closed form, time dilation of a closed loop, Little's law for an open
one, and the bars on measured deployments (measured values inside 80 % intervals in 70 to 90 %).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import capacity, compare, simulate
from opbyte.analysis.answers import replayed
from opbyte.analysis.answers.error_factors import (
    FACTORS,
    STEP,
    UNPRICED,
    Conditions,
    Widths,
    factor_evidence,
    fitted_widths,
)
from opbyte.analysis.answers.interval import (
    BETWEEN,
    Interval,
    TimeShare,
    beyond_steps,
    interval_of,
    parts_of,
    slowdowns,
    spoken,
    step_errors,
)
from opbyte.analysis.answers.run_interval import _held
from opbyte.devices.catalog import load_system
from opbyte.devices.ratios import Ratios
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model

SPREAD = Ratios(-0.2, 0.0, 0.2)
WORK: dict[str, Any] = {"input_len": 256, "output_len": 64, "lengths": "lognormal"}


def width(parts: list[TimeShare]) -> float:
    drawn = slowdowns(parts)
    assert drawn is not None
    found = interval_of(drawn)
    return found.high - found.low


def test_one_family_s_errors_add_up_and_two_families_do_not() -> None:
    """Halves of one family err together; of two, by 1 / sqrt(2) of that, and the host's beside."""
    together = width([TimeShare(1.0, "a", SPREAD), TimeShare(1.0, "a", SPREAD)])
    alone = width([TimeShare(2.0, "a", SPREAD)])
    apart = width([TimeShare(1.0, "a", SPREAD), TimeShare(1.0, "b", SPREAD)])
    assert together == pytest.approx(alone)
    sigma, host = 0.2 / 1.2816, BETWEEN
    expected = np.hypot(sigma / np.sqrt(2), host) / np.hypot(sigma, host)
    assert apart / alone == pytest.approx(expected, rel=0.05)


def test_nothing_is_said_where_little_is_known() -> None:
    assert slowdowns([TimeShare(1.0, "", None), TimeShare(0.9, "a", SPREAD)]) is None
    assert slowdowns([TimeShare(0.9, "", None), TimeShare(1.0, "a", SPREAD)]) is not None
    assert slowdowns([]) is None
    found = simulate("mixtral-8x7b", "duplex-x4", rate=5.0, requests=20, **WORK)
    assert found.intervals is None
    assert "No interval" in found.sure()


@given(
    seconds=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6), low=st.floats(-1.0, 0.0), high=st.floats(0.0, 1.0)
)
def test_the_answer_lies_inside(seconds: list[float], low: float, high: float) -> None:
    parts = [TimeShare(s, str(i % 3), Ratios(low, (low + high) / 2, high)) for i, s in enumerate(seconds)]
    drawn = slowdowns(parts)
    assert drawn is not None
    found = interval_of(drawn)
    assert 0 < found.low <= 1.0 <= found.high
    inverse = found.inverse
    assert inverse.low <= 1.0 <= inverse.high
    assert inverse.low == pytest.approx(1 / found.high)
    later = beyond_steps(found, Ratios(-0.15, 0.12, 0.79))
    assert later.low <= found.low + 1e-9
    assert later.high >= found.high - 1e-9


def test_open_loops_hold_more_when_slower() -> None:
    """A step of a + b n with n = rate x step: twice the time needs a / (1 - 2 b rate) more."""
    fixed, each, rate = 0.5, 0.02, 20.0
    step = fixed / (1 - each * rate)
    e = each * rate
    twice = 2 * fixed / (1 - 2 * each * rate)
    assert _held(np.array([2.0]), e)[0] == pytest.approx(twice / step)
    assert np.isinf(_held(np.array([3.0]), e)[0])
    assert spoken(Interval(0.9, np.inf)).endswith("overload")


def test_a_closed_loop_s_throughput_is_the_inverse_of_its_requests_time() -> None:
    found = simulate("llama-3-8b", "h100-x1", closed_loop=16, requests=32, **WORK).intervals
    assert found is not None
    assert found.tpot == found.step
    assert found.throughput.low <= found.step.inverse.low + 1e-9  # first tokens are a part of each request's time
    assert found.cost == found.throughput.inverse
    assert found.e2e.low == pytest.approx(found.throughput.inverse.low, rel=0.05)
    at_once = simulate("llama-3-8b", "h100-x1", closed_loop=16, requests=16, **WORK).intervals
    assert at_once is not None
    assert at_once.throughput.low * at_once.tpot.high > 1.3  # the rate has not the width of a token's time


def test_light_loads_are_served_whatever_the_errors() -> None:
    """Finding: throughput below saturation is what comes; latencies are less sure than steps."""
    light = simulate("llama-3-8b", "h100-x1", rate=1.0, requests=40, **WORK)
    assert light.intervals is not None
    assert light.intervals.throughput == Interval(1.0, 1.0)
    assert light.intervals.tpot.high >= light.intervals.step.high - 1e-9
    told = light.to_dict()["intervals"]
    assert told["tpot_s_mean"]["low"] < light.run.tpot_s.mean < told["tpot_s_mean"]["high"]  # type: ignore[operator]
    assert told["usd_per_million_tokens"]["low"] is not None


def test_near_saturation_both_ends_are_runs() -> None:
    """Steps `r` times as long under a load are steps as they are under `r` times the load, by another clock."""
    work = WORK | {"policy": "vllm", "framework": "typical", "requests": 600}
    sizes = []
    for rate in (60.0, 110.0, 120.0):
        found = simulate("llama-3-8b", "h100-x1", rate=rate, **work)
        sure = found.intervals
        assert sure is not None
        sizes.append(sure.tpot.high)
        r = sure.slow(0.9)
        late = simulate("llama-3-8b", "h100-x1", rate=rate * r, **work).run
        if sizes[-1] > 1.5:
            longer = (late.tpot_s.mean or 0.0) * r / (found.run.tpot_s.mean or 1.0)
            assert sure.tpot.high == (np.inf if late.window.overloaded else pytest.approx(longer, rel=1e-9))
    assert max(sizes) > 1.5


def test_a_fleet_is_as_sure_as_one_of_its_replicas() -> None:
    """Its steps are those of one, whose batch is not the whole fleet's; and so far from saturation no end is a run."""
    work = WORK | {"policy": "vllm"}
    one, four = (simulate("llama-3-8b", "h100-x1", rate=12.0 * n, requests=200 * n, replicas=n, **work) for n in (1, 4))
    assert (one.run.engines, four.run.engines) == (1, 4)
    assert one.intervals is not None
    assert four.intervals is not None
    assert four.intervals.tpot.high == pytest.approx(one.intervals.tpot.high, rel=0.02)
    assert four.intervals.ttft.high == pytest.approx(one.intervals.ttft.high, rel=0.02)


def test_part_of_a_long_run_stands_for_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends near saturation are runs of fewer replicas and requests, as far apart as those of all."""
    work = WORK | {"policy": "vllm", "framework": "typical", "router": "least-loaded", "replicas": 3}
    sizes = []
    for most in (1000, 2):
        monkeypatch.setattr(replayed, "MOST_REPLICAS", most)
        found = simulate("llama-3-8b", "h100-x1", rate=400.0, requests=1800, **work)
        assert found.intervals is not None
        sizes.append(found.intervals.tpot.high)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
    assert sizes[1] != sizes[0]


def test_tables_show_intervals() -> None:
    row = compare("llama-3-8b", ["h100-x1", "duplex-x4"], batch=8).rows()
    assert "% to +" in row[0]["80% interval"]
    assert row[1]["80% interval"] is None
    found = capacity("llama-3-8b", "h100-x1", "ttft_p99=0.3", requests=60, tolerance=0.5, **WORK)
    assert "% to +" in found.rows()[0]["80% interval"]
    (told,) = (r["intervals"] for r in found.to_dict()["rows"])
    assert told["load_per_s"]["low"] < found.found[0].load_per_s < told["load_per_s"]["high"]


@pytest.mark.filterwarnings("error")
def test_latencies_without_bound() -> None:
    """Of ten draws seven are overload: the upper end has no bound, and no warning is raised."""
    found = interval_of(np.array([0.8, 0.9, 1.1] + [np.inf] * 7))
    assert (found.low, found.high) == (0.9, np.inf)


def test_another_format_is_less_sure() -> None:
    """A GPU without fp8 rows: the interval of fp8 is wider than that of bf16."""
    widths = []
    for dtype in ("bf16", "fp8"):
        (row,) = compare("llama-3-8b", ["a100-80gb-x1"], batch=64, dtype=dtype).table
        assert row.interval is not None
        widths.append(row.interval.high - row.interval.low)
    assert widths[1] > 1.1 * widths[0]


def test_measured_deployments_lie_inside(data: Path, tmp_path: Path) -> None:
    """40 of the 769 points of at most 1,024 tokens out, whose share is known to 7 % (1 sigma); all of them, and
    the bar of 12 % on TPOT: `opbyte validate runs`."""
    from opbyte.analysis.validate.runs import validate_runs

    lines = (data / "serving_points/points.csv").read_text().splitlines()
    rng = np.random.default_rng(1)
    osl = lines[0].split(",").index("osl")
    agg = [
        i for i in range(1, len(lines))
        if ",disagg," not in lines[i] and ",1,512," not in lines[i] and int(lines[i].split(",")[osl]) <= 1024
    ]  # fmt: skip
    chosen = sorted(rng.choice(agg, 40, replace=False).tolist())
    table = tmp_path / "points.csv"
    table.write_text("\n".join([lines[0], *(lines[i] for i in chosen)]) + "\n")
    (tmp_path / "model_configs").symlink_to(data / "serving_points/model_configs")
    (tmp_path.parent / "model_configs").symlink_to(data / "model_configs")
    found = validate_runs([table])
    inside = {n: np.mean([e.within(n) for e in found.entries if n in e.measured]) for n in ("tpot_mean", "ttft_mean")}
    assert len(found.entries) == 40
    assert found.medians()["tpot_mean"] < 0.18
    assert 0.7 <= inside["tpot_mean"] <= 0.92
    assert 0.6 <= inside["ttft_mean"] <= 0.95


def above_kernels(d: Deployment, batch: Batch) -> float:
    """Upper end with the factors that have no cost model, over that of the kernels alone."""
    stage = explicit_stage(d, [batch], expected=True)
    kernels, found = slowdowns(parts_of(d, stage)), step_errors(Conditions(d, stage))
    assert kernels is not None
    assert found is not None
    fixed = {f.name: fitted_widths().table[STEP][f.name] for f in FACTORS[:UNPRICED]}
    return interval_of(found.drawn(Widths(1.0, {STEP: fixed}))).high / interval_of(kernels).high


@pytest.mark.parametrize(
    ("system", "tp", "pp", "name"),
    [("h100-x2", 1, 2, None), ("rtx-4090-x2", 2, 1, "links without peer access"), ("h100-x2", 2, 1, None)],
)
def test_what_has_no_price_widens_the_interval(system: str, tp: int, pp: int, name: str | None) -> None:
    """Upwards in seconds, and the evidence says what it is."""
    d = deploy(load_model("llama-3.2-1b"), load_system(system), tp=tp, pp=pp)
    told = factor_evidence(d)
    assert [e["applies_to"] for e in told] == ([] if name is None else [name])
    assert all("NOT MODELLED" in e["why"] for e in told)
    assert (above_kernels(d, Batch.of([512] * 8)) > 1.0 + 1e-9) == (name is not None)


def test_fewer_watts_slow_arithmetic_alone() -> None:
    """A decode of one sequence, which waits for memory, is as sure on a board of 350 W; a long prompt is not."""
    d = deploy(load_model("llama-3.2-1b"), load_system("h100-pcie-x1"))
    assert [e["applies_to"] for e in factor_evidence(d)] == ["boards with fewer watts"]
    assert above_kernels(d, Batch.of([512])) == pytest.approx(1.0, abs=0.02)
    assert above_kernels(d, Batch.of(chunks=[(8192, 0)])) > 1.1


@pytest.mark.parametrize("framework", ["vllm", "sglang@0.5.6", "trtllm"])
def test_more_load_is_never_quicker_and_a_longer_run_as_sure(framework: str) -> None:
    """Prompts with a mean near the 512 tokens of vLLM's largest graph: a few more requests decided what a first token's interval was."""
    work = WORK | {"input_len": 500, "framework": framework, "tp": 2}
    loads = (10.0, 300), (10.0, 3000), (20.0, 3000)
    runs = [simulate("qwen3-30b-a3b", "h100-x2", rate=rate, requests=n, **work).to_dict() for rate, n in loads]
    for name in ("client_ttft_s", "tpot_s"):
        assert runs[1][name]["mean"] < runs[2][name]["mean"]
    few, many, _ = (run["intervals"]["ttft_s_mean"] for run in runs)
    assert few["high"] / few["low"] == pytest.approx(many["high"] / many["low"], rel=0.1)
