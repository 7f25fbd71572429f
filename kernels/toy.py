"""A small MoE transformer built from the CPU kernels, which really decodes tokens.

Random weights in fp32, grouped-query attention with rotary embedding on a paged cache, experts with SwiGLU chosen by a
softmax router, and a head over the vocabulary. Its work equals the counts of `workloads` for the same `config.json`;
its step times are compared with the simulator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .attention import AttentionUnits, Cache, attend, plan
from .experts import ExpertBuffers, ExpertWeights, moe_layer
from .gemm import gemm
from .jit import serial
from .memory import aligned
from .rmsnorm import rmsnorm
from .router import route

F4 = npt.NDArray[np.float32]
PAGE = 64


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Sizes of the model; the names are as in a Hugging Face ``config.json``."""

    hidden_size: int = 1024
    intermediate_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    vocab_size: int = 8192
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def mixed(self) -> tuple[int, int]:
        """Output columns of a layer's first projection, and input columns of its last one."""
        heads = self.num_attention_heads + 2 * self.num_key_value_heads
        return heads * self.head_dim, self.num_attention_heads * self.head_dim

    def to_hf(self, positions: int) -> dict[str, Any]:
        """Return the ``config.json`` of a model of these sizes, in Mixtral's architecture."""
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "head_dim": self.head_dim,
            "max_position_embeddings": positions,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        }


@dataclass(frozen=True, slots=True)
class ToyLayer:
    """Weights of one layer."""

    norm_1: F4
    qkv: F4
    out: F4
    norm_2: F4
    router: F4
    experts: ExpertWeights


