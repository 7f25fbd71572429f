"""Experts merged before the run: a router's common choice for all tokens becomes one dense block.

MoDE (arXiv 2412.12953): the router of a diffusion policy only sees the noise level, so the `top_k` experts of a level
are concatenated once, with scaled output weights, and run as a block `top_k` times as wide. The work is `top_k`
experts; routing is saved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...batch import Moments
from ...ops import Loads, Op
from ..base import Run, Weights, layer_kind, split
from ..ffn import feed_forward
from ..linears import Linear, PlainKind


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
        """Inner width of what runs."""
        return self.top_k * self.width

    def weights(self) -> tuple[Weights, ...]:
        one = self.matrices * self.hidden * self.width
        stored = one * (self.experts + self.levels * self.top_k)
        return (Weights("ffn", stored, one * self.top_k),)

    def linears(self) -> tuple[Linear, ...]:
        """Projections of the merged block."""
        names = ("gate", "up") if self.matrices == 3 else ("up",)
        ups = (Linear(name, self.hidden, self.merged_width) for name in names)
        return (*ups, Linear("down", self.merged_width, self.hidden))

    def shard(self, tp: int) -> MergedExperts:
        return replace(self, width=split(self.width, tp, "columns of an expert"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return feed_forward(moments.tokens, self.hidden, self.merged_width, self.matrices, run, "ffn")
