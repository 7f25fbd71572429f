"""Attention of which a token uses some heads (MoH, mixture of heads, arXiv 2410.11842).

Attention experts that all run for every token (BAM, arXiv 2408.08274).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import ClassVar

from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..attention import Attention, attention_core
from ..attention_moe import projections
from ..base import Routed, Run, State, Weights, elementwise, gemm, layer_kind, split
from ..linears import OfOneGroup, PlainKind, WrappingKind


@layer_kind("attention_heads")
@dataclass(frozen=True, slots=True)
class HeadExperts(WrappingKind, OfOneGroup):
    """Attention with some heads for every token and `top_k` of the others, outputs weighed.

    Query and output projections of routed heads run for the tokens that chose them; keys and values of
    all heads are made and kept. A decode reads a KV head unless it uses none of its query heads: their
    share is the expectation with even routing, so that costs are affine in the moments. A prompt's
    chunk reads all. Shared heads lie evenly over the KV heads.

    Attributes
    ----------
    base : Attention
        With all heads of the whole layer.
    top_k, shared : int
        Heads that a router chooses for a token, and those before them that every token uses.
    devices : int
        Devices the heads are split over: each has its part of shared and of chosen heads.
    """

    one_group: ClassVar[str] = "attention heads need ep=1 (tensor-parallel heads)"
    base: Attention
    top_k: int
    shared: int = 0
    devices: int = 1

    def __post_init__(self) -> None:
        if self.base.gated:
            raise InputError("base.gated", "must be false: routed heads have no output gate")
        if not 0 <= self.shared < self.base.heads:
            reason = f"must be from 0 to {self.base.heads - 1}(fewer than base.heads), not {self.shared}"
            raise InputError("shared", reason)
        if not 1 <= self.top_k <= self._others:
            raise InputError(
                "top_k", f"must be from 1 to the {self._others} heads that are not shared, not {self.top_k}"
            )

    @property
    def _others(self) -> int:
        """Number of heads from which the router chooses."""
        return self.base.heads - self.shared

    @property
    def routed(self) -> Routed | None:
        if self.top_k == self._others:
            return None  # every head of every token: plain attention
        return Routed(self._others, self.top_k, spreads=False)

    @property
    def _local(self) -> Attention:
        """Attention with all heads of one device."""
        return self.base.shard(self.devices)

    @property
    def _width(self) -> int:
        """Average number of columns of each routed head on one device."""
        return self.base.head_dim // self.devices

    @property
    def _columns(self) -> int:
        """Columns of the router: a score for each head, and two weights for shared and routed heads."""
        return self.base.heads + 2 * (self.shared > 0)

    @property
    def kv_read_share(self) -> float:
        """Share of the KV heads that a decode reads, expected for even routing [1]."""
        kv, others = self.base.kv_heads, self._others
        group = self.base.heads // kv
        without = max(kv - self.shared, 0)  # KV heads that no shared head uses
        missed = comb(others - group, self.top_k) / comb(others, self.top_k) if without else 0.0
        return 1.0 - without / kv * missed

    def weights(self) -> tuple[Weights, ...]:
        if self.routed is None:
            return self._local.weights()
        one = 2 * self.hidden * self._width
        dense = self.hidden * (2 * self._shared_width + self._kv_width)
        rest = self._local.weights()[1]
        router = self._columns * self.hidden
        return (
            Weights("experts", one * self._others, one * self.top_k),
            Weights("attention", dense, dense),
            Weights("other", rest.total + router, rest.active + router),
        )

    @property
    def _shared_width(self) -> int:
        return self.shared // self.devices * self.base.head_dim

    @property
    def _kv_width(self) -> int:
        """Columns of keys and values together on one device."""
        return 2 * self._local.kv_heads * self.base.head_dim

    def state(self) -> State:
        return self._local.state()

    def shard(self, tp: int) -> HeadExperts:
        devices = self.devices * tp
        self.base.shard(devices)
        if self.routed is not None:
            split(self.shared, devices, "shared heads")
            split(self.top_k, devices, "routed heads of a token")
            split(self.base.head_dim, devices, "columns of a head")
        return replace(self, devices=devices)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        if self.routed is None:
            return self._local.ops(moments, run, None)
        if loads is None:
            raise ValueError("routed heads need loads")
        active = (self.shared + self.top_k) // self.devices
        used = replace(self._local, heads=active)
        width, dim = active * self.base.head_dim, self.base.head_dim
        qkv = self._shared_width + self._kv_width
        tokens, out = moments.tokens, []
        if self._shared_width:  # without shared heads the routed ones write the whole output
            out = [gemm("out", "attention", "attention", tokens, self.hidden, self._shared_width, run)]
        return [
            gemm("router", "attention", "other", tokens, self._columns, self.hidden, run),
            gemm("qkv", "attention", "attention", tokens, qkv, self.hidden, run),
            self.expert_op(loads, run),
            elementwise("rope", "attention", tokens, width + used.kv_heads * dim, 2, run),
            *attention_core(used, moments, run, read=self.kv_read_share),
            elementwise("weigh", "attention", tokens, width, 2, run),
            *out,
        ]

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of the routed heads' query and output projections."""
        return projections("head_experts", self.hidden, self._width, self._others, self.top_k, loads, run)


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
        """The experts combined into one attention block."""
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
