"""Vision transformers: patch embedding, attention in both directions, experts with task gates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Loads, Op
from .base import Run, Weights, elementwise, gemm, layer_kind, split
from .linears import PlainKind
from .moe import MixtureOfExperts


@layer_kind("patch_embedding")
@dataclass(frozen=True, slots=True)
class PatchEmbedding(PlainKind):
    """Cut an image into patches and project each to a token; a class token and positions join.

    Attributes
    ----------
    height, width, channels : int
        Of the image [pixels].
    patch : int
        Side of a square patch [pixels].
    """

    hidden: int
    height: int
    width: int
    channels: int
    patch: int

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def tokens(self) -> int:
        """Tokens of an image: patches and one class token."""
        return self.patches + 1

    @property
    def inputs(self) -> int:
        """Values of one patch."""
        return self.channels * self.patch**2

    def weights(self) -> tuple[Weights, ...]:
        count = (self.inputs + 1) * self.hidden  # with biases
        tokens = (self.tokens + 1) * self.hidden  # positions and the class token
        return Weights("other", count, count), Weights("other", tokens, tokens)

    def shard(self, tp: int) -> PatchEmbedding:
        return self  # every device embeds the whole image: 1 % of the work

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        patches = moments.tokens - moments.sequences
        return [
            gemm("patches", "embedding", "other", patches, self.hidden, self.inputs, run),
            elementwise("positions", "embedding", moments.tokens, self.hidden, 3, run),
        ]


@layer_kind("vit_attention")
@dataclass(frozen=True, slots=True)
class BidirectionalAttention(PlainKind):
    """Attention of an encoder: every token sees every token of its image, nothing is cached."""

    hidden: int
    heads: int
    head_dim: int
    bias: bool = True

    @property
    def _width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_heads(self) -> int:
        """As many as query heads."""
        return self.heads

    def weights(self) -> tuple[Weights, ...]:
        count = 4 * self.hidden * self._width
        biases = (3 * self._width + self.hidden) * self.bias
        return Weights("attention", count, count), Weights("other", biases, biases)

    def shard(self, tp: int) -> BidirectionalAttention:
        return replace(self, heads=split(self.heads, tp, "heads"))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        width = self._width
        pairs = moments.prefill_rect(0)  # an image is one prompt chunk without context
        scores = run.score_passes * self.heads * pairs
        core = Op(
            name="attention_image",
            layer="attention",
            kind="attention_image",
            phase="prefill",
            shape={"tokens": moments.prefill_tokens, "images": moments.prefills, "pairs": pairs,
                   "heads": self.heads, "head_dim": self.head_dim},
            dtype=run.numerics.default,
            flops=4.0 * width * pairs,
            act_bytes=run.numerics.act_bytes * (4.0 * width * moments.prefill_tokens + scores),
        )  # fmt: skip
        return [
            gemm("qkv", "attention", "attention", moments.tokens, 3 * width, self.hidden, run),
            core,
            gemm("out", "attention", "attention", moments.tokens, self.hidden, width, run),
        ]


@layer_kind("vit_moe")
@dataclass(frozen=True, slots=True)
class MultiTaskExperts(MixtureOfExperts):
    """Experts that all tasks share, with one gate (router table) per task.

    A token only passes through the gate of its image's task, so the ops equal `MixtureOfExperts`; only the stored gates
    multiply.
    """

    tasks: int = 1

    def weights(self) -> tuple[Weights, ...]:
        gate = self.experts * self.hidden
        others = (self.tasks - 1) * gate
        return (*MixtureOfExperts.weights(self), Weights("other", others, 0))
