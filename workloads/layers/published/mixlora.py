"""MixLoRA: experts that are low-rank adapters on one frozen feed-forward block.

A token's output is the weighted sum over its `top_k` experts, each the base block with the expert's own low-rank pairs.
Without sharing each expert runs the whole base. In the paper (arXiv 2404.15159, section 3.3) the base's gate and up run
once for all tokens, and only down runs by expert.

SMoRA: one low-rank adapter whose single ranks are the experts, some of them for each token.

arXiv 2501.15103: a router gives every rank a score, and a token passes through the `top_k` best.

MoS, mixture of shards: an adapter whose rows are put together from a pool that all layers share.

arXiv 2410.00938: A and B of every layer are assembled by index, once as the adapter is loaded; after that
it is LoRA. What a tenant needs to keep is the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...batch import Moments
from ...errors import InputError
from ...ops import Access, Loads, Op
from ..base import Routed, Run, Weights, elementwise, gemm, layer_kind
from ..ffn import FeedForward
from ..linears import Adaptable, AdaptedKind, Linear, OfOneGroup, PlainKind, sides
from ..lora import low_rank_ops, pairs_op


@layer_kind("mixlora")
@dataclass(frozen=True, slots=True)
class AdapterExperts(AdaptedKind, OfOneGroup):
    """Adapter experts on a dense block that a router chooses among for each token.

    Attributes
    ----------
    base : FeedForward
        The frozen block. One expert without a router is the block with one adapter (`LowRank`).
    experts, top_k, rank : int
        Adapters, adapters of a token, and their rank.
    base_once : bool
        Whether the block's gate and up run once for all experts of a token.
    """

    one_group: ClassVar[str] = "adapter experts need ep=1 (they share their base)"
    base: FeedForward
    experts: int
    top_k: int
    rank: int
    base_once: bool = True

    @property
    def routed(self) -> Routed | None:
        """The router's choice among the experts; None if there is only one."""
        return None if self.experts == 1 else Routed(self.experts, self.top_k, spreads=False)

    @property
    def pair(self) -> int:
        """Number of low-rank weights of one expert."""
        return self.rank * sides(self.linears())

    @property
    def by_expert(self) -> tuple[Linear, ...]:
        """Matrices of the base that run once for each of a token's experts."""
        return self.linears()[-1:] if self.base_once else self.linears()

    def weights(self) -> tuple[Weights, ...]:
        router = 0 if self.routed is None else self.experts * self.hidden
        adapter = Weights("other", self.pair * self.experts + router, self.pair * self.top_k + router)
        return (*self.base.weights(), adapter)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        if self.routed is None:
            return self.base.ops(moments, run, None) + low_rank_ops(self.linears(), moments.tokens, self.rank, run)
        if loads is None:
            raise ValueError("adapter experts need loads")
        ops = [gemm("router", "ffn", "other", moments.tokens, self.experts, self.hidden, run)]
        if self.base_once:
            ops += [self._matrix(linear, moments.tokens, run) for linear in self.linears()[:-1]]
        ops.append(self.expert_op(loads, run))
        ops.append(elementwise("combine", "ffn", moments.tokens, self.hidden, 1.0 + self.top_k, run, access="gather"))
        return ops

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of the work that runs once per token and expert: low-rank pairs and the base's matrices.

        The base's weights are read again for every expert. Its shape names no inner width, so kernel models of whole
        expert blocks use the roofline.
        """
        num, routed = run.numerics, loads.routed
        base = sum(linear.inputs * linear.outputs for linear in self.by_expert)
        stored = num.weight_bytes("other") * self.pair + num.weight_bytes("ffn") * base
        width, again = self.base.width, len(self.linears()) - len(self.by_expert)
        return Op(
            name="adapter_experts",
            layer="ffn",
            kind="experts",
            phase="both",
            shape={
                "hidden": self.hidden, "rank": self.rank, "matrices": self.base.matrices,
                "experts": self.experts, "top_k": self.top_k, "routed": routed,
            },
            dtype=num.default,
            flops=2.0 * routed * (self.pair + base),
            weight_bytes=stored * loads.active,
            act_bytes=num.act_bytes * routed
            * (2.0 * self.hidden + (self.base.matrices + again) * width),
            loads=loads,
            access=Access("slices", stored, self.experts),
        )  # fmt: skip

    def kernels(self, per_expert: Sequence[float], run: Run) -> list[Op]:
        """Return the ops as an engine without fused kernels launches them: expert after expert.

        Rows of an expert's tokens are gathered, the base's outputs if they exist already, and the weighted outputs are
        added to the sum of the experts before.

        Parameters
        ----------
        per_expert : sequence of float
            Tokens of each expert.
        """
        tokens = sum(per_expert) / self.top_k
        ops = [gemm("router", "ffn", "other", tokens, self.experts, self.hidden, run),
               elementwise("softmax", "ffn", tokens, self.experts, 4, run)]  # fmt: skip
        if self.base_once:
            ops += [self._matrix(linear, tokens, run) for linear in self.linears()[:-1]]
        for rows in per_expert:
            if rows > 0:
                ops += self._one_expert(rows, run)
        return ops

    def _one_expert(self, rows: float, run: Run) -> list[Op]:
        """Return the kernels of one expert."""

        def vector(name: str, cols: int, tensors: float, access: str = "sequence") -> Op:
            return elementwise(name, "ffn", rows, cols, tensors, run, access=access)

        ops = [vector("gather", self.hidden, 2, "gather")]
        for linear in self.linears()[:-1]:
            if linear in self.by_expert:
                ops.append(self._matrix(linear, rows, run))
            else:
                ops.append(vector(f"gather_{linear.name}", linear.outputs, 2, "gather"))
            ops += low_rank_ops((linear,), rows, self.rank, run)
        down = self.linears()[-1]
        ops += [vector("activation", self.base.width, self.base.matrices),
                self._matrix(down, rows, run), *low_rank_ops((down,), rows, self.rank, run),
                vector("weighted", self.hidden, 2), vector("index_add", self.hidden, 3, "gather")]  # fmt: skip
        return ops

    def _matrix(self, linear: Linear, tokens: float, run: Run) -> Op:
        return gemm(linear.name, "ffn", "ffn", tokens, linear.outputs, linear.inputs, run)


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
        """The router's choice among ranks; None if all are used."""
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
        """Return the op of the chosen ranks of all tokens: rows of A and columns of B, each read once."""
        return pairs_op("ranks", self.linears(), 1, self.rank, loads, run, self.top_k)

    def gathered_bytes(self, tokens: float, run: Run) -> float:
        """Return the bytes of A and B that tokens fetch by index if no two tokens share a read [B]."""
        one = run.numerics.weight_bytes("other") * sides(self.linears())
        return tokens * self.top_k * one


@layer_kind("mos")
@dataclass(frozen=True, slots=True)
class PooledAdapter(AdaptedKind, PlainKind):
    """A layer part with an adapter of `rank`, whose share of the pool is `pool_rank`'s.

    Attributes
    ----------
    base : Adaptable
        The part that it joins.
    rank : int
        Rank of the assembled adapter.
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
        """Return the base's weights and this part's share of the pool; a token uses the assembled adapter."""
        one = sides(self.linears())
        return *self.base.weights(), Weights("other", one * self.pool_rank, one * self.rank)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return self.base.ops(moments, run, None) + low_rank_ops(self.linears(), moments.tokens, self.rank, run)

    def assembly(self, run: Run) -> list[Op]:
        """Return the ops that run once when the adapter is loaded: a gather of rows for A and B of every matrix."""
        return [
            elementwise(f"assemble_{side}_{linear.name}", "adapters", self.rank, cols, 2, run, access="gather")
            for linear in self.linears()
            for side, cols in (("a", linear.inputs), ("b", linear.outputs))
        ]