class ToyModel:
    """The toy model with its weights."""

    def __init__(self, config: ToyConfig, threads: int, seed: int = 0) -> None:
        self.config, self.threads = config, threads
        self.rng = np.random.default_rng(seed)
        c = config
        rows, inner = c.mixed
        grouped = (c.num_local_experts, c.intermediate_size, c.hidden_size)
        self.layers = [
            ToyLayer(
                np.ones(c.hidden_size, np.float32),
                self._weights(rows, c.hidden_size),
                self._weights(c.hidden_size, inner),
                np.ones(c.hidden_size, np.float32),
                self._weights(c.num_local_experts, c.hidden_size),
                ExpertWeights(
                    self._weights(*grouped),
                    self._weights(*grouped),
                    self._weights(c.num_local_experts, c.hidden_size, c.intermediate_size),
                ),
            )
            for _ in range(c.num_hidden_layers)
        ]
        self.embedding = self.rng.standard_normal((c.vocab_size, c.hidden_size), dtype=np.float32)
        self.norm = np.ones(c.hidden_size, np.float32)
        self.head = self._weights(c.vocab_size, c.hidden_size)

    def _weights(self, *shape: int) -> F4:
        """Return normal numbers, scaled so that products keep their magnitude."""
        values: F4 = aligned(shape)
        self.rng.standard_normal(out=values, dtype=np.float32)
        values *= np.float32(shape[-1] ** -0.5)
        return values

    def start(self, contexts: list[int], more: int) -> ToyState:
        """Return a batch whose caches contain `contexts` random tokens, with memory for `more`."""
        return ToyState(self, contexts, more)

    def step(self, state: ToyState) -> npt.NDArray[np.int64]:
        """Decode one token of every sequence; return the tokens, shape (batch,)."""
        batch = len(state.tokens)
        ready = state.advance()
        residual = state.residual
        np.take(self.embedding, state.tokens, axis=0, out=state.x)
        residual[:] = 0.0
        for layer, cache in zip(self.layers, state.caches, strict=True):
            rmsnorm(state.x, layer.norm_1, state.normed, residual, self.threads)
            gemm(state.normed, layer.qkv, state.qkv, self.threads)
            self._mix(cache, state, ready)
            gemm(state.attended.reshape(batch, -1), layer.out, state.x, self.threads)
            rmsnorm(state.x, layer.norm_2, state.normed, residual, self.threads)
            gemm(state.normed, pad_rows(layer.router), state.scores, self.threads)
            ids, weights = route(state.scores, self.config.num_experts_per_tok)
            order = moe_layer(state.normed, ids, weights, layer.experts, state.room, state.x, self.threads)
            state.active.append(int(np.count_nonzero(np.diff(order.offsets))))
        rmsnorm(state.x, self.norm, state.normed, residual, self.threads)
        gemm(state.normed, self.head, state.logits, self.threads)
        state.tokens = state.logits.argmax(1)
        assert len(state.tokens) == batch
        return state.tokens

    def _mix(self, cache: Cache, state: ToyState, ready: AttentionUnits) -> None:
        """Apply rotary embedding, write the cache, and run attention; the result is in `state.attended`."""
        c = self.config
        last = cache.lengths - 1
        pages = cache.table[np.arange(len(last)), last // PAGE]
        heads = state.qkv.reshape(len(last), -1, c.head_dim)
        place(heads, state.turn, state.q, cache.keys, cache.values, pages, last % PAGE)
        attend(ready, state.q, cache, c.head_dim**-0.5, state.attended)


class ToyState:
    """Caches and buffers of a batch in decoding."""

    def __init__(self, model: ToyModel, contexts: list[int], more: int) -> None:
        c, batch = model.config, len(contexts)
        self.model = model
        self.lengths = np.array(contexts, dtype=np.int64)
        self.first = self.lengths.copy()
        self.caches = self._caches(max(contexts) + more)
        self.tokens = model.rng.integers(0, c.vocab_size, batch)
        hidden = (batch, c.hidden_size)
        self.x: F4 = aligned(hidden)
        self.normed: F4 = aligned(hidden)
        self.residual: F4 = aligned(hidden)
        rows, inner = c.mixed
        self.qkv = np.empty((batch, rows), np.float32)
        self.q = np.empty((batch, 1, c.num_attention_heads, c.head_dim), np.float32)
        self.attended = np.empty((batch, 1, inner // c.head_dim, c.head_dim), np.float32)
        self.scores = np.empty((batch, c.num_local_experts), np.float32)
        self.logits = np.empty((batch, c.vocab_size), np.float32)
        self.room = ExpertBuffers.of(batch * c.num_experts_per_tok, c.hidden_size, c.intermediate_size)
        self.turn = np.empty((batch, 1, c.head_dim // 2), np.complex64)
        self.active: list[int] = []

    def _caches(self, longest: int) -> list[Cache]:
        """Return the cache of each layer: room for the tokens of each sequence, filled with random numbers."""
        c, rng, batch = self.model.config, self.model.rng, len(self.lengths)
        pages = int(-(-longest // PAGE))
        shape = (batch * pages, c.num_key_value_heads, PAGE, c.head_dim)
        table = rng.permutation(batch * pages).astype(np.int32).reshape(batch, pages)
        piece = rng.standard_normal((min(shape[0], 64), *shape[1:]), dtype=np.float32)
        filled = np.resize(piece, shape)
        return [Cache(filled.copy(), filled.copy(), table, self.lengths) for _ in range(c.num_hidden_layers)]

    @property
    def steps(self) -> int:
        """Number of steps since the first contexts."""
        return int(self.lengths[0] - self.first[0])

    def restart(self) -> None:
        """Set the contexts back to their first lengths."""
        self.lengths[:] = self.first

    def advance(self) -> AttentionUnits:
        """Extend each sequence by one token; return the plan of attention, which all layers use."""
        c = self.model.config
        half = np.arange(c.head_dim // 2) / (c.head_dim // 2)
        angle = self.lengths[:, None] * c.rope_theta**-half
        self.turn[:, 0] = np.exp(1j * angle)
        self.lengths += 1  # the caches share this array
        return plan(
            np.ones(len(self.lengths), np.int64), self.lengths, c.num_attention_heads,
            c.num_key_value_heads, c.head_dim, 0, self.model.threads,
        )  # fmt: skip


@serial
def place(heads, turn, q, keys, values, pages, slots):
    """Write the new token's queries, keys and values to their arrays, with rotary embedding applied.

    Each pair ``(d, d + half)`` of a head is rotated by its angle.

    Parameters
    ----------
    heads : float32 array, shape (batch, heads_q + 2 heads_kv, dim)
    turn : complex64 array, shape (batch, 1, dim / 2)
    q : float32 array, shape (batch, 1, heads_q, dim)
    keys, values : float32 arrays, shape (pages, heads_kv, PAGE, dim)
    pages, slots : int arrays, shape (batch,)
        Where each sequence's new key goes.
    """
    heads_q, heads_kv, half = q.shape[2], keys.shape[1], heads.shape[2] // 2
    for b in range(heads.shape[0]):
        for h in range(heads.shape[1]):
            row = heads[b, h]
            if h >= heads_q + heads_kv:
                values[pages[b], h - heads_q - heads_kv, slots[b]] = row
                continue
            out = q[b, 0, h] if h < heads_q else keys[pages[b], h - heads_q, slots[b]]
            for d in range(half):
                across, along = turn[b, 0, d].real, turn[b, 0, d].imag
                out[d] = row[d] * across - row[d + half] * along
                out[d + half] = row[d + half] * across + row[d] * along


def pad_rows(w: F4) -> F4:
    """Return the weights in the form of the product kernel; refuse rows that are not a multiple of four."""
    if len(w) % 4:
        raise ValueError(f"{len(w)} experts: the product kernel needs a multiple of 4")
    return w
