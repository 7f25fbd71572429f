"""What a draft head reads: several rows of a token, each normed, joined and projected to one."""

from __future__ import annotations

from dataclasses import dataclass

from ..batch import Moments
from ..ops import Loads, Op
from .base import Run, Weights, elementwise, gemm, layer_kind
from .linears import PlainKind


@layer_kind("fusion")
@dataclass(frozen=True, slots=True)
class Fusion(PlainKind):
    """``W [norm(a); norm(b)]``: hidden state and next token's embedding, joined for a draft head.

    `inputs` rows of the hidden size become one; `norms` of them are normed. Every device of a rank
    has the whole projection, so nothing is added up behind it (``eh_proj`` of
    vllm-project/vllm, vllm/model_executor/models/deepseek_mtp.py; EAGLE's ``fc``).
    """

    hidden: int
    inputs: int = 2
    norms: int = 2

    def weights(self) -> tuple[Weights, ...]:
        count = self.inputs * self.hidden * self.hidden + self.norms * self.hidden
        return (Weights("other", count, count),)

    def shard(self, tp: int) -> Fusion:
        return self

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        norm = elementwise("fusion_norm", "fusion", moments.tokens, self.hidden, 2 * self.norms, run)
        joined = self.inputs * self.hidden
        project = gemm("fusion", "fusion", "other", moments.tokens, self.hidden, joined, run)
        return [norm, project] if self.norms else [project]
