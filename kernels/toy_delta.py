"""The small model with gated delta nets in place of attention: states instead of a growing cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import recurrent
from .attention import AttentionUnits
from .toy import F4, ToyConfig, ToyLayer, ToyModel, ToyState

EPS = np.float32(1e-6)


@dataclass(frozen=True, slots=True)
class DeltaConfig(ToyConfig):
    """Sizes of the model; the heads of attention only fill its configuration."""

    linear_num_key_heads: int = 4
    linear_num_value_heads: int = 8
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4

    @property
    def channels(self) -> int:
        """Queries, keys and values, which go through the convolution."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def mixed(self) -> tuple[int, int]:
        heads, dim = self.linear_num_value_heads, self.linear_value_head_dim
        return self.channels + heads * dim + 2 * heads, heads * dim

    def to_hf(self, positions: int) -> dict[str, Any]:
        """The ``config.json`` of such a model, Qwen3.5's architecture without a shared expert."""
        config = super(DeltaConfig, self).to_hf(positions)  # slots make a class anew: no bare super()
        return {
            **config,
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "model_type": "qwen3_5_moe_text",
            "layer_types": ["linear_attention"] * self.num_hidden_layers,
            "moe_intermediate_size": self.intermediate_size,
            "num_experts": self.num_local_experts,
            "mamba_ssm_dtype": "float32",
        }


class DeltaModel(ToyModel):
    """The model with its weights."""

    config: DeltaConfig

    def _small(self) -> tuple[F4, ...]:
        """Taps of the convolution, logarithms of decay rates, biases of steps, weights of the norm."""
        c = self.config
        taps, heads = self._weights(c.channels, c.linear_conv_kernel_dim), c.linear_num_value_heads
        rates = np.log(self.rng.uniform(1.0, 16.0, heads)).astype(np.float32)
        ones = np.ones(c.linear_value_head_dim, np.float32)
        return taps, rates, np.full(heads, -3.0, np.float32), ones

    def start(self, contexts: list[int], more: int) -> ToyState:
        return DeltaState(self, contexts, more)

    def _mix(self, layer: ToyLayer, cache: Any, state: ToyState, ready: AttentionUnits | None) -> None:
        """Convolution, gates, the delta rule and its norm; the result is in `state.attended`."""
        states, window = cache
        x = prepare(state.qkv, window, layer.small, self.config)
        out = state.attended.reshape(x.v.shape)
        recurrent.step(x, states, out, self.threads)
        first, inner = self.config.channels, self.config.mixed[1]
        gates = state.qkv[:, first : first + inner]
        out *= layer.small[3] / np.sqrt((out * out).mean(2, keepdims=True) + EPS)
        out *= (gates / (np.float32(1.0) + np.exp(-gates))).reshape(out.shape)


class DeltaState(ToyState):
    """States and last inputs of the convolutions of a batch, and its buffers."""

    def _caches(self, longest: int) -> list[Any]:
        assert isinstance(self.model, DeltaModel)
        c, rng, batch = self.model.config, self.model.rng, len(self.lengths)
        state = (batch, c.linear_num_value_heads, c.linear_value_head_dim, c.linear_key_head_dim)
        window = (batch, c.linear_conv_kernel_dim - 1, c.channels)
        return [tuple(rng.standard_normal(shape, dtype=np.float32) for shape in (state, window))
                for _ in range(c.num_hidden_layers)]  # fmt: skip

    def advance(self) -> AttentionUnits | None:
        """One more token of each sequence: nothing grows."""
        self.lengths += 1
        return None


def prepare(projected: F4, window: F4, small: tuple[F4, ...], config: DeltaConfig) -> recurrent.TokenInputs:
    """Convolve a projection, shape (batch, columns), and cut it into what the delta rule takes.

    Its columns are queries, keys, values, gates, and of each head the logits of beta and of its step.
    `window`, shape (batch, taps - 1, channels), holds the last inputs, oldest first, and is moved on.
    """
    taps, rates, biases, _ = small
    batch, heads, dim = len(projected), config.linear_num_value_heads, config.linear_key_head_dim
    new = projected[:, : config.channels]
    mixed = new * taps[:, -1]
    for t in range(window.shape[1]):
        mixed += window[:, t] * taps[:, t]
    window[:, :-1], window[:, -1] = window[:, 1:].copy(), new
    mixed /= np.float32(1.0) + np.exp(-mixed)
    keys = config.linear_num_key_heads * dim
    both = mixed[:, : 2 * keys].reshape(batch, 2, -1, dim)
    both /= np.sqrt((both * both).sum(3, keepdims=True) + EPS)
    both[:, 0] *= np.float32(dim**-0.5)
    q, k = (np.ascontiguousarray(both[:, side]) for side in range(2))
    v = np.ascontiguousarray(mixed[:, 2 * keys :]).reshape(batch, heads, -1)
    beta = np.float32(1.0) / (np.float32(1.0) + np.exp(-projected[:, -2 * heads : -heads]))
    decay = np.exp(-np.exp(rates) * np.log1p(np.exp(projected[:, -heads:] + biases)))
    return recurrent.TokenInputs(q, k, v, decay[..., None], beta)
