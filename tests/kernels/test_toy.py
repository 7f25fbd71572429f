"""Does the small model decode what its definition says?

Expected values: one whole step in fp64, written without any of the kernels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opbyte.kernels.check import require
from opbyte.kernels.jit import max_threads, use_threads
from opbyte.kernels.toy import ToyConfig, ToyModel, reference_step
from opbyte.workloads.catalog import load_model

SMALL = ToyConfig(
    hidden_size=256, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, vocab_size=512,
)  # fmt: skip


@pytest.mark.parametrize("contexts", [[1], [70, 3, 129]])
def test_logits_are_right(contexts: list[int]) -> None:
    use_threads(max_threads())
    model = ToyModel(SMALL, max_threads())
    state = model.start(contexts, 4)
    for _ in range(3):
        tokens = state.tokens.copy()
        model.step(state)
        want = reference_step(model, state, tokens)
        require(state.logits, want, "fp32", "logits")
    assert state.lengths.tolist() == [n + 3 for n in contexts]


def test_same_seed_same_tokens() -> None:
    runs = []
    for _ in range(2):
        model = ToyModel(SMALL, 1, seed=3)
        state = model.start([20, 40], 5)
        runs.append(np.stack([model.step(state) for _ in range(5)]))
    np.testing.assert_array_equal(runs[0], runs[1])


def test_its_config_is_what_the_simulator_counts(tmp_path: Path) -> None:
    """Parameters counted from config.json are those the model holds, norms included."""

    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL.to_hf(4096)))
    spec = load_model(path)
    model = ToyModel(SMALL, 1)
    held = model.embedding.size + model.head.size + model.norm.size
    for layer in model.layers:
        w = layer.experts
        held += layer.qkv.size + layer.out.size + layer.router.size
        held += layer.norm_1.size + layer.norm_2.size + w.gate.size + w.up.size + w.down.size
    assert spec.total_params == held
