"""Hybrids of linear and other attention: Kimi-Linear, Ling-3.0, and OLMo's hybrid with delta nets.

Models with unusual mixers: Jamba, Qwen3-Next, Qwen3.5 and JetMoE.

Qwen4-Exp: delta nets, grouped attention to pools that an indexer chose, hashed n-grams, mixed residual streams.
"""

from __future__ import annotations

from dataclasses import replace

from ..layers import (
    BlockSparseAttention,
    ExpertAttention,
    GatedDeltaNet,
    Indexer,
    KimiDelta,
    LayerKind,
    Mamba,
    SparseLatentAttention,
)
from ..model import ModelSpec
from .config import Config
from .decoders import mtp_heads
from .deepseek import indexing, mixed
from .families import family
from .mamba import state_format
from .parts import assemble, periodic, read_blocks, read_experts, read_ffn, read_heads, read_latent, read_windows, stack

KINDS = ("linear_attention", "full_attention")


def delta_net(config: Config, hidden: int) -> GatedDeltaNet:
    """Read a gated delta net under Qwen3-Next's keys."""
    key, value = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    if value % key:
        raise config.error("linear_num_key_heads", f"must divide the {value} linear value heads")
    return GatedDeltaNet(
        hidden=hidden, key_heads=key, value_heads=value, key_dim=config.size("linear_key_head_dim"),
        value_dim=config.size("linear_value_head_dim"), d_conv=config.size("linear_conv_kernel_dim", default=4),
        state_format=state_format(config, "mamba_ssm_dtype"),
    )  # fmt: skip


