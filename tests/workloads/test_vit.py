"""Are image encoders counted right? Expected values are hand calculations from the papers' sizes."""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.analysis.papers.m3vit import encoder_macs, upsampling_decoder_macs, with_experts
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError, SpecError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.layers import MultiTaskExperts, Run
from opbyte.workloads.model import embedding_ops, head_ops, layer_ops
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads

KEYS = {
    "architectures": ["ViTModel"], "image_size": 224, "patch_size": 16, "hidden_size": 192,
    "num_attention_heads": 3, "num_hidden_layers": 12, "intermediate_size": 768,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tokens", "gmac"),
    [("vit-small-pascal", 1025, 31.75), ("vit-small-nyud", 1201, 39.15), ("edge-moe-cityscapes", 129, 0.783)],
)
def test_encoder_work(name: str, tokens: int, gmac: float) -> None:
    model = load_model(name)
    assert model.front is not None
    assert model.front.tokens == model.max_position == tokens
    assert encoder_macs(model) / 1e9 == pytest.approx(gmac, rel=2e-3)


def test_encoder_work_by_hand() -> None:
    """Linear N x 12 x (4 C^2 + 2 C M), attention 12 x 2 N^2 C, patches (N - 1) x 768 C."""
    n, c, m = 1025, 384, 1536
    expected = n * 12 * (4 * c * c + 2 * c * m) + 12 * 2 * n * n * c + (n - 1) * 768 * c
    assert encoder_macs(load_model("vit-small-pascal")) == expected
    router = 6 * n * 16 * c
    assert encoder_macs(load_model("m3vit-pascal")) == pytest.approx(expected + router)


def test_decoder_by_hand() -> None:
    """Convolutions on 32, 64, 128 and 256 squared, 1 x 1 to 21 classes on the last."""
    side = [32**2, 64**2, 128**2, 256**2]
    macs = side[0] * 9 * 384 * 256 + sum(side[1:]) * 9 * 256 * 256 + side[3] * 256 * 21
    assert upsampling_decoder_macs(load_model("vit-small-pascal"), 256, 21) == macs


def test_vit_tiny_has_its_published_size() -> None:
    """5.5 M parameters without the classifier (DeiT-tiny: 5.7 M with 1,000 classes)."""
    model = model_from_keys(KEYS, name="tiny", where="test")
    assert model.total_params == 5_717_416 - 1000 * 193
    assert model.front is not None
    assert model.front.tokens == 197


def test_one_gate_a_task() -> None:
    one, five = (MultiTaskExperts(hidden=384, experts=16, top_k=4, width=384, matrices=2, tasks=t) for t in (1, 5))
    totals = [sum(w.total for w in moe.weights()) for moe in (one, five)]
    actives = [sum(w.active for w in moe.weights()) for moe in (one, five)]
    assert totals[1] - totals[0] == 4 * 16 * 384
    assert actives[0] == actives[1]


def test_ops_of_two_images_are_twice_those_of_one() -> None:
    """Images do not attend to each other; weights are read once."""
    model, run = load_model("m3vit-pascal"), Run(Numerics("fp16"))
    loads = Loads(np.array([256.25]), np.array([16.0]))
    flops = []
    for images in (1, 2):
        m = Batch.of(chunks=[(1025, 0)] * images).moments((0,))
        ops = embedding_ops(model, m, run) + head_ops(model, m, run, 1)
        ops += [op for part in layer_ops(model.layers[0], m, run, loads) for op in part]
        flops.append(sum(op.flops for op in ops))
        attention = next(op for op in ops if op.kind == "attention_image")
        assert attention.flops == 4 * 384 * 1025**2 * images
        assert not any(op.name == "logits" for op in ops)
    assert flops[1] == pytest.approx(2 * flops[0])


def test_more_experts_are_more_weights_and_the_same_work() -> None:
    model = load_model("m3vit-pascal")
    many = with_experts(model, 64)
    assert many.active_params - model.active_params == 6 * 48 * 384  # the wider gate
    assert many.total_params - model.total_params == 6 * 48 * (295_680 + 5 * 384)
    assert encoder_macs(many) == pytest.approx(encoder_macs(model), rel=0.005)
    with pytest.raises(InputError, match="experts 3: must be at least the 4 experts of a token"):
        with_experts(model, 3)
    with pytest.raises(InputError, match="takes tokens, not images"):
        encoder_macs(load_model("llama-2-7b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 8}, r"image_size: \[8, 8\] is smaller than one patch of 16 x 16 pixels"),
        ({"image_size": 0}, "image_size: must be a side or .* not 0"),
        ({"image_size": [224]}, "image_size: must be a side"),
        ({"image_size": None}, "image_size: must be a side"),
        ({"patch_size": 0}, "patch_size: must be"),
        ({"num_attention_heads": 5}, "num_attention_heads: must divide the hidden size 192"),
        ({"num_experts": 4, "num_experts_per_tok": 5, "moe_intermediate_size": 8},
         "num_experts_per_tok: must be at most the 4 experts, not 5"),
        ({"num_experts": 4, "num_experts_per_tok": 2}, "moe_intermediate_size: is missing"),
    ],
)  # fmt: skip
def test_bad_encoders(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        model_from_keys(KEYS | change, name="bad", where="test")
