"""Layers cut into equal slices of which a token uses some (Union-of-Experts, arXiv 2503.02495)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...batch import Moments
from ...errors import InputError
from ...ops import Access, Loads, Op
from ..attention import Attention, KeySums, attention_core, keys_within
from ..base import Routed, Run, State, Weights, elementwise, gemm, layer_kind
from ..ffn import FeedForward
from ..linears import OfOneGroup, WrappingKind
from ..moe import MixtureOfExperts


def _check_slices(slices: int, top_k: int, **counts: int) -> None:
    """Refuse slices that do not divide the layer's counts evenly, or a `top_k` above their number."""
    if slices < 1:
        raise InputError("slices", f"must be at least 1, not {slices}")
    if not 1 <= top_k <= slices:
        raise InputError("top_k", f"must be from 1 to the {slices} slices, not {top_k}")
    for name, count in counts.items():
        if count % slices:
            raise InputError("slices", f"{slices} does not divide {name}={count}")


def _check_parts(tp: int, slices: int, **counts: int) -> None:
    """Refuse a number of devices whose parts cannot be divided into the slices."""
    for name, count in counts.items():
        if count % slices:
            reason = f"leaves {count} {name} on a device, which is not a multiple of the {slices} slices"
            raise InputError(f"tp={tp}", reason)


class _Sliced(WrappingKind):
    """Base of sliced layers: a whole layer, of which each token uses some slices."""

    __slots__ = ()
    base: Attention | FeedForward
    slices: int
    top_k: int

    @property
    def routed(self) -> Routed | None:
        if self.top_k == self.slices:
            return None
        return Routed(self.slices, self.top_k, spreads=False)


@layer_kind("ffn_slices")
@dataclass(frozen=True, slots=True)
class SlicedFeedForward(_Sliced, OfOneGroup):
    """A dense block cut into slices of its columns; the sum of all slices is the whole block.

    Slices that tokens choose, or each of which chooses equally many tokens, are experts of a part of the
    block's width, one batched product on each device: tensor parallel splits every slice.
    """

    one_group: ClassVar[str] = "slices need ep=1 (tensor-parallel slices)"
    base: FeedForward
    slices: int
    top_k: int

    def __post_init__(self) -> None:
        _check_slices(self.slices, self.top_k, width=self.base.width)
        if self.base.bias:
            raise InputError("base.bias", "must be false: slices have no bias")

    @property
    def _experts(self) -> MixtureOfExperts:
        """Return the slices as experts."""
        width = self.base.width // self.slices
        return MixtureOfExperts(self.hidden, self.slices, self.top_k, width, self.base.matrices)

    @property
    def working_values(self) -> int:
        """Number of values that a prompt's token needs at once."""
        return self._experts.working_values

    def weights(self) -> tuple[Weights, ...]:
        return self.base.weights() if self.routed is None else self._experts.weights()

    def shard(self, tp: int) -> SlicedFeedForward:
        base = self.base.shard(tp)
        _check_parts(tp, self.slices, columns=base.width)
        return replace(self, base=base)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        part = self.base if self.routed is None else self._experts
        return part.ops(moments, run, loads)

    def expert_op(self, loads: Loads, run: Run) -> Op:
        return self._experts.expert_op(loads, run)


@layer_kind("attention_slices")
@dataclass(frozen=True, slots=True)
class SlicedAttention(_Sliced, OfOneGroup):
    """Attention cut into slices of its heads; a token has queries, keys and values in some.

    A query sees the keys of its own slices: other tokens' keys with the share top_k over slices (exactly if slices
    choose equally many tokens, in expectation if tokens choose evenly), its own always. So scores fall by the square,
    the KV cache by the share.
    """

    one_group: ClassVar[str] = "slices of attention need ep=1 (tensor-parallel slices)"
    base: Attention
    slices: int
    top_k: int

    def __post_init__(self) -> None:
        base = self.base
        _check_slices(self.slices, self.top_k, heads=base.heads, kv_heads=base.kv_heads)
        if base.window or base.gated:
            key = "window" if base.window else "gated"
            raise InputError(f"base.{key}", "cannot be combined with slices; remove it")

    @property
    def _used(self) -> Attention:
        """Attention with only the heads of one token's slices."""
        base, part = self.base, self.slices
        return replace(base, heads=base.heads // part * self.top_k, kv_heads=base.kv_heads // part * self.top_k)

    @property
    def _one(self) -> int:
        """Number of weights of one slice: query, key, value and output projection."""
        return self.base.weights()[0].total // self.slices

    def weights(self) -> tuple[Weights, ...]:
        base, rest = self.base.weights()
        if self.routed is None:
            return base, rest
        router = self.slices * self.hidden
        return (
            Weights("experts", base.total, self._one * self.top_k),
            Weights("other", rest.total + router, rest.active + router),
        )

    def state(self) -> State:
        return self._used.state()

    def shard(self, tp: int) -> SlicedAttention:
        base = self.base.shard(tp)
        _check_parts(tp, self.slices, heads=min(base.heads, base.kv_heads))
        return replace(self, base=base)

    def keys(self, moments: Moments) -> KeySums:
        """Return the keys that the queries of a slice see: the slice's share of the other tokens, and the own token."""
        share, all_ = self.top_k / self.slices, keys_within(moments, 0)
        tokens, new = moments.prefill_tokens, moments.decode_tokens
        pairs = tokens + (all_.pairs - tokens) * share
        seen, read = (new + (n - new) * share for n in (all_.decode_pairs, all_.decode_kv))
        return KeySums(pairs, all_.kv, all_.rect * share, seen, read)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        if self.routed is None:
            return self.base.ops(moments, run, None)
        if loads is None:
            raise ValueError("slices need loads")
        used = self._used
        width = (used.heads + used.kv_heads) * used.head_dim
        return [
            gemm("router", "attention", "other", moments.tokens, self.slices, self.hidden, run),
            self.expert_op(loads, run),
            elementwise("rope", "attention", moments.tokens, width, 2, run),
            *attention_core(used, moments, run, self.keys(moments)),
        ]

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of all projections of the slices, as one batched product in each direction."""
        num, routed, one = run.numerics, loads.routed, self._one
        inter = self.base.heads * self.base.head_dim // self.slices
        return Op(
            name="slices",
            layer="attention",
            kind="experts",
            phase="both",
            shape={
                "hidden": self.hidden, "inter": inter, "matrices": one / (self.hidden * inter),
                "experts": self.slices, "top_k": self.top_k, "routed": routed,
            },
            dtype=num.compute("experts"),
            flops=2.0 * routed * one,
            weight_bytes=num.weight_bytes("experts") * one * loads.active,
            act_bytes=num.act_bytes * routed * (2.0 * self.hidden + one / self.hidden),
            loads=loads,
            access=Access("slices", num.weight_bytes("experts") * one, self.slices),
        )  # fmt: skip
