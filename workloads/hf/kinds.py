"""Decoders whose layers have different numbers of heads: MiMo-V2, Step-3.5 and 3.7, Laguna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..layers import Attention, FeedForward
from ..model import ModelSpec
from .config import Config, shown
from .decoders import mtp_heads
from .families import family
from .parts import WINDOWED, Heads, assemble, check_heads, dense_of, read_blocks, read_heads, stack


def windowed_layers(config: Config, layers: int, default: Sequence[bool]) -> list[bool]:
    """Return which layers have the attention window; list entries for the layers of MTP heads are dropped."""
    kinds = config.items("layer_types")
    if kinds is not None and len(kinds) > layers:
        config = config.but(layer_types=kinds[:layers])
    words = config.words("layer_types", layers, WINDOWED)
    if words is not None:
        return [WINDOWED[word] for word in words]
    return config.switches("hybrid_layer_pattern", layers) or list(default)


@family(
    "MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM", "MiMoV2OmniForCausalLM", "MiMoV2ASRForCausalLM",
    types=("mimo_v2_flash", "mimo_v2", "mimo_v2_omni"),
)  # fmt: skip
def mimo_v2(config: Config) -> ModelSpec:
    """MiMo-V2: keys wider than values, other head counts and sinks in layers with a window.

    The checkpoints have three multi-token-prediction heads of a window and a dense block, which their files do not
    mention (SGLang, mimo_v2_flash_nextn).
    """
    layers, hidden = config.layers(), config.size("hidden_size")
    heads, kv = config.size("num_attention_heads"), config.size("num_key_value_heads")
    head_dim = config.size("head_dim", default=192)
    v_dim = config.size("v_head_dim", default=128)
    bias = config.flag("attention_bias", False)
    check_heads(config, hidden, heads, kv, head_dim)
    full = Attention(
        hidden,
        heads,
        kv,
        head_dim,
        qkv_bias=bias,
        v_dim=v_dim,
        sinks=config.flag("add_full_attention_sink_bias", False),
    )
    local = Attention(
        hidden, config.size("swa_num_attention_heads", default=heads),
        config.size("swa_num_key_value_heads", default=2 * kv), config.size("swa_head_dim", default=head_dim),
        config.size("sliding_window", "sliding_window_size"), bias,
        v_dim=config.size("swa_v_head_dim", default=v_dim), sinks=config.flag("add_swa_attention_sink_bias", True),
    )  # fmt: skip
    windowed = windowed_layers(config, layers, [(i % 6) not in (0, 5) for i in range(layers)])
    blocks = read_blocks(config, hidden, layers, router_bias=True, first=1)
    head = stack([local], [dense_of(config, hidden)])[0]
    mixers = [local if w else full for w in windowed]
    return assemble(config, stack(mixers, blocks), head=head, heads=mtp_heads(config, 3))


@family(
    "Step3p5ForCausalLM", "Step3p5FlashForCausalLM", "Step3p7FlashForCausalLM", "Step3p7ForCausalLM",
    types=("step3p5", "step3p7_text"),
)  # fmt: skip
def step3p5(config: Config) -> ModelSpec:
    """Step-3.5 and 3.7: separate head counts in layers with a window, a gate per head, MTP heads with a window."""
    layers, hidden = config.layers(), config.size("hidden_size")
    heads = config.size("num_attention_heads")
    kv = config.size("num_attention_groups", "num_key_value_heads", default=heads)
    shape = check_heads(config, hidden, heads, kv, config.optional("head_dim"))
    section = config.section("attention_other_setting") if config.has("attention_other_setting") else config
    groups = section.size("num_attention_groups", "num_key_value_heads", default=kv)
    local = check_heads(
        section, hidden, section.size("num_attention_heads"), groups, section.optional("head_dim") or shape.head_dim
    )
    gate = config.flag("use_head_wise_attn_gate", True)
    made = [
        replace(Attention(h.hidden, h.heads, h.kv_heads, h.head_dim, w, qk_norm=h.head_norm), head_gate=gate)
        for h, w in ((shape, 0), (local, config.size("sliding_window", default=512)))
    ]
    windowed = windowed_layers(config, layers, [i % 4 != 0 for i in range(layers)])
    blocks = read_blocks(config, hidden, layers, router_bias=config.flag("use_moe_router_bias", True), first=3)
    dense: FeedForward = dense_of(config, hidden)
    return assemble(
        config, stack([made[w] for w in windowed], blocks), head=stack([made[1]], [dense])[0], heads=mtp_heads(config)
    )


@family("Step3TextForCausalLM", "Step3VLForConditionalGeneration", types=("step3_text", "step3_vl"))
def step3(config: Config) -> ModelSpec:
    """Step-3: queries from a latent, one key and value head for all (arXiv 2507.19427)."""
    hidden, heads, dim = config.size("hidden_size"), config.size("num_attention_heads"), config.size("head_dim")
    kv = config.size("num_attention_groups", "num_key_value_heads", default=1)
    check_heads(config, hidden, heads, kv, dim)
    layers, mixer = config.layers(), Attention(hidden, heads, kv, dim, q_rank=config.size("share_q_dim"))
    return assemble(config, stack([mixer] * layers, read_blocks(config, hidden, layers, first=4)))


@family("LagunaForCausalLM", types=("laguna",))
def laguna(config: Config) -> ModelSpec:
    """Laguna: gated query heads by layer, windows, experts after one dense layer."""
    shape, layers = read_heads(config, head_dim=128), config.layers()
    counts = config.items("num_attention_heads_per_layer") or [shape.heads] * layers
    if len(counts) != layers:
        raise config.error("num_attention_heads_per_layer", f"must hold {layers} numbers, not {len(counts)}")
    gating = config.values.get("gating", True)
    if gating not in (True, False, None, "per-head", "per-element"):
        raise config.error("gating", f"must be true, false, per-head or per-element, not {shown(gating)}")
    window = config.window("sliding_window", 512)
    windowed = windowed_layers(config, layers, [False] * layers)
    bias = config.flag("attention_bias", False)
    made: dict[tuple[int, bool], Attention] = {}
    for i, (count, w) in enumerate(zip(counts, windowed, strict=True)):
        if type(count) is not int or count < 1 or count % shape.kv_heads:
            reason = f"must be a multiple of the {shape.kv_heads} key/value heads, not {shown(count)}"
            raise config.error(f"num_attention_heads_per_layer[{i}]", reason)
        heads = Heads(shape.hidden, count, shape.kv_heads, shape.head_dim)
        made[count, w] = Attention(
            heads.hidden, heads.heads, heads.kv_heads, heads.head_dim, window if w else 0, bias, bias, heads.head_norm,
            gated=gating == "per-element", head_gate=gating in (True, "per-head"),
        )  # fmt: skip
    mixers = [made[pair] for pair in zip(counts, windowed, strict=True)]
    return assemble(config, stack(mixers, read_blocks(config, shape.hidden, layers, router_bias=True, first=1)))


@family("InklingForCausalLM", "InklingForConditionalGeneration", types=("inkling_text", "inkling_mm_model"))
def inkling(config: Config) -> ModelSpec:
    """Inkling: other head counts in layers with a window, relative positions, short convolutions on four streams.

    A query has `d_rel` separate values for positions; convolutions of a few taps follow keys, values and both parts.
    """
    layers, hidden = config.layers(), config.size("hidden_size")
    heads, kv = config.size("num_attention_heads"), config.size("num_key_value_heads")
    dim, rel, taps = config.size("head_dim"), config.count("d_rel"), config.size("conv_kernel_size", default=4)
    words = config.words("layer_types", layers, ("hybrid", "hybrid_sliding"))
    windowed = [word == "hybrid_sliding" for word in words] if words else [i % 6 != 5 for i in range(layers)]
    window, extent = (config.size("sliding_window_size", "sliding_window"), config.size("rel_extent", default=1024))
    relative = (
        (heads, kv, dim, 0, extent),
        (config.size("swa_num_attention_heads", default=heads), config.size("swa_num_key_value_heads", default=kv),
         config.size("swa_head_dim", default=dim), window, min(window, extent)),
    )  # fmt: skip
    made = []
    for count, groups, width, seen, reach in relative:
        check_heads(config, hidden, count, groups, width)
        # Small weights stand with the norms of query and key: positions, and the taps of keys and values.
        small = 2 * width + rel * reach + 2 * groups * width * taps + hidden * count * rel
        made.append(Attention(hidden, count, groups, width, seen, qk_norm=small))
    blocks = read_blocks(config, hidden, layers)
    extra = layers * 2 * hidden * taps + hidden * config.count("n_shared_experts") * blocks.count(blocks[-1])
    return assemble(
        config, stack([made[w] for w in windowed], blocks), extra=extra, heads=mtp_heads(config), tied=False
    )
