"""Hybrids of linear and latent attention: Kimi-Linear, Ling-3.0, and OLMo's of delta nets."""

from __future__ import annotations

from dataclasses import replace

from ..layers import GatedDeltaNet, KimiDelta, LatentAttention, LayerKind
from ..model import ModelSpec
from .config import Config
from .deepseek import MTP, first_dense
from .families import family
from .parts import assemble, read_experts, read_ffn, read_heads, stack, state_format

KINDS = ("linear_attention", "full_attention")


def _latent(c: Config, gate_dim: int = 0) -> LatentAttention:
    return LatentAttention(
        hidden=c.size("hidden_size"), heads=c.size("num_attention_heads"),
        q_rank=c.count("q_lora_rank"), kv_rank=c.size("kv_lora_rank"),
        nope_dim=c.size("qk_nope_head_dim"), rope_dim=c.size("qk_rope_head_dim"),
        v_dim=c.size("v_head_dim"), bias=c.flag("attention_bias", False),
        gate_dim=gate_dim,
    )  # fmt: skip


def _blocks(c: Config, hidden: int, layers: int) -> list[LayerKind]:
    width = c.size("moe_intermediate_size")
    experts = read_experts(
        c, hidden, width, experts=("num_experts", "n_routed_experts"),
        top_k=("num_experts_per_token", "num_experts_per_tok"),
        shared_width=c.count("num_shared_experts", "n_shared_experts") * width, router_bias=True,
        groups="num_expert_group",
    )  # fmt: skip
    latent = c.count("routed_expert_hidden_size")
    if latent:  # Kimi-K3: experts work on a narrower copy of the tokens
        normed = c.flag("latent_moe_use_norm", False)
        experts = replace(experts, latent=latent, latent_norm=normed)
    return list(first_dense(c, hidden, layers, experts))


@family("KimiLinearForCausalLM", "KimiK3LinearForCausalLM", types=("kimi_linear", "kimi_k3_text"))
def kimi_linear(c: Config) -> ModelSpec:
    """Kimi-Linear and Kimi-K3: three layers of KDA to one of latent attention, DeepSeek-V3's experts.

    K3 has gates of whole matrices, experts on half the width, and every 12 layers reads what the blocks before left
    (four weights a unit of width in each layer).
    """
    layers = c.layers()
    kinds = c.words("layer_types", layers, KINDS)
    if kinds is not None and not c.has("linear_attn_config"):  # as transformers 5 writes it
        own = c.but(linear_attn_config={
            "num_heads": c.size("linear_num_heads"), "head_dim": c.size("linear_head_dim"),
            "short_conv_kernel_size": c.size("linear_conv_kernel_dim", default=4),
            "full_attn_layers": [i + 1 for i, kind in enumerate(kinds) if kind == KINDS[1]],
        })  # fmt: skip
        return kimi_linear(own)
    s = c.section("linear_attn_config")
    whole = s.flag("use_full_rank_gate", False)
    delta = KimiDelta(
        hidden=c.size("hidden_size"), heads=s.size("num_heads"), head_dim=s.size("head_dim"),
        d_conv=s.size("short_conv_kernel_size", default=4), full_gate=whole,
        decays=s.size("head_dim") if whole else 0,
    )  # fmt: skip
    full = s.items("full_attn_layers") or []
    for i, layer in enumerate(full):  # counted from 1
        if type(layer) is not int or not 1 <= layer <= layers:
            raise s.error(f"full_attn_layers[{i}]", f"must be a layer from 1 to {layers}")
    latent = _latent(c, c.size("v_head_dim") if c.flag("mla_use_output_gate", False) else 0)
    mixers: list[LayerKind] = [latent if i + 1 in full else delta for i in range(layers)]
    extra = 4 * delta.hidden * layers if c.has("attn_res_block_size") else 0
    blocks = _blocks(c, delta.hidden, layers)
    return assemble(c, stack(mixers, blocks), extra=extra, heads=c.count(MTP))


@family("BailingHybridForCausalLM", "BailingMoeV3ForCausalLM",
        types=("bailing_hybrid", "bailing_moe_v3"))  # fmt: skip
def bailing_hybrid(c: Config) -> ModelSpec:
    """Ling-3.0: KDA, latent attention at the end of each group of layers, many small experts.

    Whole matrices for both gates of KDA, and one gate a head of latent attention: with them the count
    is transformers' own, 124.4142 B, to four digits.
    """
    layers = c.layers()
    kinds = c.words("layer_types", layers, KINDS)
    if kinds is None:
        every = c.size("layer_group_size", default=6)
        kinds = tuple(KINDS[(i + 1) % every == 0] for i in range(layers))
    delta = KimiDelta(
        hidden=c.size("hidden_size"), heads=c.size("linear_num_heads", "num_attention_heads"),
        head_dim=c.size("linear_head_dim", default=128),
        d_conv=c.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4),
        full_gate=True, full_decay=True,
    )  # fmt: skip
    latent = _latent(c, gate_dim=1)
    mixers: list[LayerKind] = [latent if kind == KINDS[1] else delta for kind in kinds]
    return assemble(c, stack(mixers, _blocks(c, delta.hidden, layers)), heads=c.count(MTP))


@family("OlmoHybridForCausalLM", types=("olmo_hybrid",))
def olmo_hybrid(c: Config) -> ModelSpec:
    """OLMo hybrid: delta nets, and every fourth layer of full attention with whole-width norms."""
    shape, layers = read_heads(c), c.layers()
    kinds = c.words("layer_types", layers, KINDS)
    if kinds is None:
        kinds = tuple(KINDS[(i + 1) % 4 == 0] for i in range(layers))
    attention = shape.attention(
        [0], qkv_bias=c.flag("attention_bias", False), qk_norm=shape.full_norm
    )[0]
    delta = GatedDeltaNet(
        hidden=shape.hidden, key_heads=c.size("linear_num_key_heads"),
        value_heads=c.size("linear_num_value_heads"), key_dim=c.size("linear_key_head_dim"),
        value_dim=c.size("linear_value_head_dim"), d_conv=c.size("linear_conv_kernel_dim", default=4),
        state_format=state_format(c, "mamba_ssm_dtype"),
    )  # fmt: skip
    mixers: list[LayerKind] = [attention if kind == KINDS[1] else delta for kind in kinds]
    return assemble(c, stack(mixers, read_ffn(c, shape.hidden)))
