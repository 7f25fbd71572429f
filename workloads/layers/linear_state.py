"""Layers with a constant-size state instead of a growing KV cache: Mamba and gated DeltaNet.

Kimi Delta Attention (Kimi-Linear, Kimi-K3, Ling-3.0): the delta rule with a decay for each channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..numerics import check_dtype
from ..ops import Access, Loads, Op
from .base import Fixed, Run, State, Weights, elementwise, gemm, layer_kind, split
from .linears import PlainKind
from .recurrent import conv_ops, delta_rates, state_ops


def _scan(name: str, moments: Moments, run: Run, flops_per_token: int, width: int, state_values: int) -> list[Op]:
    """Return the ops of state update and read-out; the state is read and written once per sequence and step.

    A decode of several tokens writes the state after each: decoding continues from the last accepted one
    (`num_speculative_blocks` of vllm-project/vllm, vllm/v1/kv_cache_interface.py).
    """
    num = run.numerics

    def op(phase: str, tokens: float, sequences: float, states: float) -> Op:
        moved = num.act_bytes * state_values
        return Op(
            name=f"{name}_{phase}", layer="state", kind="linear_state", phase=phase,
            shape={"tokens": tokens, "batch": sequences, "width": width, "state": state_values},
            dtype=num.default,
            flops=float(flops_per_token) * tokens,
            act_bytes=num.act_bytes * 2.0 * width * tokens,
            kv_read_bytes=moved * sequences,
            kv_write_bytes=moved * states,
            access=Access("update", num.act_bytes * state_values),
        )  # fmt: skip

    return [
        op("prefill", moments.prefill_tokens, moments.prefills, moments.prefills),
        op("decode", moments.decode_tokens, moments.decodes, moments.decode_tokens),
    ]


@layer_kind("mamba")
@dataclass(frozen=True, slots=True)
class Mamba(PlainKind):
    """Selective state-space layer (Mamba-1 as in Jamba; arXiv 2312.00752, section 3)."""

    hidden: int
    inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    norms: bool = True

    def weights(self) -> tuple[Weights, ...]:
        big = self.hidden * 2 * self.inner + self.inner * (self.dt_rank + 2 * self.d_state)
        big += self.dt_rank * self.inner + self.inner * self.hidden
        small = self.inner * (self.d_conv + 1) + self.inner + self.inner * (self.d_state + 1)
        small += (self.dt_rank + 2 * self.d_state) * self.norms
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return State(fixed=(Fixed(self._state_values),))

    @property
    def _state_values(self) -> int:
        return self.inner * (self.d_state + self.d_conv)

    def shard(self, tp: int) -> Mamba:
        return replace(self, inner=split(self.inner, tp, "state-space channels"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        def linear(name: str, n: int, k: int) -> Op:
            return gemm(name, "state", "attention", moments.tokens, n, k, run)

        # Per channel and state entry: decay, input, accumulate (3 multiply-adds), read out (1).
        flops = self.inner * (8 * self.d_state + 2 * self.d_conv)
        return [
            linear("in", 2 * self.inner, self.hidden),
            linear("selection", self.dt_rank + 2 * self.d_state, self.inner),
            linear("dt", self.inner, self.dt_rank),
            *_scan("mamba", moments, run, flops, self.inner, self._state_values),
            linear("out", self.hidden, self.inner),
        ]


@layer_kind("delta_net")
@dataclass(frozen=True, slots=True)
class GatedDeltaNet(PlainKind):
    """Gated DeltaNet (Qwen3-Next; arXiv 2412.06464): a matrix state per value head.

    Attributes
    ----------
    state_format : str
        Number format of the matrix states (``mamba_ssm_dtype``); empty: as activations.
    """

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    d_conv: int
    state_format: str = ""

    def __post_init__(self) -> None:
        if self.state_format:
            check_dtype(self.state_format, "state_format")

    @property
    def _key(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def value(self) -> int:
        """Columns of the values and of the read-out."""
        return self.value_heads * self.value_dim

    @property
    def matrix(self) -> int:
        """Number of values in the matrix states of all heads."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def channels(self) -> int:
        """Number of channels of the convolution."""
        return 2 * self._key + self.value

    def weights(self) -> tuple[Weights, ...]:
        big = self.hidden * (2 * self._key + 2 * self.value + 2 * self.value_heads)
        big += self.value * self.hidden
        small = self.channels * self.d_conv + 2 * self.value_heads + self.value_dim
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return self.states(1)

    def states(self, count: int) -> State:
        """Return the state of a sequence with `count` matrix states in each head."""
        return State(fixed=(Fixed(count * self.matrix, self.state_format), Fixed(self.channels * (self.d_conv - 1))))

    def shard(self, tp: int) -> GatedDeltaNet:
        return replace(
            self,
            key_heads=split(self.key_heads, tp, "linear key heads"),
            value_heads=split(self.value_heads, tp, "linear value heads"),
        )

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return self.ops_with(moments, run, 1, 1)

    def ops_with(self, moments: Moments, run: Run, used: int, stored: int) -> list[Op]:
        """Return the ops if a token uses `used` states of each head, and a prompt's tokens together `stored`."""
        width = 2 * self._key + 2 * self.value
        state_bytes = Fixed(self.matrix, self.state_format).bytes(run.numerics)
        heads, dims = used * self.value_heads, (self.key_dim, self.value_dim)
        value = run.numerics.act_bytes
        rates = (delta_rates(heads, *dims, stored * state_bytes, False, value),
                 delta_rates(heads, *dims, used * state_bytes, True, value))  # fmt: skip
        return [
            gemm("in", "state", "attention", moments.tokens, width + 2 * self.value_heads, self.hidden, run),
            *conv_ops(self.channels, self.d_conv, moments, run),
            *state_ops("delta", moments, run, rates, (stored * state_bytes, used * state_bytes)),
            gemm("out", "state", "attention", moments.tokens, self.hidden, self.value, run),
        ]