@family("KimiLinearForCausalLM", "KimiK3LinearForCausalLM", types=("kimi_linear", "kimi_k3_text"))
def kimi_linear(c: Config) -> ModelSpec:
    """Kimi-Linear and Kimi-K3: three layers of KDA to one of latent attention, DeepSeek-V3's experts.

    K3 has gates with full matrices and experts on half the width. Every 12 layers it reads earlier blocks' outputs
    (four weights per unit of width in each layer).
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
    full = s.layer_numbers("full_attn_layers", layers)
    latent = read_latent(c, c.size("v_head_dim") if c.flag("mla_use_output_gate", False) else 0)
    mixers: list[LayerKind] = [latent if i + 1 in full else delta for i in range(layers)]
    extra = 4 * delta.hidden * layers if c.has("attn_res_block_size") else 0
    blocks = read_blocks(c, delta.hidden, layers, router_bias=True)
    return assemble(c, stack(mixers, blocks), extra=extra, heads=mtp_heads(c))


@family("BailingHybridForCausalLM", "BailingMoeV3ForCausalLM", types=("bailing_hybrid", "bailing_moe_v3"))
def bailing_hybrid(config: Config) -> ModelSpec:
    """Ling-3.0: KDA, latent attention at the end of each group of layers, many small experts.

    Both gates of KDA have full matrices, and latent attention has one gate per head. The number of weights then
    equals the count of transformers, 124.4142 B, to four digits.
    """
    layers = config.layers()
    kinds = periodic(config, layers, KINDS, config.size("layer_group_size", default=6))
    delta = KimiDelta(
        hidden=config.size("hidden_size"), heads=config.size("linear_num_heads", "num_attention_heads"),
        head_dim=config.size("linear_head_dim", default=128),
        d_conv=config.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4),
        full_gate=True, full_decay=True,
    )  # fmt: skip
    latent = read_latent(config, gate_dim=1)
    mixers: list[LayerKind] = [latent if kind == KINDS[1] else delta for kind in kinds]
    return assemble(
        config, stack(mixers, read_blocks(config, delta.hidden, layers, router_bias=True)), heads=mtp_heads(config)
    )


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
    sparse = [SparseLatentAttention(read_latent(c), index, not runs) for runs in indexing(c)]
    mixers: list[LayerKind] = [delta if one else sparse[i] for i, one in enumerate(linear)]
    made = stack(mixers, read_blocks(c, delta.hidden, layers, router_bias=True, first=3))
    streams = c.size("hc_mult", default=4)
    return assemble(c, tuple(replace(layer, streams=streams) for layer in made), heads=mtp_heads(c))


@family("OlmoHybridForCausalLM", types=("olmo_hybrid",))
def olmo_hybrid(config: Config) -> ModelSpec:
    """OLMo hybrid: delta nets, and every fourth layer of full attention with whole-width norms."""
    shape, layers = read_heads(config), config.layers()
    kinds = periodic(config, layers, KINDS, 4)
    attention = shape.attention([0], qkv_bias=config.flag("attention_bias", False), qk_norm=shape.full_norm)[0]
    delta = delta_net(config, shape.hidden)
    mixers: list[LayerKind] = [attention if kind == KINDS[1] else delta for kind in kinds]
    return assemble(config, stack(mixers, read_ffn(config, shape.hidden)))


@family("JambaForCausalLM", types=("jamba",))
def jamba(config: Config) -> ModelSpec:
    """Jamba: one attention layer per period among Mamba layers, experts every other layer."""
    shape, layers = read_heads(config), config.layers()
    hidden = shape.hidden
    windows = read_windows(config, layers)
    attends = _periodic(config, "attn_layer", layers, period=8, offset=4)
    mamba = Mamba(
        hidden=hidden,
        inner=config.size("mamba_expand", default=2) * hidden,
        d_state=config.size("mamba_d_state", default=16),
        d_conv=config.size("mamba_d_conv", default=4),
        dt_rank=_dt_rank(config, hidden),
    )
    attention = shape.attention(windows)
    mixers: list[LayerKind] = [attention[i] if attends[i] else mamba for i in range(layers)]
    dense: LayerKind = read_ffn(config, hidden)
    blocks = [dense] * layers
    if config.size("num_experts", default=16) > 1:
        experts = read_experts(config, hidden, config.size("intermediate_size"), experts=("num_experts",))
        sparse = _periodic(config, "expert_layer", layers, period=2, offset=1)
        blocks = [experts if s else dense for s in sparse]
    return assemble(config, stack(mixers, blocks))


def _dt_rank(config: Config, hidden: int) -> int:
    """Return the rank of the time step; ``"auto"`` means a sixteenth of the hidden size, rounded up."""
    if config.values.get("mamba_dt_rank", "auto") == "auto":
        return -(-hidden // 16)
    return config.size("mamba_dt_rank")


def _periodic(config: Config, stem: str, layers: int, *, period: int, offset: int) -> list[bool]:
    """Return which layers ``<stem>_period`` and ``<stem>_offset`` select."""
    every = config.size(f"{stem}_period", default=period)
    first = config.count(f"{stem}_offset", default=min(offset, every - 1))
    if first >= every:
        raise config.error(f"{stem}_offset", f"must be below the period {every}, not {first}")
    return [i % every == first for i in range(layers)]


@family(
    "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM",
    types=("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)  # fmt: skip
def qwen3_next(config: Config) -> ModelSpec:
    """Qwen3-Next and Qwen3.5: gated DeltaNet layers, every fourth is gated attention."""
    shape, layers = read_heads(config, head_dim=256), config.layers()
    kinds = periodic(config, layers, KINDS, config.size("full_attention_interval", default=4))
    bias = config.flag("attention_bias", False)
    attention = shape.attention([0], qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm, gated=True)[0]
    delta = delta_net(config, shape.hidden)
    mixers: list[LayerKind] = [attention if kind == KINDS[1] else delta for kind in kinds]
    blocks = read_blocks(config, shape.hidden, layers, shared_gate=True)
    # The head's layer is one of full attention (vllm-project/vllm, qwen3_next_mtp.py). Qwen3-Next's
    # file has no key for it, its checkpoint has one head (`mtp.layers.0`); Qwen3.5's says how many.
    shared = 1 if config.architecture.lower().startswith(("qwen3nextfor", "qwen3_next")) else 0
    heads = config.count("mtp_num_hidden_layers", "num_nextn_predict_layers", default=shared)
    return assemble(config, stack(mixers, blocks), head=stack([attention], blocks[-1:])[0], heads=heads)


@family("JetMoEForCausalLM", "JetMoeForCausalLM", types=("jetmoe",))
def jetmoe(config: Config) -> ModelSpec:
    """JetMoE: query and output projections are experts too; tied."""
    hidden, layers = config.size("hidden_size"), config.layers("num_hidden_layers", "num_layers")
    experts = read_experts(
        config,
        hidden,
        config.size("ffn_hidden_size", "intermediate_size"),
        experts=("moe_num_experts", "num_local_experts"),
        top_k=("moe_top_k", "num_experts_per_tok"),
    )
    attention = ExpertAttention(
        hidden=hidden,
        kv_heads=config.size("num_key_value_heads"),
        head_dim=config.size("kv_channels", default=128),
        experts=experts.experts,
        top_k=experts.top_k,
    )
    heads = config.optional("num_attention_heads")
    if heads is not None and heads != attention.kv_heads * attention.top_k:
        raise config.error(
            "num_attention_heads",
            f"must be the key/value heads times the experts of a token, "
            f"{attention.kv_heads * attention.top_k}, not {heads}",
        )
    # The feed-forward experts share one output bias per layer.
    return assemble(config, stack([attention] * layers, experts), tied=True, extra=layers * hidden)


INDEXED = ("linear_attention", "full_attention", "indexed_attention")


@family("Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration", types=("qwen4_exp_text", "qwen4_exp"))
def qwen4_exp(config: Config) -> ModelSpec:
    """Qwen4-Exp: Qwen3.5's layers, every fourth reads the best pools; low-rank mixers of the residual streams.

    Mixers and n-gram tables are counted by their weights; their time is not.
    """
    shape, layers = read_heads(config, head_dim=256), config.layers()
    hidden = shape.hidden
    kinds = periodic(config, layers, INDEXED, config.size("full_attention_interval", default=4))
    bias = config.flag("attention_bias", False)
    attention: LayerKind = shape.attention([0], qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm, gated=True)[0]
    if config.has("indexer_n_heads"):
        pool, budget = config.size("indexer_compress_ratio"), config.size("indexer_budget")
        if config.size("indexer_kv_heads", default=1) != 1:
            raise config.error("indexer_kv_heads", "must be 1: only indexers with one key head are supported")
        if budget % pool:
            raise config.error("indexer_budget", f"must be a multiple of indexer_compress_ratio, {pool}")
        heads, dim = config.size("indexer_n_heads"), config.size("indexer_head_dim")
        attention = BlockSparseAttention(attention, pool, budget // pool, heads, dim, pool)  # type: ignore[arg-type]  # it is an Attention
    delta = delta_net(config, hidden)
    mixers = [delta if kind == INDEXED[0] else attention for kind in kinds]
    streams, rank = config.size("hc_count", default=4), config.size("hc_lowrank", default=320)
    wide = streams * hidden
    mixing = wide * (1 + 2 * rank)  # of two parts a layer, and before the head
    extra = mixing + 2 * layers * (mixing + wide * streams) + _ngrams(config, hidden, wide)
    made = stack(mixers, read_blocks(config, hidden, layers, shared_gate=True), norm_width=0)
    spec = assemble(config, made, extra=extra, final_norm=0)
    return replace(spec, notes=(*spec.notes, mixed(config, streams)))


def _ngrams(config: Config, hidden: int, wide: int) -> int:
    """Return the weights of all hashed n-grams: tables (of primes from the base on), projections and taps."""
    ids = config.layer_numbers("ple_layer_ids", config.layers())
    width = config.size("ple_embed_dim", default=hidden)
    table = config.size("ngram_vocab_size_base", default=20_000_000) * width
    taps = config.size("ple_conv_kernel_size", default=4)
    return len(set(ids)) * (table + width * (wide + hidden) + wide * (3 + taps))
