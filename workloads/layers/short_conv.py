"""Gated short convolution (LFM2): no keys and values, only the last inputs of a convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Loads, Op
from .base import Fixed, Run, State, Weights, gemm, layer_kind, split
from .linears import PlainKind
from .recurrent import conv_ops


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
