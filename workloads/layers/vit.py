"""Vision transformers: patch embedding, attention in both directions, experts with task gates.

An image tower on the devices of a language model: its work per prompt token.

Engines run the tower in the step that prefills the tokens of an image. Here every prompt token carries its share, so
that all images are computed over the steps of all prompts; a token of an image has its patches. The weights are whole
on each device, and the images of one request are spread over a rank's devices (``--mm-encoder-tp-mode data`` of vLLM),
so a single one is no faster on many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Loads, Op
from .base import Run, Weights, elementwise, gemm, layer_kind, split
from .linears import PlainKind
from .moe import MixtureOfExperts
from .streamed import Sums, encoder_rates, streamed


@layer_kind("patch_embedding")
@dataclass(frozen=True, slots=True)
class PatchEmbedding(PlainKind):
    """Cut an image into patches and project each to a token; a class token and positions join.

    Attributes
    ----------
    height, width, channels : int
        Size of the image [pixels], and number of its channels.
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
        """Number of patches of an image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def tokens(self) -> int:
        """Number of tokens of an image: patches and one class token."""
        return self.patches + 1

    @property
    def inputs(self) -> int:
        """Number of values of one patch."""
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
        """Number of key/value heads, equal to the number of query heads."""
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


@layer_kind("image_tower")
@dataclass(frozen=True, slots=True)
class ImageTower(PlainKind):
    """A vision transformer with a projector to the language model.

    Attributes
    ----------
    hidden : int
        Width of the language model.
    width, depth, heads, head_dim, inner, matrices : int
        Sizes of the tower's blocks.
    inputs : int
        Values of a patch.
    per_patch, per_token : tuple of (int, int)
        Outputs and inputs of the projector's matrices, of those that see patches and of those that see tokens.
    small : int
        Weights outside of matrices: norms, biases, positions.
    windows : int
        Blocks whose patches only see their own window.
    window : int
        Patches of a window.
    share : float
        Tokens of images among the tokens of prompts.
    patches, tokens, pictures : int
        Patches and tokens of a picture (an image, or a tile of one), and pictures of a request.
    spread : int
        Devices that the pictures of a request are spread over.
    """

    hidden: int
    width: int
    depth: int
    heads: int
    head_dim: int
    inner: int
    matrices: int
    inputs: int
    per_patch: tuple[tuple[int, int], ...] = ()
    per_token: tuple[tuple[int, int], ...] = ()
    small: int = 0
    windows: int = 0
    window: int = 0
    share: float = 0.0
    patches: int = 1
    tokens: int = 1
    pictures: int = 1
    spread: int = 1

    @property
    def block(self) -> int:
        """Number of weights of a block's matrices."""
        return 4 * self.width * self.heads * self.head_dim + self.matrices * self.width * self.inner

    def weights(self) -> tuple[Weights, ...]:
        count = self.depth * self.block + self.width * self.inputs + self.small
        count += sum(n * k for n, k in (*self.per_patch, *self.per_token))
        return (Weights("other", count, count),)  # towers stay in 16 bit, whatever the text model has

    def shard(self, tp: int) -> ImageTower:
        return replace(self, spread=min(tp, self.pictures))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        pictures = moments.prefill_tokens * self.share / self.tokens / self.spread
        rows, merged = pictures * self.patches, pictures * self.tokens
        heads = self.heads * self.head_dim

        def linear(name: str, n: int, k: int, count: float = rows, batch: int = 1) -> Op:
            return gemm(f"vision_{name}", "vision", "other", count, n, k, run, batch=batch, phase="prefill")

        def vector(name: str, cols: int, tensors: float) -> Op:
            return elementwise(f"vision_{name}", "vision", rows, cols, tensors, run, "prefill")

        ops = [
            linear("patches", self.width, self.inputs),
            vector("norm", self.width, 8.0 * self.depth),
            linear("qkv", 3 * heads, self.width, batch=self.depth),
            *self._attention(pictures, run),
            linear("out", self.width, heads, batch=self.depth),
            linear("up", (self.matrices - 1) * self.inner, self.width, batch=self.depth),
            vector("activation", self.inner, float(self.matrices * self.depth)),
            linear("down", self.width, self.inner, batch=self.depth),
        ]
        ops += [linear(f"project_{i}", n, k) for i, (n, k) in enumerate(self.per_patch)]
        return ops + [linear(f"merge_{i}", n, k, merged) for i, (n, k) in enumerate(self.per_token)]

    def _attention(self, pictures: float, run: Run) -> list[Op]:
        """Return the attention of all blocks: over whole pictures, and over windows for blocks with windows."""
        narrow = self.windows if 0 < self.window < self.patches else 0
        parts = ((self.depth - narrow, self.patches), (narrow, self.window))
        return [self._core(pictures * blocks * self.patches / seen, seen, run) for blocks, seen in parts if blocks]

    def _core(self, sequences: float, length: int, run: Run) -> Op:
        tokens = sequences * length
        rates, sums = (encoder_rates(self.heads, self.head_dim), Sums(sequences, tokens, tokens * length, tokens))
        return streamed(
            "vision_attention", "vision", "encoder_attention", "prefill", run, sums, rates, act=rates.bytes(sums)
        )
