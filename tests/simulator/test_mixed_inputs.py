"""Do engines multiply MXFP4 experts with inputs of 8 bits where the devices can, and nowhere else?"""

from __future__ import annotations

import pytest

from opbyte import roofline


@pytest.mark.parametrize(
    ("system", "framework", "wanted"),
    [
        ("b200-x1", "trtllm", "mxfp4_mxfp8"),
        ("b200-x1", "vllm", "mxfp4_mxfp8"),
        ("b200-x1", "sglang", "mxfp4"),
        ("b200-x1", "typical", "mxfp4"),
        ("b200-x1", None, "mxfp4_mxfp8"),
        ("h100-x1", "vllm", "mxfp4"),
    ],
)
def test_experts_of_gpt_oss(system: str, framework: str | None, wanted: str) -> None:
    found = roofline("gpt-oss-20b", system, batch=8, context=100, framework=framework)
    numerics = found.deployment.model.numerics
    assert numerics.weight_format("experts") == wanted
    assert numerics.weight_format("attention") == "bf16"
