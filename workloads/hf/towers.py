"""Image towers from the ``vision_config`` of a multimodal model's file.

Image encoders: vision transformers, dense or with a mixture of experts and task gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..layers import BidirectionalAttention, FeedForward, ImageTower, MultiTaskExperts, PatchEmbedding
from ..model import Layer, ModelSpec
from ..tower import Tower
from ..yamlfile import read_yaml
from .config import Config, shown
from .families import family
from .parts import check_heads, read_experts
from .quantization import numerics

WIDTH = ("hidden_size", "embed_dim", "width", "vt_hidden_size")
DEPTH = ("num_hidden_layers", "depth", "layers", "num_layers", "vt_num_hidden_layers")
HEADS = ("num_attention_heads", "num_heads", "heads", "vt_num_attention_heads")
INNER = ("intermediate_size", "mlp_hidden_dim", "vt_intermediate_size")


@dataclass(frozen=True, slots=True)
class Traits:
    """Properties of a kind of image tower that its files do not state.

    Attributes
    ----------
    projector : str
        A name of `PROJECTORS`.
    matrices : int
        Number of matrices of a feed-forward block.
    norms, norm : int
        Norms of a block, and weights of a norm by unit of width.
    positions : str
        ``grid``: one for each patch of ``image_size``; a key that holds their number; empty: none.
    ends : int
        Norms before and after all blocks.
    scales, head_norms : int
        Further weights of a block, by unit of width and of a head.
    tiles : int
        Tiles of an image at most; 0: it is not cut.
    any_size : bool
        Whether images keep their size.
    merge : int
        Side of the square of patches that becomes one token, if no key states it; 0: 2 where images keep their size, else 1.
    head : bool
        A pooling head, one more block with a separate query, unless ``vision_use_head`` is off; its weights are in
        files, engines do not run it.
    """

    projector: str = "mlp"
    matrices: int = 2
    norms: int = 2
    norm: int = 2
    qkv_bias: bool = True
    out_bias: bool = True
    ffn_bias: bool = True
    patch_bias: bool = True
    positions: str = "grid"
    class_token: bool = False
    ends: int = 1
    scales: int = 0
    head_norms: int = 0
    tiles: int = 0
    any_size: bool = False
    merge: int = 0
    head: bool = False


KINDS = {
    name: Traits(**row["traits"])
    for row in read_yaml(Path(__file__).with_name("towers.yaml"))["kinds"]
    for name in row["types"]
}
"""Properties by ``model_type`` of a ``vision_config``; unknown types use the first entry."""

Matrices = tuple[tuple[int, int], ...]
Projected = tuple[Matrices, Matrices, int]
"""Matrices [outputs, inputs] that process patches, matrices that process tokens, and number of small weights."""


def read_tower(file: Config, hidden: int) -> Tower | None:
    """Read the image tower of a file; None if a ``vision_config`` or a needed size is missing.

    Parameters
    ----------
    hidden : int
        Width of the language model.

    Raises
    ------
    SpecError
        Sizes that cannot be.
    """
    at = file.section("thinker_config") if isinstance(file.values.get("thinker_config"), dict) else file
    if not isinstance(at.values.get("vision_config"), dict):
        return None
    v = at.section("vision_config")
    patch_key = v.values.get("patch_size", at.values.get("encoder_patch_size"))
    if not (any(map(v.has, WIDTH)) and any(map(v.has, DEPTH)) and any(map(v.has, HEADS)) and patch_key):
        return None
    traits = KINDS.get(v.text("model_type"), next(iter(KINDS.values())))
    return _tower(at, v, traits, hidden)


def _side(config: Config, key: str, default: int = 0) -> int:
    """Read a side length in pixels or patches, given as one number or two equal ones."""
    value = config.values.get(key)
    if isinstance(value, list) and value:
        value = value[0]
    if value is None:
        return default
    if type(value) is not int or not 0 < value < 2**31:
        raise config.error(key, f"must be a whole number from 1, not {shown(value)}")
    return value


def _merge(config: Config, vision: Config, traits: Traits) -> int:
    """Return the side of the square of patches that become one token."""
    for c, key in (
        (vision, "spatial_merge_size"), (config, "spatial_merge_size"), (config, "downsample_factor"), (vision, "pooling_kernel_size"),
    ):  # fmt: skip
        if c.has(key):
            return c.size(key)
    if vision.has("merge_kernel_size"):
        return _side(vision, "merge_kernel_size")
    ratio = vision.values.get("pixel_shuffle_ratio", config.values.get("downsample_ratio"))
    if isinstance(ratio, (int, float)) and 0 < ratio <= 1:
        return round(1 / ratio)
    return traits.merge or (2 if traits.any_size else 1)


def _tower(config: Config, vision: Config, traits: Traits, hidden: int) -> Tower:
    """Read a model's image tower from its vision section."""
    width = vision.size(*((("embed_dim",) if vision.has("embed_dim") else ()) + WIDTH))
    depth, heads = vision.layers(*DEPTH), vision.size(*HEADS)
    head_dim = vision.size("head_dim", default=max(1, vision.size("qkv_hidden_size", default=width) // heads))
    if vision.has("mlp_ratio"):
        ratio = vision.values["mlp_ratio"]
        if not isinstance(ratio, (int, float)) or not 0 < ratio < 100:
            raise vision.error("mlp_ratio", f"must be a number above 0, not {shown(ratio)}")
        inner = int(width * ratio)
    else:
        inner = vision.size(*INNER, default=0, least=0)
    inner = inner or 4 * width
    if (
        traits.projector == "glm"
    ):  # its blocks are as wide inside as the language model; `intermediate_size` is the merger's
        inner = vision.size("out_hidden_size", default=hidden)
    patch, merge = _side(vision, "patch_size", 14), _merge(config, vision, traits)
    channels = vision.size("in_channels", "num_channels", "in_chans", default=3)
    inputs = channels * patch**2 * vision.size("temporal_patch_size", default=1)
    per_patch, per_token, small = PROJECTORS[traits.projector](config, vision, width, merge, hidden)
    small += _small(vision, traits, width, depth, heads * head_dim, head_dim, inner, patch)
    windows = vision.indices("fullatt_block_indexes", depth)
    part = ImageTower(
        hidden, width, depth, heads, head_dim, inner, traits.matrices, inputs, per_patch, per_token, small,
        windows=0 if windows is None else depth - len(windows),
        window=(vision.size("window_size") // patch) ** 2 if vision.has("window_size") else 0,
    )  # fmt: skip
    side, fixed, tiles = _seen(config, vision, traits, patch, merge)
    stated = (
        vision.size("num_hidden_layers", "vt_num_hidden_layers", default=0),
        vision.size("hidden_size", "vt_hidden_size", default=0),
    )
    return Tower(vision.text("model_type") or "vision", part, patch, merge, side, fixed, tiles, stated)


def _small(
    vision: Config, traits: Traits, width: int, depth: int, heads: int, head_dim: int, inner: int, patch: int
) -> int:
    """Return the number of weights outside of matrices: norms, biases and positions."""
    block = traits.norms * traits.norm * width + traits.scales * width + traits.head_norms * head_dim
    block += 3 * heads * traits.qkv_bias + width * traits.out_bias
    block += ((traits.matrices - 1) * inner + width) * traits.ffn_bias
    small = depth * block + traits.ends * traits.norm * width + width * (traits.patch_bias + traits.class_token)
    if traits.head and vision.flag("vision_use_head", True) and vision.text("model_type").startswith("siglip"):
        small += 2 * width * (2 * width + inner) + 8 * width + inner  # a block with biases, the query, and a norm
    if traits.positions == "grid":
        side = _side(vision, "image_size", 0) // patch
        small += (side * side + traits.class_token) * width
    elif traits.positions == "pos_emb_height":
        small += vision.size("pos_emb_height", "init_pos_emb_height", default=64) ** 2 * width
    elif traits.positions == "table":
        small += 2 * vision.size("position_embedding_size", default=10_240) * width
    elif traits.positions:
        small += vision.count(traits.positions) * width
    return small


def _seen(config: Config, vision: Config, traits: Traits, patch: int, merge: int) -> tuple[int, int, int]:
    """Return the side length, the fixed number of tokens, and the number of tiles of the tower's input."""
    for c, key in (
        (config, "mm_tokens_per_image"),
        (config, "vision_soft_tokens_per_image"),
        (vision, "default_output_length"),
    ):
        if c.has(key):
            return _side(vision, "image_size"), c.size(key), 0
    side = _side(vision, "image_size", _side(config, "force_image_size"))
    if traits.tiles:
        side = side or _side(config, "tile_size", 512)
        return side, max(1, (side // patch) ** 2 // merge**2), traits.tiles
    if traits.any_size:
        return (side if traits.projector == "pixtral" else 0), 0, 0
    if not side:
        return 0, 0, 0
    return side, max(1, (side // patch) ** 2 // merge**2), 0


def _mlp(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    """Return LLaVA's, InternVL's and LFM2-VL's projector: two matrices with biases after merged patches."""
    if config.has("mm_tokens_per_image"):  # Gemma 3 pools and projects once
        return (), ((hidden, width),), width
    if config.text("model_type") == "paligemma":
        return (), ((hidden, width),), hidden
    wide = width * merge**2
    middle = config.size("projector_hidden_size", default=hidden)
    normed = 2 * wide * (merge > 1 and config.flag("projector_use_layernorm", True))
    return (), ((middle, wide), (hidden, middle)), middle + hidden + normed


def _linear(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    return (), ((hidden, width),), 0


def _merger(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    """Return Qwen's and Kimi's projector: a norm and two matrices, once more per tower layer with a separate output."""
    wide = width * merge**2
    # Qwen2-VL's `hidden_size` is the language model's
    out = vision.size("out_hidden_size", default=vision.size("hidden_size") if vision.has("embed_dim") else hidden)
    matrices = ((wide, wide), (out, wide))
    deep = len(vision.items("deepstack_visual_indexes") or ())
    norm = width * (1 if vision.text("model_type").startswith("qwen2_5") else 2)
    return (), matrices * (1 + deep), norm + (wide + out) * (1 + deep) + 2 * wide * deep


def _plain_merger(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    """Return Kimi K3's projector: two matrices without biases after merged patches, and a norm."""
    wide = width * merge**2
    return (), ((wide, wide), (hidden, wide)), hidden


def _minimax(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    """Return MiniMax-M3's projector: two matrices for each patch and two for each token, all with biases."""
    middle = config.size("projector_hidden_size", default=hidden)
    return ((middle, width), (hidden, middle)), ((middle, hidden * merge**2), (hidden, middle)), 2 * (middle + hidden)


def _strided(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    """Return Step's projector: two 3 x 3 convolutions that each double the width, and a matrix without biases.

    The first convolution is counted once for each token, not four times: 0.5 % of the tower's FLOPs are missing.
    """
    return (), ((2 * width, 9 * width), (4 * width, 18 * width), (hidden, 4 * width)), 6 * width


def _pixtral(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    merging = ((width, width * merge**2),) if merge > 1 else ()
    bias = 2 * hidden * config.flag("multimodal_projector_bias", merge == 1)
    return (), (*merging, (hidden, width), (hidden, hidden)), width * (merge > 1) + bias


def _glm(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    """Return GLM's projector: a strided convolution, a matrix and a gated block."""
    out, inner = (vision.size("out_hidden_size", default=hidden), vision.size("intermediate_size", default=4 * hidden))
    return (), ((out, width * merge**2), (out, out), (2 * inner, out), (out, inner)), 3 * out


def _llama4(config: Config, vision: Config, width: int, merge: int, hidden: int) -> Projected:
    middle = vision.size("projector_input_dim", default=4096)
    out = vision.size("projector_output_dim", default=4096)
    wide = vision.size("intermediate_size")
    return ((), ((middle, wide), (out, middle), (hidden, vision.size("vision_output_dim", default=out))), 0)


PROJECTORS: dict[str, Callable[[Config, Config, int, int, int], Projected]] = {
    "mlp": _mlp, "linear": _linear, "merger": _merger, "pixtral": _pixtral, "glm": _glm, "llama4": _llama4,
    "plain_merger": _plain_merger, "minimax": _minimax, "strided": _strided,
}  # fmt: skip


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
    """Read the patch embedding; a side that is not a multiple of the patch size is cropped, as models do."""
    value = config.values.get("image_size")
    given = list(value) if isinstance(value, list | tuple) else [value, value]
    sides = [side for side in given if type(side) is int and 0 < side < 2**31]
    if not len(given) == len(sides) == 2:
        reason = f"must be a side or [height, width] in pixels from 1, not {shown(value)}"
        raise config.error("image_size", reason)
    patch = config.size("patch_size")
    front = PatchEmbedding(hidden, sides[0], sides[1], config.size("num_channels", default=3), patch)
    if not front.patches:
        reason = f"{sides} is smaller than one patch of {patch} x {patch} pixels"
        raise config.error("image_size", reason)
    return front
