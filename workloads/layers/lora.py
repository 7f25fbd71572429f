"""LoRA: a pair of low-rank matrices next to every linear layer of a part, of one or many tenants.

``y = W x + B (A x)`` with ``rank`` rows in A (Hu et al., arXiv 2106.09685). The base runs once for all tokens; with
several adapters each request names one, and the pairs of all are applied in one call (gathered products as in Punica,
arXiv 2310.18547).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..batch import Moments
from ..ops import Access, Loads, Op
from .base import Routed, Run, Weights, elementwise, gemm, layer_kind
from .linears import Adaptable, AdaptedKind, Linear, OfOneGroup, linears_of, sides


@layer_kind("lora")
@dataclass(frozen=True, slots=True)
class LowRank(AdaptedKind, OfOneGroup):
    """A layer part with low-rank adapters.

    Attributes
    ----------
    base : Adaptable
        The part that they join.
    rank : int
        Rows of A and columns of B; 0 leaves the base as it is.
    adapters : int
        Adapters of tenants, one of which a request names. 0 = a single one that is part of the
        model, serves every token, and runs as ordinary matrices.
    slots : int
        Number of them in memory; 0 = all.
    """

    one_group: ClassVar[str] = "adapters need ep=1"
    base: Adaptable
    rank: int
    adapters: int = 0
    slots: int = 0

    @property
    def routed(self) -> Routed | None:
        """The choice among adapters, which each request makes; None without tenants' adapters."""
        if not self.adapters or self.rank == 0:
            return None
        return Routed(self.adapters, 1, spreads=False, by_request=True)

    @property
    def pair(self) -> int:
        """Return the weights of one adapter of this part."""
        return self.rank * sides(linears_of(self.base))

    def weights(self) -> tuple[Weights, ...]:
        slots = self.slots or max(self.adapters, 1)
        adapter = Weights("other", self.pair * slots, self.pair)
        return (*self.base.weights(), adapter)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        ops = self.base.ops(moments, run, None)
        if self.rank == 0:
            return ops
        if self.routed is None:
            return ops + low_rank_ops(self.linears(), moments.tokens, self.rank, run)
        if loads is None:
            raise ValueError("adapters that requests name need loads")
        return [*ops, self.expert_op(loads, run)]

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of the low-rank pairs of all adapters that some token uses."""
        return pairs_op("adapters", self.linears(), self.rank, self.adapters, loads, run)


def low_rank_ops(linears: tuple[Linear, ...], tokens: float, rank: int, run: Run) -> list[Op]:
    """Return one pair next to each matrix: A, B, and the addition of their output."""
    out: list[Op] = []
    for linear in linears:
        name = f"lora_{linear.name}"
        out += [
            gemm(f"{name}_a", "adapters", "other", tokens, rank, linear.inputs, run),
            gemm(f"{name}_b", "adapters", "other", tokens, linear.outputs, rank, run),
            elementwise(f"{name}_add", "adapters", tokens, linear.outputs, 3, run),
        ]
    return out


def pairs_op(
    name: str, linears: tuple[Linear, ...], rank: int, pairs: int, loads: Loads, run: Run, top_k: int = 1
) -> Op:
    """Return the pairs of several adapters (or single ranks) as one op; each is read once, outputs are added in place.

    A token's input is read once for all of its `top_k`. Its shape names no inner width, so kernel models of whole
    expert blocks use the roofline.
    """
    num, routed = run.numerics, loads.routed
    one = rank * sides(linears)
    moved = sum(linear.inputs + 2 * linear.outputs for linear in linears)
    return Op(
        name=name,
        layer="adapters",
        kind="experts",
        phase="both",
        shape={
            "hidden": linears[0].inputs, "rank": rank, "matrices": 2 * len(linears),
            "experts": pairs, "top_k": top_k, "routed": routed,
        },
        dtype=num.default,
        flops=2.0 * routed * one,
        weight_bytes=num.weight_bytes("other") * one * loads.active,
        act_bytes=num.act_bytes * routed / top_k * moved,
        loads=loads,
        access=Access("slices", num.weight_bytes("other") * one, pairs),
    )  # fmt: skip