@layer_kind("kda")
@dataclass(frozen=True, slots=True)
class KimiDelta(PlainKind):
    """Delta rule of `heads` heads of `head_dim`, whose decay and output gates have a low rank.

    Attributes
    ----------
    full_gate, full_decay : bool
        The output gate, or the decay's, is one matrix (``use_full_rank_gate``).
    decays : int
        Entries of the decay's base (``A_log``); 0 = one a head.
    state_format : str
        Number format of the states; empty: as activations.
    """

    hidden: int
    heads: int
    head_dim: int
    d_conv: int
    full_gate: bool = False
    full_decay: bool = False
    decays: int = 0
    state_format: str = "fp32"

    def __post_init__(self) -> None:
        if self.state_format:
            check_dtype(self.state_format, "state_format")

    @property
    def _width(self) -> int:
        return self.heads * self.head_dim

    @property
    def _whole(self) -> int:
        """Number of gates that are one full matrix."""
        return int(self.full_gate) + int(self.full_decay)

    def weights(self) -> tuple[Weights, ...]:
        wide, low = self._width, (self.hidden + self._width) * self.head_dim
        big = 4 * self.hidden * wide + self.hidden * self.heads
        big += self._whole * self.hidden * wide + (2 - self._whole) * low
        small = 3 * wide * self.d_conv + self.head_dim + wide + (self.decays or self.heads)
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return State(
            fixed=(Fixed(self._width * self.head_dim, self.state_format), Fixed(3 * self._width * (self.d_conv - 1)))
        )

    def shard(self, tp: int) -> KimiDelta:
        return replace(self, heads=split(self.heads, tp, "linear heads"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        wide, dim, value = self._width, self.head_dim, run.numerics.act_bytes
        state_bytes = self.state().fixed[0].bytes(run.numerics)
        low = 2 - self._whole
        columns = (3 + self._whole) * wide + self.heads + low * dim
        rates = (delta_rates(self.heads, dim, dim, state_bytes, False, value),
                 delta_rates(self.heads, dim, dim, state_bytes, True, value))  # fmt: skip
        gates = [gemm("gates", "state", "attention", moments.tokens, wide, dim, run, batch=low)] if low else []
        return [
            gemm("in", "state", "attention", moments.tokens, columns, self.hidden, run),
            *gates,
            # Queries, keys and values one after another, as vLLM and SGLang launch them.
            *(op for _ in range(3) for op in conv_ops(wide, self.d_conv, moments, run)),
            *state_ops("kda", moments, run, rates, (state_bytes, state_bytes)),
            elementwise("gated_norm", "state", moments.tokens, wide, 3, run),
            gemm("out", "state", "attention", moments.tokens, self.hidden, wide, run),
        ]
