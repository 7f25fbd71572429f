"""Which small kernels does an engine start by itself, by version, model, format and card?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opbyte import roofline, simulate
from opbyte.devices.catalog import load_device
from opbyte.simulator.frameworks.fusion import kernels_alone
from opbyte.workloads.catalog import load_model

OFF = "disable_custom_all_reduce"
FUSED = "enable_flashinfer_allreduce_fusion"
NORMS = " post_norm residual_norm router_norm"


@pytest.mark.parametrize(
    ("version", "model", "card", "found"),
    [
        ("0.5.9", "qwen3-30b-a3b", "h100", "qk_norm topk"),
        ("0.5.23", "qwen3-30b-a3b", "h100", "topk"),
        ("0.5.9", "gpt-oss-20b", "b200", "qk_norm"),
        ("0.5.9", "gpt-oss-20b", "h100", "qk_norm topk"),
        ("0.5.9", "minimax-m2", "h100", "library_all_reduce qk_norm qk_sums topk topk"),
        ("0.5.7", "deepseek-v3", "mi300x",
         "absorbed_cast absorbed_cast kv_norm kv_write library_all_reduce q_concat q_concat q_concat qk_norm topk topk"),
        ("0.5.7", "deepseek-v3", "mi355x", "kv_norm kv_write library_all_reduce q_concat q_concat q_concat qk_norm topk topk"),
        ("0.5.12", "deepseek-v3", "mi300x", "kv_norm q_concat qk_norm topk topk"),
    ],
)  # fmt: skip
def test_rows_apply_by_version_model_format_and_card(version: str, model: str, card: str, found: str) -> None:
    alone = kernels_alone("sglang", version, load_model(model), load_device(card)[0])
    assert sorted(alone) == sorted((found + NORMS).split())
    assert kernels_alone("vllm", "", load_model(model), load_device(card)[0]) == ()


def test_an_op_of_its_own_takes_a_kernel_and_no_other_changes() -> None:
    answers = [
        roofline("qwen3-30b-a3b", system="h100-x1", batch=1, framework=f"sglang@{v}").to_dict()
        for v in ("0.5.9", "0.5.23")
    ]
    own, newer = ({op["name"]: op["seconds"] for op in answer["ops"]} for answer in answers)
    assert own.pop("qk_norm") > 0.0
    assert own == newer


def test_devices_add_the_squares_of_a_norm_of_all_heads() -> None:
    """Only where they share heads, between two kernels of the norm."""
    for tp in (1, 8):
        answer = roofline("minimax-m2", system="h100-x8", tp=tp, batch=4, framework="sglang@0.5.9").to_dict()
        names = [op["name"] for op in answer["ops"]]
        assert ("qk_all_reduce" in names) == (tp > 1)
        assert names.index("qk_sums") < names.index("qk_norm")


def test_who_sums_is_told_by_the_version_or_the_file(tmp_path: Path) -> None:
    """Eight H100s sum a few kB by NCCL 10 us slower than by a kernel for it, twice in each of 32 layers."""
    file, tpot = tmp_path / "engine.json", []
    for version, more in (("0.5.9", {}), ("0.5.9", {FUSED: True}), ("0.5.23", {}), ("0.5.23", {OFF: True})):
        file.write_text(json.dumps({"engine": "sglang", "version": version, "tp_size": 8, **more}))
        run = simulate(
            "llama-3-8b", system="h100-x8", engine=str(file), closed_loop=1, requests=2, input_len=16, output_len=8
        )
        tpot.append(run.to_dict()["tpot_s"]["p50"])
    assert 64e-5 < tpot[0] - tpot[1] == pytest.approx(tpot[3] - tpot[2])
