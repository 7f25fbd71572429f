"""Hybrids of linear and latent attention: Kimi-Linear, Ling-3.0, and OLMo's of delta nets."""

from __future__ import annotations

from dataclasses import replace

from ..layers import GatedDeltaNet, Indexer, KimiDelta, LayerKind, SparseLatentAttention
from ..model import ModelSpec
from .config import Config
from .deepseek import MTP, attention_of, first_dense, indexing
from .families import family
from .parts import assemble, read_experts, read_ffn, read_heads, stack, state_format

KINDS = ("linear_attention", "full_attention")


def delta_net(config: Config, hidden: int) -> GatedDeltaNet:
    """The gated delta net of a file in Qwen3-Next's keys."""
    key, value = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    if value % key:
        raise config.error("linear_num_key_heads", f"must divide the {value} linear value heads")
    return GatedDeltaNet(
        hidden=hidden, key_heads=key, value_heads=value, key_dim=config.size("linear_key_head_dim"),
        value_dim=config.size("linear_value_head_dim"), d_conv=config.size("linear_conv_kernel_dim", default=4),
        state_format=state_format(config, "mamba_ssm_dtype"),
    )  # fmt: skip


def _blocks(config: Config, hidden: int, layers: int, dense: int = 0) -> list[LayerKind]:
    width = config.size("moe_intermediate_size")
    experts = read_experts(
        config, hidden, width, experts=("num_experts", "n_routed_experts"),
        top_k=("num_experts_per_token", "num_experts_per_tok"),
        shared_width=config.count("num_shared_experts", "n_shared_experts") * width, router_bias=True,
        groups="num_expert_group",
    )  # fmt: skip
    latent = config.count("routed_expert_hidden_size")
    if latent:  # Kimi-K3: experts work on a narrower copy of the tokens
        normed = config.flag("latent_moe_use_norm", False)
        experts = replace(experts, latent=latent, latent_norm=normed)
    return list(first_dense(config, hidden, layers, experts, dense))


@family("KimiLinearForCausalLM", "KimiK3LinearForCausalLM", types=("kimi_linear", "kimi_k3_text"))
def kimi_linear(c: Config) -> ModelSpec:
    """Kimi-Linear and Kimi-K3: three layers of KDA to one of latent attention, DeepSeek-V3's experts.

    K3 has gates of whole matrices, experts on half the width, and every 12 layers reads what the blocks before left
    (four weights a unit of width in each layer).
    """
    layers = c.layers()
    kinds = c.words("layer_types", layers, KINDS)
    if kinds is not None and not c.has("linear_attn_config"):  # as transformers 5 writes it
        config = c.but(linear_attn_config={
            "num_heads": c.size("linear_num_heads"), "head_dim": c.size("linear_head_dim"),
            "short_conv_kernel_size": c.size("linear_conv_kernel_dim", default=4),
            "full_attn_layers": [i + 1 for i, kind in enumerate(kinds) if kind == KINDS[1]],
        })  # fmt: skip
        return kimi_linear(config)
    s = c.section("linear_attn_config")
    full_rank = s.flag("use_full_rank_gate", False)
    delta = KimiDelta(
        hidden=c.size("hidden_size"), heads=s.size("num_heads"), head_dim=s.size("head_dim"),
        d_conv=s.size("short_conv_kernel_size", default=4), full_gate=full_rank,
        decays=s.size("head_dim") if full_rank else 0,
    )  # fmt: skip
    full = s.items("full_attn_layers") or []
    for i, layer in enumerate(full):  # counted from 1
        if type(layer) is not int or not 1 <= layer <= layers:
            raise s.error(f"full_attn_layers[{i}]", f"must be a layer from 1 to {layers}")
    latent = attention_of(c, c.size("v_head_dim") if c.flag("mla_use_output_gate", False) else 0)
    mixers: list[LayerKind] = [latent if i + 1 in full else delta for i in range(layers)]
    extra = 4 * delta.hidden * layers if c.has("attn_res_block_size") else 0
    blocks = _blocks(c, delta.hidden, layers)
    return assemble(c, stack(mixers, blocks), extra=extra, heads=c.count(MTP))


