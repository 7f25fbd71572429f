"""Mamba-2 (NemotronH, FalconH1, Granite 4, Bamba, Zamba2) and lightning attention: one decay a head.

Gated short convolution (LFM2): no keys and values, only the last inputs of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..numerics import check_dtype
from ..ops import Loads, Op
from .base import Fixed, Run, State, Weights, elementwise, gemm, layer_kind, split
from .linears import PlainKind
from .recurrent import conv_ops, scan_rates, state_ops


@layer_kind("mamba2")
@dataclass(frozen=True, slots=True)
class Mamba2(PlainKind):
    """State-space duality (arXiv 2405.21060): states of head width x `d_state`, keys by group.

    Attributes
    ----------
    groups : int
        Groups of heads that share keys and queries (``n_groups``).
    conv_bias, proj_bias : bool
        Whether the convolution and the projections have biases.
    state_format : str
        Number format of the states (``mamba_ssm_cache_dtype``); empty: as activations.
    """

    hidden: int
    heads: int
    head_dim: int
    groups: int
    d_state: int
    d_conv: int
    conv_bias: bool = True
    proj_bias: bool = False
    state_format: str = ""

    def __post_init__(self) -> None:
        if self.state_format:
            check_dtype(self.state_format, "state_format")

    @property
    def _inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def _channels(self) -> int:
        return self._inner + 2 * self.groups * self.d_state

    def weights(self) -> tuple[Weights, ...]:
        columns = self._inner + self._channels + self.heads
        big = self.hidden * (columns + self._inner)
        small = self._channels * (self.d_conv + self.conv_bias) + 3 * self.heads + self._inner
        small += (columns + self.hidden) * self.proj_bias
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return State(
            fixed=(Fixed(self._inner * self.d_state, self.state_format), Fixed(self._channels * (self.d_conv - 1)))
        )

    def shard(self, tp: int) -> Mamba2:
        """Return the part of one of `tp` devices; groups are replicated if there are fewer of them than devices."""
        groups = split(self.groups, tp, "state groups") if self.groups >= tp else 1
        return replace(self, heads=split(self.heads, tp, "state heads"), groups=groups)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        state_bytes, value = self.state().fixed[0].bytes(run.numerics), run.numerics.act_bytes
        shape = (self.heads, self.head_dim, self.d_state, self.groups, state_bytes)
        rates = scan_rates(*shape, False, value), scan_rates(*shape, True, value)
        columns = self._inner + self._channels + self.heads
        return [
            gemm("in", "state", "attention", moments.tokens, columns, self.hidden, run),
            *conv_ops(self._channels, self.d_conv, moments, run),
            *state_ops("scan", moments, run, rates, (state_bytes, state_bytes)),
            elementwise("gated_norm", "state", moments.tokens, self._inner, 3, run),
            gemm("out", "state", "attention", moments.tokens, self.hidden, self._inner, run),
        ]


@layer_kind("lightning")
@dataclass(frozen=True, slots=True)
class Lightning(PlainKind):
    """Lightning attention (MiniMax-Text-01, Ling 2.5): linear attention with one decay a head.

    Attributes
    ----------
    qk_norm : int
        Weights of query and key norms together.
    """

    hidden: int
    heads: int
    head_dim: int
    qk_norm: int = 0
    state_format: str = "fp32"

    @property
    def _width(self) -> int:
        return self.heads * self.head_dim

    def weights(self) -> tuple[Weights, ...]:
        big, small = 5 * self.hidden * self._width, self._width + self.qk_norm
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return State(fixed=(Fixed(self._width * self.head_dim, self.state_format),))

    def shard(self, tp: int) -> Lightning:
        return replace(self, heads=split(self.heads, tp, "linear heads"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        wide, state_bytes = self._width, self.state().fixed[0].bytes(run.numerics)
        shape = (self.heads, self.head_dim, self.head_dim, self.heads, state_bytes)
        chunks, step = (scan_rates(*shape, late, run.numerics.act_bytes) for late in (False, True))
        step = replace(step, flops=5.0 * wide * self.head_dim)  # a key is not scaled by its step
        return [
            gemm("in", "state", "attention", moments.tokens, 4 * wide, self.hidden, run),
            *state_ops("scan", moments, run, (chunks, step), (state_bytes, state_bytes)),
            elementwise("gated_norm", "state", moments.tokens, wide, 3, run),
            gemm("out", "state", "attention", moments.tokens, self.hidden, wide, run),
        ]


@layer_kind("short_conv")
@dataclass(frozen=True, slots=True)
class ShortConv(PlainKind):
    """Three projections, of which two gate; a convolution of `taps` inputs along `width` channels."""

    hidden: int
    width: int
    taps: int
    bias: bool = False

    def weights(self) -> tuple[Weights, ...]:
        big = 4 * self.hidden * self.width
        small = self.width * (self.taps + self.bias) + (3 * self.width + self.hidden) * self.bias
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return State(fixed=(Fixed(self.width * (self.taps - 1)),))

    def shard(self, tp: int) -> ShortConv:
        return replace(self, width=split(self.width, tp, "channels"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return [
            gemm("in", "state", "attention", moments.tokens, 3 * self.width, self.hidden, run),
            *conv_ops(self.width, self.taps, moments, run),
            gemm("out", "state", "attention", moments.tokens, self.hidden, self.width, run),
        ]
