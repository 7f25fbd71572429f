"""Does `--framework` choose whose engine and kernels, alike in every command?

Frameworks' kernels differ by more than many devices do (docs/frameworks.md), so two devices are
compared under one. Rules of the engines: `simulator/frameworks/engines.py`, with their sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.answers.roofline import roofline
from opbyte.analysis.answers.simulate import simulate
from opbyte.devices.calibrated.kernel_sets import FRAMEWORKS
from opbyte.devices.catalog import load_device
from opbyte.simulator.engine.host import LAUNCH_S
from opbyte.simulator.frameworks.engines import exchange_of
from opbyte.simulator.frameworks.kernels import kernels_of
from opbyte.workloads.errors import CapacityError, InputError

WORK = {"closed_loop": 4, "requests": 8, "input_len": 200, "output_len": 8}
COMPARABLE = [name for name in FRAMEWORKS if name != "measured-blend"]


@pytest.mark.parametrize("framework", COMPARABLE)
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_more_bandwidth_is_never_slower_under_one_framework(framework: str, dtype: str) -> None:
    """Finding 1 of a trial: fp8 experts on an H200 took longer than on an H100."""
    h100, h200 = (
        roofline("qwen3-30b-a3b", system, batch=64, dtype=dtype, framework=framework).step_seconds
        for system in ("h100-x1", "h200-x1")
    )
    assert h200 <= 1.03 * h100


def test_a_name_alone_is_the_default() -> None:
    named, default = (
        roofline("llama-3-8b", "h100-x1", batch=8, framework=name).step_seconds for name in ("vllm", None)
    )
    assert named == default


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
def test_an_engine_comes_with_its_policy(framework: str) -> None:
    run = simulate("llama-3-8b", "h100-x1", framework=framework, **WORK).run
    assert run.policy.name == framework.replace("trtllm", "tensorrt-llm")
    assert run.policy.ahead  # all three schedule a step while the one before runs


def test_kernels_alone_leave_the_usual_policy() -> None:
    assert simulate("llama-3-8b", "h100-x1", framework="typical", **WORK).run.policy.name == "vllm"


def test_what_is_given_comes_first(tmp_path: Path) -> None:
    work = {**WORK, "framework": "sglang"}
    assert simulate("llama-3-8b", "h100-x1", policy="mixed", **work).run.policy.name == "mixed"
    engine = tmp_path / "engine.json"
    engine.write_text('{"max_num_seqs": 3}')
    run = simulate("llama-3-8b", "h100-x1", engine=engine, **work).run
    assert (run.policy.name, run.policy.max_sequences) == ("vllm", 3)
    limited = simulate("llama-3-8b", "h100-x1", max_seqs=2, token_budget=512, **work).run.policy
    assert (limited.max_sequences, limited.token_budget) == (2, 512)


def test_whose_experts_a_framework_calls() -> None:
    """On data-centre Blackwell TensorRT-LLM's generated kernels, vLLM's rows, but for ranks apart."""
    hopper, blackwell = (load_device(name)[0] for name in ("h100", "b200"))

    def experts(framework: str, device: object, **how: object) -> str:
        rules = {"apart": False, **how}
        return kernels_of(framework, device, **rules)["experts"]  # type: ignore[arg-type]

    assert experts("sglang", hopper) == "sglang"
    assert experts("sglang", hopper, stored="mxfp4") == "vllm"
    assert experts("sglang", blackwell) == experts("trtllm", blackwell) == "vllm"
    assert experts("trtllm", blackwell, apart=True) == "trtllm"
    assert experts("typical", blackwell) == "typical"
    assert experts("vllm", hopper, stored="fp8_channel") == "trtllm"  # CUTLASS's
    assert experts("vllm", hopper, stored="fp8") == experts("vllm", blackwell, stored="fp8_channel") == "vllm"


@pytest.mark.parametrize(("version", "same"), [("0.19.0", True), ("0.11.0", False)])
def test_an_engine_file_has_the_only_kernels_of_experts_in_mxfp4(tmp_path: Path, version: str, same: bool) -> None:
    engine = tmp_path / "engine.json"
    engine.write_text(f'{{"engine": "vllm", "version": "{version}"}}')
    runs = [
        simulate("gpt-oss-20b", "h100-x1", **how, **WORK)
        for how in ({"engine": engine}, {"framework": f"vllm@{version}"})
    ]
    file, named = (next(x["busy_s"] for x in run.to_dict()["layers"] if x["name"] == "experts") for run in runs)
    assert (file == pytest.approx(named, rel=1e-9)) == same


def test_how_ranks_exchange_tokens() -> None:
    asked = (("vllm", 8), ("sglang", 16))
    assert [exchange_of(f, load_device("h200")[0], dp=n, ep=n) for f, n in asked] == ["gather", "all_to_all"]
    assert exchange_of("vllm", load_device("h200")[0], dp=1, ep=8) == "gather"
    assert exchange_of("trtllm", load_device("gb200")[0], dp=4, ep=4) == "all_to_all"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="--framework vlm: is not one; did you mean 'vllm'"):
        roofline("llama-3-8b", "h100-x1", framework="vlm")


def test_a_step_with_a_short_prompt_waits_for_its_launches_in_both_commands() -> None:
    """Where `roofline` says that the host is slower, `simulate` takes as long as the host does."""
    launching_s = LAUNCH_S * (1 + 36 * 12 + 2)  # twelve launches a layer
    for framework, waits in (("sglang", True), ("sglang@0.5.12", False)):
        short, long = (roofline("qwen3-8b", "h100-x1", batch=0, prefill=n, framework=framework) for n in (64, 8192))
        assert any("to launch this step" in line for line in short.warnings) is waits
        assert not any("to launch this step" in line for line in long.warnings)
        run = simulate(
            "qwen3-8b", "h100-x1", framework=framework, closed_loop=1, requests=2, input_len=64, output_len=1
        ).run
        assert ((run.ttft_s.p50 or 0.0) >= launching_s) is waits


def test_a_roofline_warns_of_what_a_simulation_refuses() -> None:
    """The same memory, less what the engine keeps for itself; and FP4 weights on a device without this format."""
    how: dict[str, Any] = {"framework": "vllm", "dtype": "nvfp4"}
    no_fp4, too_large = roofline("deepseek-v3", "h100-x1", **how).warnings
    with pytest.raises(CapacityError) as refused:
        simulate("deepseek-v3", "h100-x1", rate=1.0, **how)
    assert str(refused.value) == too_large
    assert "multiplied in 16 bits" in no_fp4
