"""SMoRA: one low-rank adapter whose single ranks are the experts, some of them for each token.

arXiv 2501.15103: a router gives every rank a score, and a token passes through the `top_k` best.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..base import Routed, Run, State, Weights, gemm, layer_kind
from ..linears import Adaptable, Linear, adaptable, linears_of, sides
from ..lora import low_rank_ops, pairs_op


@layer_kind("smora")
@dataclass(frozen=True, slots=True)
class RankExperts:
    """A layer part with an adapter of `rank` ranks, `top_k` of them used by a token.

    Attributes
    ----------
    base : Adaptable
        The part that the adapter joins.
    rank, top_k : int
        Where they are equal nothing is chosen: the adapter is plain LoRA.
    """

    kind: ClassVar[str]
    base: Adaptable
    rank: int
    top_k: int

    @property
    def hidden(self) -> int:
        return self.base.hidden

    @property
    def routed(self) -> Routed | None:
        """The choice among ranks."""
        if self.top_k == self.rank:
            return None
        return Routed(self.rank, self.top_k, spreads=False)

    def linears(self) -> tuple[Linear, ...]:
        return linears_of(self.base)

    def weights(self) -> tuple[Weights, ...]:
        one = sides(self.linears())
        router = 0 if self.routed is None else self.rank * self.hidden
        adapter = Weights("other", one * self.rank + router, one * self.top_k + router)
        return (*self.base.weights(), adapter)

    def state(self) -> State:
        return self.base.state()

    def shard(self, tp: int) -> RankExperts:
        return replace(self, base=adaptable(self.base.shard(tp)))

    def shard_experts(self, ep: int, tp: int) -> RankExperts:
        """Ranks stay together: every device has all of them."""
        if ep != 1:
            raise InputError(f"ep={ep}", "ranks of an adapter need ep=1")
        return self

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
