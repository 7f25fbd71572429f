"""Attention experts that all run for every token (BAM, arXiv 2408.08274)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..attention import Attention
from ..base import Run, State, Weights, elementwise, gemm, layer_kind
from ..linears import PlainKind, WrappingKind


@layer_kind("attention_mixture")
@dataclass(frozen=True, slots=True)
class AttentionMixture(WrappingKind, PlainKind):
    """Several attention blocks whose outputs are weighed by a router and added.

    Every token uses all of them, so they are one attention of all heads, and no load is sampled. In a `parallel` layer
    they run in parallel with the feed-forward part, as in BAM.

    Attributes
    ----------
    base : Attention
        One expert.
    shared_kv : bool
        Whether all experts attend to the same keys and values, of one expert.
    """

    base: Attention
    experts: int
    shared_kv: bool = False

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise InputError("experts", f"must be at least 1, not {self.experts}")

    @property
    def whole(self) -> Attention:
        """The experts as one attention block."""
        base, n = self.base, self.experts
        kv = base.kv_heads * (1 if self.shared_kv else n)
        return replace(base, heads=base.heads * n, kv_heads=kv, qk_norm=base.qk_norm * n)

    def weights(self) -> tuple[Weights, ...]:
        router = self.experts * self.hidden
        base = self.whole.weights()
        return base if self.experts == 1 else (*base, Weights("other", router, router))

    def state(self) -> State:
        return self.whole.state()

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        ops = self.whole.ops(moments, run, None)
        if self.experts == 1:  # nothing to weigh
            return ops
        router = gemm("router", "attention", "other", moments.tokens, self.experts, self.hidden, run)
        width = self.whole.heads * self.whole.head_dim
        weigh = elementwise("weigh", "attention", moments.tokens, width, 2, run)
        return [router, *ops[:-1], weigh, ops[-1]]
