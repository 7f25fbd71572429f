"""Do whole steps of sparse models follow what their makers published?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.answers.roofline import roofline

Step = Callable[..., float]


@pytest.fixture
def step(data_set: Callable[[str], Path]) -> Step:
    folder = data_set("model_configs_2026")

    def seconds(name: str, **options: object) -> float:
        model = folder / name / "config.json" if name[0].isupper() else name
        found = roofline(model, system="h200-x8", framework="sglang", **options)
        return float(found.to_dict()["step_seconds"])

    return seconds


def test_decode_of_v32_hardly_grows(step: Step) -> None:
    """Attention at 128k reads 8.1 times fewer bytes than that of V3.1, and the slope of a step follows.

    Published, read by eye of DeepSeek_V3_2.pdf, figure 3: 19 times by slope, of 2.15 to 0.25 USD a million
    tokens. It is missed since dense latents are priced as rows say, at 0.85 of memory's rate and no longer 0.4.
    """
    far, near = {"batch": 128, "context": 131_072}, {"batch": 128, "context": 8_192}
    dense = step("deepseek-v3", **far) - step("deepseek-v3", **near)
    sparse = step("DeepSeek-V3.2", **far) - step("DeepSeek-V3.2", **near)
    assert 7 < dense / sparse < 20


def test_a_long_step_of_v32(step: Step) -> None:
    """16 sequences of 128k on 8 H200: about 22 ms by bytes and FLOP alone; dense latents take twice as long."""
    found = step("DeepSeek-V3.2", batch=16, context=131_072)
    assert 0.020 < found < 0.030
    assert step("deepseek-v3", batch=16, context=131_072) > 1.9 * found


def test_short_contexts_pay_for_the_indexer(step: Step) -> None:
    """Published: below 3k tokens V3.2 decodes dearer than V3.1, beyond cheaper."""
    for context, dearer in ((128, True), (1_024, True), (32_768, False)):
        options = {"batch": 16, "context": context}
        assert (step("DeepSeek-V3.2", **options) > step("deepseek-v3", **options)) == dearer


def test_shared_indexers_save_their_scores(step: Step) -> None:
    """GLM-5.2 scores in 21 of 78 layers, GLM-5.1 in all."""
    far, near = {"batch": 16, "context": 131_072}, {"batch": 16, "context": 8_192}
    grown = [step(name, **far) - step(name, **near) for name in ("GLM-5.1-NVFP4", "GLM-5.2-FP8")]
    assert grown[0] / grown[1] == pytest.approx(78 / 21, rel=0.05)
