"""Experts merged before the run: if a router chooses the same experts for all tokens, they become one dense block.

MoDE (arXiv 2412.12953): the router of a diffusion policy only sees the noise level, so the `top_k` experts of a level
are concatenated once, with scaled output weights, and run as a block `top_k` times as wide. The work is `top_k`
experts; routing is saved.

RMoE: a router with a memory, which passes from each layer to the next (arXiv 2408.06793).

``r = W x`` (one W a layer), ``s = GRU(r, s of the layer before)`` (one cell for all layers), and the gate
is ``G s``. A layer's experts cannot be known before the layer before has routed; tokens stay independent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...batch import Moments
from ...ops import Loads, Op
from ..base import Run, Weights, elementwise, gemm, layer_kind, split
from ..ffn import feed_forward
from ..linears import Linear, PlainKind
from ..moe import MixtureOfExperts


@layer_kind("merged_experts")
@dataclass(frozen=True, slots=True)
class MergedExperts(PlainKind):
    """Experts of which `top_k` run as one dense block.

    Attributes
    ----------
    width : int
        Inner width of one expert.
    levels : int
        Merged blocks stored in addition to the experts, one for each noise level or task; 0 = they replace the experts.
    """

    hidden: int
    experts: int
    top_k: int
    width: int
    matrices: int = 3
    levels: int = 0

    @property
    def merged_width(self) -> int:
        """Inner width of the merged block."""
        return self.top_k * self.width

    def weights(self) -> tuple[Weights, ...]:
        one = self.matrices * self.hidden * self.width
        stored = one * (self.experts + self.levels * self.top_k)
        return (Weights("ffn", stored, one * self.top_k),)

    def linears(self) -> tuple[Linear, ...]:
        """Return the projections of the merged block."""
        names = ("gate", "up") if self.matrices == 3 else ("up",)
        ups = (Linear(name, self.hidden, self.merged_width) for name in names)
        return (*ups, Linear("down", self.merged_width, self.hidden))

    def shard(self, tp: int) -> MergedExperts:
        return replace(self, width=split(self.width, tp, "columns of an expert"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return feed_forward(moments.tokens, self.hidden, self.merged_width, self.matrices, run, "ffn")


GATES = 3
"""Number of gates of a GRU: reset, update and candidate, each with a matrix for the input and one for the state."""


@layer_kind("rmoe")
@dataclass(frozen=True, slots=True)
class RecurrentExperts(MixtureOfExperts):
    """Experts behind a recurrent router.

    Attributes
    ----------
    router_width : int
        Values of the router's state; 0 = an ordinary router.
    owns_cell : bool
        Whether the cell's weights count with this layer: with one of a model's layers they do.
    """

    router_width: int = 0
    owns_cell: bool = False

    @property
    def router_weights(self) -> int:
        if not self.router_width:
            return self.experts * (self.hidden + self.router_bias)
        p = self.router_width
        bias = self.experts * self.router_bias
        return p * (self.hidden + self.experts) + bias + 2 * GATES * p * p * self.owns_cell

    def router_ops(self, tokens: float, run: Run) -> list[Op]:
        if not self.router_width:
            return MixtureOfExperts.router_ops(self, tokens, run)
        p = self.router_width
        sizes = {"router_in": (p, self.hidden), "router_cell_in": (GATES * p, p),
                 "router_cell_state": (GATES * p, p), "router_out": (self.experts, p)}  # fmt: skip
        ops = [gemm(name, "moe", "other", tokens, *size, run) for name, size in sizes.items()]
        gates = elementwise("router_gates", "moe", tokens, p, 2 * GATES + 2, run)
        return [*ops[:3], gates, ops[3]]
