"""Attention whose query and output projections are experts (JetMoE, mixture of attention heads).

Each token's `top_k` experts bring their own query and output matrices; keys and values are
shared, so the query heads of a token are ``top_k * kv_heads``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..batch import Moments
from ..ops import Access, Loads, Op
from .attention import Attention, attention_core
from .base import LayerCache, Routed, Run, State, Weights, elementwise, gemm, layer_kind, split
from .linears import NamedKind, OfOneGroup


@layer_kind("attention_moe")
@dataclass(frozen=True, slots=True)
class ExpertAttention(NamedKind, OfOneGroup):
    """Grouped attention with `experts` query/output projections, `top_k` used by a token."""

    one_group: ClassVar[str] = "attention experts need ep=1 (tensor-parallel experts)"
    hidden: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int
    experts_held: int = 0

    @property
    def routed(self) -> Routed:
        return Routed(self.experts, self.top_k, spreads=False)

    @property
    def held(self) -> int:
        """Number of experts on one device."""
        return self.experts_held or self.experts

    @property
    def _width(self) -> int:
        return self.kv_heads * self.head_dim

    def weights(self) -> tuple[Weights, ...]:
        one, kv = 2 * self.hidden * self._width, 2 * self.hidden * self._width
        router = self.experts * self.hidden + self.hidden  # one shared output bias
        return (
            Weights("experts", one * self.held, one * self.top_k),
            Weights("attention", kv, kv),
            Weights("other", router, router),
        )

    def state(self) -> State:
        return State((LayerCache(2 * self._width),))

    def shard(self, tp: int) -> ExpertAttention:
        return replace(self, kv_heads=split(self.kv_heads, tp, "KV heads"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        if loads is None:
            raise ValueError("expert attention needs loads")
        core = Attention(self.hidden, self.top_k * self.kv_heads, self.kv_heads, self.head_dim)
        width = core.heads * core.head_dim
        return [
            gemm("router", "attention", "other", moments.tokens, self.experts, self.hidden, run),
            self.expert_op(loads, run),
            gemm("kv", "attention", "attention", moments.tokens, 2 * self._width, self.hidden, run),
            elementwise("rope", "attention", moments.tokens, width + self._width, 2, run),
            *attention_core(core, moments, run),
        ]

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of the routed experts' query and output projections."""
        return projections("attention_experts", self.hidden, self._width, self.held, self.top_k, loads, run)


def projections(name: str, hidden: int, width: int, experts: int, top_k: int, loads: Loads, run: Run) -> Op:
    """Return the op of routed query and output projections: `experts` pairs of `hidden` x `width`."""
    num, routed = run.numerics, loads.routed
    one = 2 * hidden * width
    return Op(
        name=name,
        layer="attention",
        kind="experts",
        phase="both",
        shape={"hidden": hidden, "inter": width, "matrices": 2, "experts": experts, "top_k": top_k, "routed": routed},
        dtype=num.compute("experts"),
        flops=2.0 * routed * one,
        weight_bytes=num.weight_bytes("experts") * one * loads.active,
        act_bytes=num.act_bytes * routed * 2.0 * (hidden + width),
        loads=loads,
        access=Access("slices", num.weight_bytes("experts") * one, experts),
    )
