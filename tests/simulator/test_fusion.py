"""Which small kernels does an engine start by itself, by version, model, format and card?"""

from __future__ import annotations

import pytest

from opbyte import roofline
from opbyte.devices.catalog import load_device
from opbyte.simulator.frameworks.fusion import kernels_alone
from opbyte.workloads.catalog import load_model

NORMS = " post_norm residual_norm router_norm"


@pytest.mark.parametrize(
    ("version", "model", "card", "found"),
    [
        ("0.5.9", "qwen3-30b-a3b", "h100", "qk_norm topk"),
        ("0.5.23", "qwen3-30b-a3b", "h100", "topk"),
        ("0.5.9", "gpt-oss-20b", "b200", "qk_norm"),
        ("0.5.9", "gpt-oss-20b", "h100", "qk_norm topk"),
        ("0.5.9", "minimax-m2", "h100", "qk_norm qk_sums topk topk"),
        ("0.5.7", "deepseek-v3", "mi300x",
         "absorbed_cast absorbed_cast kv_norm kv_write q_concat q_concat q_concat qk_norm topk topk"),
        ("0.5.7", "deepseek-v3", "mi355x", "kv_norm kv_write q_concat q_concat q_concat qk_norm topk topk"),
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
