"""Uni-MoE (arXiv 2405.11273): encoders of images, speech and sounds before a MoE language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from opbyte.extend import Batch, ModelSpec, Table, deploy, gemm, load_model, load_system
from opbyte.extend.models import BidirectionalAttention, FeedForward, Layer, MixtureOfExperts, Numerics, PatchEmbedding
from opbyte.extend.systems import explicit_stage
from opbyte.extend.training import Prices, RepeatedOp

from .moe_graphs import GRAPHS, Graph
from .published import Prediction

MODEL, SYSTEM = "llama-2-7b", "a100-80gb-x1"
EXPERTS, TOP_K = 4, 2
TEXT = 64
"""Words of a prompt in addition to its media [tokens, assumed]."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder, and the soft tokens that its connector gives the language model.

    Attributes
    ----------
    hidden, layers, heads, tokens : int
        Of the transformer, and of one item.
    soft : int
        Tokens of one item in the prompt.
    front : PatchEmbedding or None
    """

    hidden: int
    layers: int
    heads: int
    tokens: int
    soft: int
    front: PatchEmbedding | None = None


CLIP = PatchEmbedding(1024, 336, 336, 3, 14)
ENCODERS = {
    "image": Encoder(1024, 24, 16, CLIP.tokens, CLIP.patches, CLIP),
    "speech": Encoder(768, 12, 12, 1500, 32),
    "sound": Encoder(768, 12, 12, 496, 32),
}
"""CLIP ViT-L/14 at 336 pixels, Whisper small (30 s), BEATs (10 s in patches of 16 x 16)."""
ASSUMPTIONS = (
    f"one image, 30 s of speech, 10 s of sound and {TEXT} tokens of text, one request at a time on {SYSTEM}",
    (
        "32 soft tokens of a speech or sound clip, a linear connector from every encoder token [assumed]; "
        "convolutions before the audio encoders are left out, 2 to 3 % of their work"
    ),
    f"{EXPERTS} experts, {TOP_K} a token, in every layer of {MODEL}, evenly chosen",
)


@GRAPHS.register("unimoe")
def unimoe() -> Graph:
    """Predict Uni-MoE: encoders and connectors before a MoE language model."""
    took = {name: encoder_s(name) for name in ENCODERS}
    share = sum(took.values()) / (sum(took.values()) + prompt_s(tuple(ENCODERS)))
    row = Prediction("unimoe.prefill_share_of_encoders", share)
    return Graph((row,), (_by_media(),), ASSUMPTIONS, 2 * len(ENCODERS))


@cache
def encoder(name: str) -> ModelSpec:
    """Return an image or audio encoder: a transformer with biases."""
    if name == "image":
        return load_model("clip-vit-l14-336")
    e = ENCODERS[name]
    layer = Layer(
        BidirectionalAttention(e.hidden, e.heads, e.hidden // e.heads),
        FeedForward(e.hidden, 4 * e.hidden, matrices=2, bias=True), 2, 2 * e.hidden,
    )  # fmt: skip
    return ModelSpec(
        f"unimoe-{name}", "built here", e.hidden, 0, (layer,) * e.layers, True,
        Numerics("fp16", kv="fp16"), source="Uni-MoE (arXiv 2405.11273)", front=e.front,
    )  # fmt: skip


@cache
def language_model() -> ModelSpec:
    """Return the language model with experts."""

    def routed(base: FeedForward) -> MixtureOfExperts:
        return MixtureOfExperts(base.hidden, EXPERTS, TOP_K, base.width)

    return replace(load_model(MODEL).map_parts(FeedForward, routed), name="unimoe")


def connector_s(name: str) -> float:
    """Return the time of projecting an encoder's tokens to the language model's width [s]."""
    e, d = ENCODERS[name], deploy(language_model(), load_system(SYSTEM))
    op = gemm("connector", "connector", "other", e.tokens, d.model.hidden, e.hidden, d.run)
    return Prices(d).op(RepeatedOp(op))


@cache
def encoder_s(name: str) -> float:
    """Return the time of one item in its encoder and connector [s]."""
    d = deploy(encoder(name), load_system(SYSTEM))
    step = explicit_stage(d, [Batch.of(chunks=[(ENCODERS[name].tokens, 0)])], expected=True)
    return step.seconds + connector_s(name)


@cache
def prompt_s(media: tuple[str, ...]) -> float:
    """Return the language model's time for a prompt of the text and the media's soft tokens [s]."""
    d = deploy(language_model(), load_system(SYSTEM))
    tokens = TEXT + sum(ENCODERS[name].soft for name in media)
    return explicit_stage(d, [Batch.of(chunks=[(tokens, 0)])], expected=True).seconds


def _by_media() -> Table:
    rows = []
    for media in (("image",), ("speech",), ("sound",), tuple(ENCODERS)):
        before = sum(encoder_s(name) for name in media)
        prompt = prompt_s(media)
        rows.append({"media": " + ".join(media), "soft_tokens": sum(ENCODERS[n].soft for n in media),
                     "encoders_ms": before * 1e3, "prompt_ms": prompt * 1e3,
                     "encoders_share": before / (before + prompt)})  # fmt: skip
    return Table("unimoe_media", "Uni-MoE: time to the first token by what a request brings", rows)
