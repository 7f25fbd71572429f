"""Image encoders: vision transformers, dense or with a mixture of experts and task gates."""

from __future__ import annotations

from dataclasses import replace

from ..layers import BidirectionalAttention, FeedForward, MultiTaskExperts, PatchEmbedding
from ..model import Layer, ModelSpec
from .config import Config, shown
from .families import family
from .parts import check_heads, read_experts
from .quantization import numerics


@family("ViTModel", "M3ViT", types=("vit", "m3vit"))
def vision_transformer(config: Config) -> ModelSpec:
    """Plain ViT; with ``num_experts`` every ``expert_layer_period``-th layer holds experts.

    ``image_size`` is a side or ``[height, width]``; ``num_tasks`` gates share the experts, whose
    inner width is ``moe_intermediate_size``.
    """
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    shape = check_heads(config, hidden, heads, heads, keys=("num_attention_heads",) * 2)
    bias = config.flag("qkv_bias", True)
    mixer = BidirectionalAttention(hidden, heads, shape.head_dim, bias)
    dense = FeedForward(hidden, config.size("intermediate_size"), matrices=2, bias=True)
    plain = Layer(mixer, dense, 2, 2 * hidden)
    layers = [plain] * config.layers()
    if config.has("num_experts"):
        routed = read_experts(
            config, hidden, config.size("moe_intermediate_size"), experts=("num_experts",), matrices=2, expert_bias=True
        )
        experts = MultiTaskExperts(
            hidden=hidden, experts=routed.experts, top_k=routed.top_k, width=routed.width, matrices=2,
            expert_bias=True, tasks=config.size("num_tasks", default=1),
        )  # fmt: skip
        period = config.size("expert_layer_period", default=2)
        for i in range(period - 1, len(layers), period):
            layers[i] = replace(plain, ffn=experts)
    front = _patches(config, hidden)
    return ModelSpec(
        name=config.name,
        architecture=config.architecture,
        hidden=hidden,
        vocab=0,
        layers=tuple(layers),
        tied=True,
        numerics=numerics(config, layers),
        extra_weights=2 * hidden,  # the final norm
        max_position=front.tokens,
        source=config.source,
        front=front,
    )


def _patches(config: Config, hidden: int) -> PatchEmbedding:
    """The patch embedding; a side that patches do not divide is cropped, as the models do."""
    value = config.values.get("image_size")
    given = list(value) if isinstance(value, list | tuple) else [value, value]
    sides = [side for side in given if type(side) is int and 0 < side < 2**31]
    if not len(given) == len(sides) == 2:
        reason = f"must be a side or [height, width] in pixels from 1, not {shown(value)}"
        raise config.error("image_size", reason)
    patch = config.size("patch_size")
    front = PatchEmbedding(hidden, sides[0], sides[1], config.size("num_channels", default=3), patch)
    if not front.patches:
        reason = f"{sides} holds no patch of {patch} x {patch} pixels, so 0 tokens"
        raise config.error("image_size", reason)
    return front
