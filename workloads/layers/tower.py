"""An image tower on the devices of a language model: its work per prompt token.

Engines run the tower in the step that prefills the tokens of an image. Here every prompt token carries its share, so
that all images are computed over the steps of all prompts; a token of an image has its patches. The weights are whole
on each device, and the images of one request are spread over a rank's devices (``--mm-encoder-tp-mode data`` of vLLM),
so a single one is no faster on many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Loads, Op
from .base import Run, Weights, elementwise, gemm, layer_kind
from .linears import PlainKind
from .streamed import Sums, encoder_rates, streamed


@layer_kind("image_tower")
@dataclass(frozen=True, slots=True)
class ImageTower(PlainKind):
    """A vision transformer with a projector to the language model.

    Attributes
    ----------
    hidden : int
        Width of the language model.
    width, depth, heads, head_dim, inner, matrices : int
        Of the tower's blocks.
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
        Of a picture (an image, or a tile of one): patches, and tokens; and pictures of a request.
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
        """Weights of a block's matrices."""
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
        """All blocks' attention: over whole pictures, and over windows where blocks have such."""
        narrow = self.windows if 0 < self.window < self.patches else 0
        parts = ((self.depth - narrow, self.patches), (narrow, self.window))
        return [self._core(pictures * blocks * self.patches / seen, seen, run) for blocks, seen in parts if blocks]

    def _core(self, sequences: float, length: int, run: Run) -> Op:
        tokens = sequences * length
        rates, sums = (encoder_rates(self.heads, self.head_dim), Sums(sequences, tokens, tokens * length, tokens))
        return streamed(
            "vision_attention", "vision", "encoder_attention", "prefill", run, sums, rates, act=rates.bytes(sums)
        )
