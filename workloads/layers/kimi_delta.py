"""Kimi Delta Attention (Kimi-Linear, Kimi-K3, Ling-3.0): the delta rule with a decay for each channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..numerics import check_dtype
from ..ops import Loads, Op
from .base import Fixed, Run, State, Weights, elementwise, gemm, layer_kind, split
from .linears import PlainKind
from .recurrent import conv_ops, delta_rates, state_ops


@layer_kind("kda")
@dataclass(frozen=True, slots=True)
class KimiDelta(PlainKind):
    """Delta rule of `heads` heads of `head_dim`, whose decay and output gates have a low rank.

    Attributes
    ----------
    full_gate, full_decay : bool
        The output gate, or the decay's, is one matrix (``use_full_rank_gate``).
    decays : int
        Entries of the decay's base (``A_log``); 0 = one a head.
    state_format : str
        Number format of the states; empty: as activations.
    """

    hidden: int
    heads: int
    head_dim: int
    d_conv: int
    full_gate: bool = False
    full_decay: bool = False
    decays: int = 0
    state_format: str = "fp32"

    def __post_init__(self) -> None:
        if self.state_format:
            check_dtype(self.state_format, "state_format")

    @property
    def _width(self) -> int:
        return self.heads * self.head_dim

    @property
    def _whole(self) -> int:
        """Gates of one matrix."""
        return int(self.full_gate) + int(self.full_decay)

    def weights(self) -> tuple[Weights, ...]:
        wide, low = self._width, (self.hidden + self._width) * self.head_dim
        big = 4 * self.hidden * wide + self.hidden * self.heads
        big += self._whole * self.hidden * wide + (2 - self._whole) * low
        small = 3 * wide * self.d_conv + self.head_dim + wide + (self.decays or self.heads)
        return Weights("attention", big, big), Weights("other", small, small)

    def state(self) -> State:
        return State(
            fixed=(Fixed(self._width * self.head_dim, self.state_format), Fixed(3 * self._width * (self.d_conv - 1)))
        )

    def shard(self, tp: int) -> KimiDelta:
        return replace(self, heads=split(self.heads, tp, "linear heads"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        wide, dim, value = self._width, self.head_dim, run.numerics.act_bytes
        state_bytes = self.state().fixed[0].bytes(run.numerics)
        low = 2 - self._whole
        columns = (3 + self._whole) * wide + self.heads + low * dim
        rates = (delta_rates(self.heads, dim, dim, state_bytes, False, value),
                 delta_rates(self.heads, dim, dim, state_bytes, True, value))  # fmt: skip
        gates = [gemm("gates", "state", "attention", moments.tokens, wide, dim, run, batch=low)] if low else []
        return [
            gemm("in", "state", "attention", moments.tokens, columns, self.hidden, run),
            *gates,
            # Queries, keys and values one after another, as vLLM and SGLang launch them.
            *(op for _ in range(3) for op in conv_ops(wide, self.d_conv, moments, run)),
            *state_ops("kda", moments, run, rates, (state_bytes, state_bytes)),
            elementwise("gated_norm", "state", moments.tokens, wide, 3, run),
            gemm("out", "state", "attention", moments.tokens, self.hidden, wide, run),
        ]
