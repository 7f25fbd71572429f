"""Do the errors of deployments widen intervals as they should, and does a fit find what it was given?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import simulate, train
from opbyte.analysis.answers.error_factors import (
    ANY,
    FACTORS,
    FIRST,
    POWER,
    STEP,
    TRAINING,
    UNTOLD,
    Conditions,
    Widths,
    amounts,
    engine_named,
    fitted_widths,
)
from opbyte.analysis.answers.interval import Interval, beyond_steps
from opbyte.analysis.answers.run_interval import usual_draws
from opbyte.analysis.validate.check import IntervalBasis, RunCheck
from opbyte.analysis.validate.runs.widths import EACH, fit_widths, left_out_in_turn, widths_yaml
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

WORK: dict[str, Any] = {"closed_loop": 8, "requests": 32, "input_len": 256, "output_len": 64}
NAMES = [ANY, *(f.name for f in FACTORS)]


@given(
    some=st.dictionaries(st.sampled_from(NAMES), st.floats(0.0, 1.0)),
    more=st.sampled_from(NAMES),
    quantity=st.sampled_from([STEP, FIRST, POWER, TRAINING]),
)
def test_another_factor_never_narrows(some: dict[str, float], more: str, quantity: str) -> None:
    known = fitted_widths()
    one, other = known.reach(some, quantity), known.reach(some | {more: 1.0}, quantity)
    assert other.high - other.low >= one.high - one.low - 1e-9
    steps = Interval(0.9, 1.2)
    found = beyond_steps(steps, other)
    assert 0.0 < found.low <= 0.9
    assert found.high >= 1.2


@pytest.mark.parametrize(("share", "halvings"), [(1.0, None), (0.5**0.5, 0.5), (0.5, 1.0), (0.25, 1.0)])
def test_halvings_of_the_clock_count_to_one(share: float, halvings: float | None) -> None:
    """No measured run had more than one: a device at a quarter of its clock is no surer than known."""
    system = load_system("h100-x1")
    device = system.device.model_copy(update={"clock_share": share})
    d = deploy(load_model("llama-3-8b"), system.model_copy(update={"device": device}))
    found = [
        x for name, x in amounts(Conditions(d, None, "vllm", (0, 15))).items() if name == "boards with fewer watts"
    ]
    assert found == ([] if halvings is None else [pytest.approx(halvings)])


def test_factors_are_those_of_the_deployment() -> None:
    dense = deploy(load_model("llama-3-8b"), load_system("h100-x1"))
    mixture = deploy(load_model("mixtral-8x7b"), load_system("mi300x-x8"), tp=8)
    assert set(amounts(Conditions(dense, None, "vllm", (0, 15)))) == {ANY}
    assert "an engine version that may be old" in amounts(Conditions(dense, None, *engine_named("vllm@0.6.3")))
    assert "an engine version that is not told" in amounts(Conditions(dense, None, "vllm", UNTOLD))
    found = amounts(Conditions(mixture, None, *engine_named("sglang@0.5.6")))
    assert {"SGLang", "experts", "devices of other makers than NVIDIA"} <= set(found)


def test_an_answer_names_what_widens_it() -> None:
    known = simulate("llama-3-8b", "h100-x1", framework="vllm", **WORK)
    early = simulate("llama-3-8b", "h100-x1", framework="vllm@0.6", **WORK)
    assert known.intervals is not None
    assert early.intervals is not None
    assert "version that may be old" in " ".join(early.intervals.reasons)
    assert "Wide because: " in early.sure()
    assert early.to_dict()["intervals"]["wide_because"] == list(early.intervals.reasons)
    assert early.intervals.tpot.high / early.intervals.tpot.low > known.intervals.tpot.high / known.intervals.tpot.low


@pytest.mark.parametrize(("lengths", "named"), [("fixed", True), ("uniform", False)])
def test_ranks_whose_requests_have_one_length_are_in_step(lengths: str, named: bool) -> None:
    found = simulate(
        "qwen3-30b-a3b", "h100-x4", framework="sglang", dp=4, lengths=lengths, **WORK | {"input_len": 4096}
    ).intervals
    assert found is not None
    assert ("data-parallel ranks in step" in found.reasons) == named


def test_known_kinds_stay_narrow() -> None:
    """Dense models on an H100 under vLLM, in 16 and in 8 bits."""
    for dtype in (None, "fp8"):
        found = simulate("llama-3-8b", "h100-x1", framework="vllm", dtype=dtype, **WORK).intervals
        assert found is not None
        assert found.tpot.high / found.tpot.low < 1.5


def test_intervals_of_one_run_agree() -> None:
    answer = simulate("llama-3-8b", "h100-x1", framework="vllm", **WORK)
    told, run = answer.to_dict()["intervals"], answer.run
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        for statistic in ("mean", "p50"):
            ends = told[f"{name}_{statistic}"]
            assert ends["low"] <= getattr(getattr(run, name), statistic) <= ends["high"]
    assert told["joules_per_token"]["low"] <= run.joules_per_token <= told["joules_per_token"]["high"]
    tokens = (run.e2e_s.mean - run.ttft_s.mean) / run.tpot_s.mean  # type: ignore[operator]
    for end, sign in (("low", 1.0), ("high", -1.0)):
        total = told["ttft_s_mean"][end] + tokens * told["tpot_s_mean"][end]
        assert sign * (told["e2e_s_mean"][end] / total - 1.0) >= -0.01


def test_first_tokens_of_unknown_lengths_may_wait_for_half_of_the_prompts() -> None:
    draws = usual_draws(deploy(load_model("llama-3-8b"), load_system("h100-x1")), 64, 1024, 512, first_s=0.1)
    assert draws is not None
    longer = 1.0 + 32 * (draws.prompt.seconds - draws.decode.seconds) / 0.1
    assert draws.intervals().ttft.high == pytest.approx(longer, rel=0.1)
    narrow, wide = (draws.intervals(Widths(1.0, {}, power)) for power in (0.5, 1.0))
    assert narrow.ttft.high < wide.ttft.high


def test_training_has_an_interval() -> None:
    told = train("llama-3-8b", "h100-x8", batch=16, seq=4096).to_dict()
    own = told["intervals"]["step_seconds"]
    assert own["low"] < told["step_seconds"] < own["high"]
    assert told["intervals"]["tokens_per_s"]["low"] < told["tokens_per_s"] < told["intervals"]["tokens_per_s"]["high"]


def test_unusual_attention_widens_training_once() -> None:
    """Delta rules have no measured step. The errors of kinds that have are among those to which the other factors were fitted."""
    usual, unusual = (
        train(name, "h100-8x8", batch=64, seq=4096).errors.amounts for name in ("qwen3-30b-a3b", "qwen3-next-80b-a3b")
    )
    assert unusual == {**usual, "windows, states or compressed keys": 1.0}


def runs(source: str, spread: float, factor: str, systems: int = 12, quantity: str = STEP) -> list[RunCheck]:
    """One run a system, whose TPOT is off by normal scores of a spread, with one factor."""
    amount, scores = {ANY: 1.0, factor: 1.0}, np.random.default_rng(len(source)).normal(size=systems)

    def refit(widths: Widths) -> Interval:
        return beyond_steps(Interval(0.95, 1.05), widths.reach(amount, STEP))

    basis = {"tpot_mean": IntervalBasis(quantity, Interval(0.95, 1.05), amount, refit)}
    return [
        RunCheck(
            f"{i}", None, {"tpot_mean": float(np.exp(spread * z))}, {"tpot_mean": 1.0}, f"system {i}", source, {}, basis,
            {"source": source},
        )
        for i, z in enumerate(scores)
    ]  # fmt: skip


def test_a_fit_finds_the_factor_that_is_off() -> None:
    wild = [run for i in range(4) for run in runs("wild" + "x" * i, 0.6, "SGLang")]
    entries = [*runs("calm", 0.05, "experts"), *runs("calmer", 0.05, "experts"), *wild]
    widths = fit_widths(entries, Widths(1.0, {})).table[STEP]
    assert widths["SGLang"].high > 3 * (widths["experts"].high + widths[ANY].high)
    assert widths["SGLang"].high == pytest.approx(0.6 * 1.28, rel=0.5)
    scored = left_out_in_turn(entries, EACH)
    inside = [e.within("tpot_mean") for e in scored if e.group.startswith("wild")]
    assert 0.65 <= np.mean(inside) <= 0.97  # type: ignore[arg-type]
    text = widths_yaml(Widths(1.0, {STEP: widths}), entries)
    assert "SGLang: [-" in text


def test_sources_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be each or a source of these runs: calm"):
        left_out_in_turn(runs("calm", 0.1, "experts"), "calmer")
