"""Does the small model decode what its definition says?

Expected values: one whole step in fp64, written without any of the kernels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opbyte.kernels.attention import Cache
from opbyte.kernels.check import require
from opbyte.kernels.jit import max_threads, use_threads
from opbyte.kernels.toy import ToyConfig, ToyModel, ToyState
from opbyte.workloads.catalog import load_model

SMALL = ToyConfig(
    hidden_size=256, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, vocab_size=512,
)  # fmt: skip


def attention(model: ToyModel, cache: Cache, state: ToyState, heads: np.ndarray) -> np.ndarray:
    """Attention to what a cache holds after a step, in fp64."""
    c = model.config
    batch, group = len(heads), c.num_attention_heads // c.num_key_value_heads
    half = c.head_dim // 2
    plain = heads.reshape(batch, -1, c.head_dim)[:, : c.num_attention_heads]
    turned = (plain[..., :half] + 1j * plain[..., half:]) * state.turn.astype(np.complex128)
    q = np.concatenate([turned.real, turned.imag], axis=2)
    attended = np.zeros(q.shape)
    for b in range(batch):
        keys, values = (m.astype(np.float64) for m in cache.gather(b))
        for h in range(c.num_attention_heads):
            score = keys[:, h // group] @ q[b, h] * c.head_dim**-0.5
            weight = np.exp(score - score.max())
            attended[b, h] = (weight / weight.sum()) @ values[:, h // group]
    return attended.reshape(batch, -1)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def reference_step(model: ToyModel, state: ToyState, tokens: np.ndarray) -> np.ndarray:
    """Logits of one step in fp64, shape (batch, vocabulary), written without any of the kernels."""
    c = model.config
    residual = np.zeros((len(tokens), c.hidden_size))
    x = model.embedding[tokens].astype(np.float64)

    def norm(y: np.ndarray) -> np.ndarray:
        return y / np.sqrt((y * y).mean(1, keepdims=True) + 1e-6)

    for layer, cache in zip(model.layers, state.caches, strict=True):
        residual += x
        projected = norm(residual) @ layer.qkv.T.astype(np.float64)
        x = attention(model, cache, state, projected) @ layer.out.T.astype(np.float64)
        residual += x
        normed = norm(residual)
        scores = normed @ layer.router.T.astype(np.float64)
        ids = np.argsort(-scores, axis=1, kind="stable")[:, : c.num_experts_per_tok]
        chosen = np.take_along_axis(scores, ids, 1)
        weights = np.exp(chosen - chosen.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        w = layer.experts
        x = np.zeros(normed.shape)
        for t in range(len(x)):
            for e, weight in zip(ids[t], weights[t], strict=True):
                inner = silu(w.gate[e].astype(np.float64) @ normed[t])
                inner *= w.up[e].astype(np.float64) @ normed[t]
                x[t] += weight * (w.down[e].astype(np.float64) @ inner)
    return norm(residual + x) @ model.head.T.astype(np.float64)


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
