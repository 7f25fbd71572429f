"""Is the scheduler, and are the kernels, the same in every command that is not told which?"""

from __future__ import annotations

from typing import Any

import pytest

from opbyte.analysis.answers import usual
from opbyte.analysis.answers.compare import compare
from opbyte.analysis.answers.roofline import roofline
from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.answers.usual import as_usual
from opbyte.analysis.show.result import Result
from opbyte.analysis.studies.capacity import capacity
from opbyte.analysis.studies.plan.candidates import candidates
from opbyte.analysis.studies.plan.search import plan
from opbyte.analysis.studies.sweep.point import scenario_of
from opbyte.devices.catalog import load_system
from opbyte.simulator.scenario import Scenario
from opbyte.workloads.catalog import load_model

from ..tables import tables

WORK: dict[str, Any] = {"input_len": 256, "output_len": 64}
LAID = ("tp", "dp", "ep")


@pytest.mark.parametrize(
    ("model", "system", "tp", "kernels"),
    [("llama-3-8b", "h100-x1", 1, "vllm"), ("gpt-oss-20b", "b200-x1", 1, "vllm"),
     ("llama-2-7b", "h100-logic-pim-x1", 1, "vllm"), ("mixtral-8x7b", "duplex-x4", 4, None)],
)  # fmt: skip
def test_one_question_has_one_answer(model: str, system: str, tp: int, kernels: str | None) -> None:
    """Compare, roofline and simulate give a step the same time; capacity and plan what simulate says, to 1 %."""
    laid: dict[str, Any] = dict(zip(LAID, (tp, 1, 1), strict=True))
    row = compare(model, [system], batch=16, context=256 + 32, **laid).table[0]
    assert row.framework == kernels
    assert roofline(model, system, batch=16, context=256 + 32, **laid).step_seconds == row.latency_s
    run = simulate(model, system, closed_loop=16, requests=16, **laid, **WORK).run
    assert run.policy.name == "vllm"
    # The median gap: the front end prepares the prompts one after another, so that some decodes run beside prompts.
    assert run.tbt_s.p50 == pytest.approx(row.latency_s, rel=0.01)
    level, (least, load) = "ttft_p99=0.05", (100, 8.0)
    found = capacity(model, system, level, requests=least, tolerance=1.0, workers=1, **laid, **WORK).found[0]
    held = next(t for t in found.tried if t.load_per_s == found.load_per_s)
    run = simulate(model, system, rate=found.load_per_s, requests=held.requests, **laid, **WORK).run
    assert run.output_tokens_per_s == pytest.approx(found.output_tokens_per_s, rel=0.01)
    assert run.ttft_s.p99 == pytest.approx(held.figures["ttft_p99"], rel=0.01)
    best = plan(model, system, level, load=load, requests=least, workers=1, **laid, **WORK).searched[0].chosen
    assert best is not None
    run = simulate(model, system, rate=load, requests=best.requests, **laid, **WORK).run
    # Without an engine's kernels `simulate` has no front end, which the engine file of a plan has: 2 % here.
    assert run.ttft_s.p99 == pytest.approx(best.figures["ttft_p99"], rel=0.01 if kernels else 0.03)
    assert run.joules_per_token == pytest.approx(best.joules_per_token, rel=0.01)


def test_the_usual_stands_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose kernels vLLM's scheduler runs on, changed once, changes in all of them."""
    monkeypatch.setitem(usual.FRAMEWORKS, "vllm", "typical")
    model, system = "llama-3-8b", "h100-x1"
    step = compare(model, [system], batch=4)
    assert step.table[0].framework == "typical"
    assert "h100-x1 tp 1, dp 1, op-per-byte, typical's kernels (--framework)" in _text(step)
    assert roofline(model, system, batch=4).step_seconds == step.table[0].latency_s
    served = simulate(model, system, closed_loop=2, requests=4, **WORK)
    assert "Served with tp 1, dp 1; chunked on typical's kernels; at most 256 running a rank" in _text(served)
    each = next(candidates(system, load_system(system), load_model(model), {}, lone=False))
    assert each.framework == "typical"


def _text(answer: Result) -> str:
    return "\n".join(block for block in answer.blocks() if isinstance(block, str))


@pytest.mark.parametrize(("given", "policy", "framework"), tables(__file__)["said"])
def test_what_is_said_comes_first(given: dict[str, Any], policy: str | None, framework: str | None) -> None:
    """Kernels go with a scheduler; what shares no kernels, and rooflines, have those of no engine."""
    asked = Scenario.of(**{"model": "mixtral-8x7b", "system": "h100-x4", **given})
    found = as_usual(asked)
    assert (found.serving.policy, found.deployment.framework) == (policy, framework)
    assert as_usual(found) == found
    if given.get("system", "") is not None:  # of a sweep's file the same
        assert as_usual(scenario_of({"model": "mixtral-8x7b", "system": "h100-x4", **given})) == found
