"""Dense feed-forward block: two matrices, or three when gated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Loads, Op
from .base import Run, Weights, elementwise, gemm, layer_kind, split
from .linears import Linear, PlainKind


@layer_kind("ffn")
@dataclass(frozen=True, slots=True)
class FeedForward(PlainKind):
    """``down(act(gate x) * up x)`` with three matrices, ``down(act(up x))`` with two."""

    hidden: int
    width: int
    matrices: int = 3
    bias: bool = False

    def weights(self) -> tuple[Weights, ...]:
        count = self.matrices * self.hidden * self.width
        bias = ((self.matrices - 1) * self.width + self.hidden) * self.bias
        return Weights("ffn", count, count), Weights("other", bias, bias)

    @property
    def working_values(self) -> int:
        """Number of values that a prompt's token needs at once: gate, up projection and product."""
        return self.matrices * self.width

    def shard(self, tp: int) -> FeedForward:
        return replace(self, width=split(self.width, tp, "feed-forward columns"))

    def linears(self) -> tuple[Linear, ...]:
        """Return the up (and gate) and down projections."""
        names = ("gate", "up") if self.matrices == 3 else ("up",)
        ups = (Linear(name, self.hidden, self.width) for name in names)
        return (*ups, Linear("down", self.width, self.hidden))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return feed_forward(moments.tokens, self.hidden, self.width, self.matrices, run, "ffn")


def feed_forward(
    tokens: float, hidden: int, width: int, matrices: int, run: Run, layer: str, prefix: str = ""
) -> list[Op]:
    """Return the ops of one dense block, also used for the shared experts of a MoE layer."""
    up = f"{prefix}gate_up" if matrices == 3 else f"{prefix}up"
    return [
        gemm(up, layer, "ffn", tokens, (matrices - 1) * width, hidden, run),
        elementwise(f"{prefix}activation", layer, tokens, width, matrices, run),
        gemm(f"{prefix}down", layer, "ffn", tokens, hidden, width, run),
    ]
