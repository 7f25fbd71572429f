"""Gemma 3n's and 4's additions to a feed-forward block: per-layer inputs, low-rank side paths, several streams.

Each token has a row of a table for every layer, as wide as `inputs`; the layer gates it and adds it (Gemma 3n's
per-layer embeddings). LAuReL is a low-rank path in parallel with attention; AltUp keeps several residual streams, of
which one is processed (arXiv 2411.07501, 2301.13310).

Input of a draft head: several rows of a token, each normed, joined and projected to one row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Loads, Op
from .base import Run, Weights, elementwise, gemm, layer_kind
from .ffn import FeedForward
from .linears import PlainKind


@layer_kind("ffn_side_inputs")
@dataclass(frozen=True, slots=True)
class SideInputs(PlainKind):
    """A feed-forward block with inputs of its layer's own and side paths.

    Attributes
    ----------
    inputs : int
        Width of the layer's own input of a token; 0 = none.
    rank : int
        Rank of the low-rank path in parallel with attention; 0 = none.
    streams : int
        Residual streams; 1 = the usual one.
    """

    inner: FeedForward
    inputs: int = 0
    rank: int = 0
    streams: int = 1

    @property
    def hidden(self) -> int:
        return self.inner.hidden

    @property
    def working_values(self) -> int:
        """Number of values that a prompt's token needs at once."""
        return self.inner.working_values

    def weights(self) -> tuple[Weights, ...]:
        h, n = self.hidden, self.streams
        # Projection from the hidden state, gate, projection back; then the side path.
        big = 3 * h * self.inputs + 2 * h * self.rank
        small = h * bool(self.inputs) + h * bool(self.rank)
        if n > 1:  # router with its norm, scale of the output, coefficients of prediction and correction
            small += n * h + 2 * h + n * n + n**3
        return (*self.inner.weights(), Weights("ffn", big, big), Weights("other", small, small))

    def shard(self, tp: int) -> SideInputs:
        return replace(self, inner=self.inner.shard(tp))  # the side paths are whole on every device

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        ops, h = self.inner.ops(moments, run, loads), self.hidden
        if self.rank:
            ops += [
                gemm("laurel_down", "ffn", "ffn", moments.tokens, self.rank, h, run),
                gemm("laurel_up", "ffn", "ffn", moments.tokens, h, self.rank, run),
            ]
        if self.inputs:
            ops += [
                elementwise("layer_input", "ffn", moments.tokens, self.inputs, 3, run, access="gather"),
                gemm("layer_input_projection", "ffn", "ffn", moments.tokens, self.inputs, h, run),
                gemm("layer_input_gate", "ffn", "ffn", moments.tokens, self.inputs, h, run),
                gemm("layer_input_out", "ffn", "ffn", moments.tokens, h, self.inputs, run),
            ]
        if self.streams > 1:  # all streams are read and written twice: predicted, then corrected
            ops.append(elementwise("streams", "ffn", moments.tokens, h, 4 * self.streams, run))
        return ops


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
