"""MoS, mixture of shards: an adapter whose rows are put together from a pool that all layers share.

arXiv 2410.00938: A and B of every layer are assembled by index, once as the adapter is loaded; after that
it is LoRA. What a tenant needs to keep is the pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..base import Run, Weights, elementwise, layer_kind
from ..linears import Adaptable, AdaptedKind, PlainKind, sides
from ..lora import low_rank_ops


@layer_kind("mos")
@dataclass(frozen=True, slots=True)
class PooledAdapter(AdaptedKind, PlainKind):
    """A layer part with an adapter of `rank`, whose share of the pool is `pool_rank`'s.

    Attributes
    ----------
    base : Adaptable
        The part that it joins.
    rank : int
        Of the assembled adapter.
    pool_rank : int
        Rank that the pool's weights would give every layer for itself, at most `rank`; equal to it
        nothing is shared, and the adapter is plain LoRA.
    """

    base: Adaptable
    rank: int
    pool_rank: int

    def __post_init__(self) -> None:
        if not 0 < self.pool_rank <= self.rank:
            raise InputError("pool_rank", f"must be in [1, {self.rank}], not {self.pool_rank}")

    def weights(self) -> tuple[Weights, ...]:
        """The base and this part's share of the pool; on a token's path lies the assembled adapter."""
        one = sides(self.linears())
        return *self.base.weights(), Weights("other", one * self.pool_rank, one * self.rank)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return self.base.ops(moments, run, None) + low_rank_ops(self.linears(), moments.tokens, self.rank, run)

    def assembly(self, run: Run) -> list[Op]:
        """What loading the adapter runs once: a gather of rows for A and for B of every matrix."""
        return [
            elementwise(f"assemble_{side}_{linear.name}", "adapters", self.rank, cols, 2, run, access="gather")
            for linear in self.linears()
            for side, cols in (("a", linear.inputs), ("b", linear.outputs))
        ]
