"""SMoRA: one low-rank adapter whose single ranks are the experts, some of them for each token.

arXiv 2501.15103: a router gives every rank a score, and a token passes through the `top_k` best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...batch import Moments
from ...ops import Loads, Op
from ..base import Routed, Run, Weights, gemm, layer_kind
from ..linears import Adaptable, AdaptedKind, OfOneGroup, sides
from ..lora import low_rank_ops, pairs_op


@layer_kind("smora")
@dataclass(frozen=True, slots=True)
class RankExperts(AdaptedKind, OfOneGroup):
    """A layer part with an adapter of `rank` ranks, `top_k` of them used by a token.

    Attributes
    ----------
    base : Adaptable
        The part that the adapter joins.
    rank, top_k : int
        Where they are equal nothing is chosen: the adapter is plain LoRA.
    """

    one_group: ClassVar[str] = "ranks of an adapter need ep=1"
    base: Adaptable
    rank: int
    top_k: int

    @property
    def routed(self) -> Routed | None:
        """The choice among ranks."""
        if self.top_k == self.rank:
            return None
        return Routed(self.rank, self.top_k, spreads=False)

    def weights(self) -> tuple[Weights, ...]:
        one = sides(self.linears())
        router = 0 if self.routed is None else self.rank * self.hidden
        adapter = Weights("other", one * self.rank + router, one * self.top_k + router)
        return (*self.base.weights(), adapter)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        ops = self.base.ops(moments, run, None)
        if self.routed is None:
            return ops + low_rank_ops(self.linears(), moments.tokens, self.rank, run)
        if loads is None:
            raise ValueError("ranks as experts need loads")
        router = gemm("rank_router", "adapters", "other", moments.tokens, self.rank, self.hidden, run)
        return [*ops, router, self.expert_op(loads, run)]

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """The chosen ranks of all tokens: rows of A and columns of B, each read once."""
        return pairs_op("ranks", self.linears(), 1, self.rank, loads, run, self.top_k)

    def gathered_bytes(self, tokens: float, run: Run) -> float:
        """Bytes of A and B that tokens fetch by index, where no two share a read [B]."""
        one = run.numerics.weight_bytes("other") * sides(self.linears())
        return tokens * self.top_k * one