@family("BailingHybridForCausalLM", "BailingMoeV3ForCausalLM", types=("bailing_hybrid", "bailing_moe_v3"))
def bailing_hybrid(config: Config) -> ModelSpec:
    """Ling-3.0: KDA, latent attention at the end of each group of layers, many small experts.

    Whole matrices for both gates of KDA, and one gate a head of latent attention: with them the count
    is that of transformers, 124.4142 B, to four digits.
    """
    layers = config.layers()
    kinds = config.words("layer_types", layers, KINDS)
    if kinds is None:
        every = config.size("layer_group_size", default=6)
        kinds = tuple(KINDS[(i + 1) % every == 0] for i in range(layers))
    delta = KimiDelta(
        hidden=config.size("hidden_size"), heads=config.size("linear_num_heads", "num_attention_heads"),
        head_dim=config.size("linear_head_dim", default=128),
        d_conv=config.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4),
        full_gate=True, full_decay=True,
    )  # fmt: skip
    latent = attention_of(config, gate_dim=1)
    mixers: list[LayerKind] = [latent if kind == KINDS[1] else delta for kind in kinds]
    return assemble(config, stack(mixers, _blocks(config, delta.hidden, layers)), heads=config.count(MTP))


@family("Glm5NextForCausalLM", "Glm5NextForConditionalGeneration", types=("glm5_next_text",))
def glm5_next(c: Config) -> ModelSpec:
    """GLM-5.3-Flash: KDA, every fourth layer latent attention to pools that an indexer chose, residual streams."""
    layers, pool = c.layers(), c.size("index_kpool", default=16)
    kinds = c.words("layer_types", layers, (*KINDS, "indexed_attention"))
    linear = [kind == KINDS[0] for kind in kinds] if kinds else [i % 4 != 3 for i in range(layers)]
    config = c.section("linear_attn_config") if c.has("linear_attn_config") else c
    delta = KimiDelta(
        hidden=c.size("hidden_size"), heads=config.size("linear_num_heads", "num_heads"),
        head_dim=config.size("linear_head_dim", "head_dim"),
        d_conv=config.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4),
    )  # fmt: skip
    if c.size("index_topk") % pool:
        raise c.error("index_topk", f"must be a multiple of index_kpool, {pool}")
    index = Indexer(c.size("index_n_heads"), c.size("index_head_dim"), c.size("index_topk") // pool, pool)
    sparse = [SparseLatentAttention(attention_of(c), index, not runs) for runs in indexing(c)]
    mixers: list[LayerKind] = [delta if one else sparse[i] for i, one in enumerate(linear)]
    made = stack(mixers, _blocks(c, delta.hidden, layers, dense=3))
    streams = c.size("hc_mult", default=4)
    return assemble(c, tuple(replace(layer, streams=streams) for layer in made), heads=c.count(MTP))


@family("OlmoHybridForCausalLM", types=("olmo_hybrid",))
def olmo_hybrid(config: Config) -> ModelSpec:
    """OLMo hybrid: delta nets, and every fourth layer of full attention with whole-width norms."""
    shape, layers = read_heads(config), config.layers()
    kinds = config.words("layer_types", layers, KINDS)
    if kinds is None:
        kinds = tuple(KINDS[(i + 1) % 4 == 0] for i in range(layers))
    attention = shape.attention([0], qkv_bias=config.flag("attention_bias", False), qk_norm=shape.full_norm)[0]
    delta = delta_net(config, shape.hidden)
    mixers: list[LayerKind] = [attention if kind == KINDS[1] else delta for kind in kinds]
    return assemble(config, stack(mixers, read_ffn(config, shape.hidden)))
