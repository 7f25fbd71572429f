"""Which small kernels does an engine start by itself, by version, model, format and card?"""

from __future__ import annotations

import pytest

from opbyte import roofline
from opbyte.devices.catalog import load_device
from opbyte.simulator.frameworks.fusion import kernels_alone
from opbyte.workloads.catalog import load_model


@pytest.mark.parametrize(
    ("version", "model", "card", "found"),
    [
        ("0.5.9", "qwen3-30b-a3b", "h100", {"qk_norm", "topk"}),
        ("0.5.23", "qwen3-30b-a3b", "h100", {"topk"}),
        ("0.5.9", "gpt-oss-20b", "b200", {"qk_norm"}),
        ("0.5.9", "gpt-oss-20b", "h100", {"qk_norm", "topk"}),
        ("0.5.7", "deepseek-v3", "mi300x", {"qk_norm", "topk", "kv_write", "q_concat"}),
        ("0.5.12", "deepseek-v3", "mi300x", {"qk_norm", "topk"}),
    ],
)
def test_rows_apply_by_version_model_format_and_card(version: str, model: str, card: str, found: set[str]) -> None:
    norms = {"post_norm", "router_norm", "residual_norm"}
    alone = kernels_alone("sglang", version, load_model(model), load_device(card)[0])
    assert alone - norms == found
    assert kernels_alone("vllm", version, load_model(model), load_device(card)[0]) == frozenset()


def test_an_op_of_its_own_takes_a_kernel_and_no_other_changes() -> None:
    answers = [
        roofline("qwen3-30b-a3b", system="h100-x1", batch=1, framework=f"sglang@{v}").to_dict()
        for v in ("0.5.9", "0.5.23")
    ]
    own, newer = ({op["name"]: op["seconds"] for op in answer["ops"]} for answer in answers)
    assert own.pop("qk_norm") > 0.0
    assert own == newer
