"""Decoders with grouped attention and mixtures of experts.

MiniMax-M3: grouped attention, sparse in all but the first layers, experts as in M2.
"""

from __future__ import annotations

from ..layers import BlockSparseAttention, FeedForward, LayerKind, MixtureOfExperts
from ..model import ModelSpec
from .config import Config
from .families import family
from .parts import Block, assemble, check_heads, read_blocks, read_experts, read_ffn, read_heads, read_windows, stack


def roped_layers(config: Config, layers: int) -> list[bool]:
    """Return which layers apply rotary positions to keys: all but every fourth, if the file does not say."""
    every = config.size("no_rope_layer_interval", default=4)
    told = config.switches("no_rope_layers", layers) if config.items("no_rope_layers") else None
    return told or [(i + 1) % every != 0 for i in range(layers)]


@family("MiniMaxM2ForCausalLM", types=("minimax_m2",))
def minimax_m2(config: Config) -> ModelSpec:
    """MiniMax-M2: norms over the whole projections, routing bias; MTP modules are left out."""
    kinds = config.items("attn_type_list") or ()
    if any(kind != 1 for kind in kinds):
        raise config.error("attn_type_list", "has linear attention (0); only softmax attention (1) is supported")
    shape = read_heads(config, head_dim=128)
    norm = shape.full_norm if config.flag("use_qk_norm", True) else 0
    mixers = shape.attention(read_windows(config, config.layers()), qk_norm=norm)
    experts = read_experts(
        config,
        shape.hidden,
        config.size("intermediate_size"),
        shared_width=config.count("shared_intermediate_size"),
        router_bias=config.flag("use_routing_bias", True),
    )
    return assemble(config, stack(mixers, experts))


@family("Llama4ForCausalLM", types=("llama4_text",))
def llama4(config: Config) -> ModelSpec:
    """Llama 4 text model: one shared expert; three of four layers attend within chunks.

    ``intermediate_size`` is the experts' width, ``intermediate_size_mlp`` the dense layers'.
    """
    shape, layers = read_heads(config, head_dim=128), config.layers()
    rope = roped_layers(config, layers)
    windows = read_windows(config, layers, slides=lambda i: rope[i], key="attention_chunk_size", default=8192)
    bias = config.flag("attention_bias", False)
    mixers = shape.attention(windows, qkv_bias=bias, out_bias=bias)
    step = config.size("interleave_moe_layer_step", default=1)
    sparse = config.indices("moe_layers", layers)
    if sparse is None:
        sparse = frozenset(range(step - 1, layers, step))
    width = config.size("intermediate_size")
    experts = read_experts(config, shape.hidden, width, shared_width=width)
    dense = [read_ffn(config, shape.hidden, key="intermediate_size_mlp")] if len(sparse) < layers else []
    blocks = [experts if i in sparse else dense[0] for i in range(layers)]
    return assemble(config, stack(mixers, blocks))


@family("DbrxForCausalLM", types=("dbrx",))
def dbrx(config: Config) -> ModelSpec:
    """DBRX: its own keys, norms without biases."""
    attn, ffn = config.section("attn_config"), config.section("ffn_config")
    hidden, heads = config.size("d_model"), config.size("n_heads")
    groups = attn.size("kv_n_heads")
    shape = check_heads(config, hidden, heads, groups, keys=("n_heads", "attn_config.kv_n_heads"))
    mixers = shape.attention([0] * config.layers("n_layers"))
    experts = read_experts(ffn, hidden, ffn.size("ffn_hidden_size"), experts=("moe_num_experts",), top_k=("moe_top_k",))
    return assemble(config, stack(mixers, experts))


@family("Grok1ForCausalLM", "Grok1ModelForCausalLM", "Grok2ForCausalLM", types=("grok-1", "git"))
def grok(config: Config) -> ModelSpec:
    """Grok-1, and Grok-2 with a dense block in parallel with its narrower experts."""
    shape = read_heads(config)
    mixers = shape.attention([0] * config.layers())
    width = config.size("intermediate_size")
    residual = config.flag("residual_moe", False)
    experts = read_experts(
        config,
        shape.hidden,
        config.size("moe_intermediate_size", default=width),
        residual_width=width if residual else 0,
    )
    return assemble(config, stack(mixers, experts, norms=4), tied=not residual)


@family("GLaM", "GlamForCausalLM", types=("glam",))
def glam(config: Config) -> ModelSpec:
    """GLaM, a paper model (arXiv 2112.06905): experts in every ``moe_layer_freq``-th layer.

    ``expert_ffn_matrices`` and ``dense_ffn_matrices`` are keys of this project.
    """
    shape, layers = read_heads(config, mha=True), config.layers()
    every = config.size("moe_layer_freq", default=2)
    width = config.size("intermediate_size")
    counts = {key: config.size(key, default=2) for key in ("expert_ffn_matrices", "dense_ffn_matrices")}
    for key, count in counts.items():
        if count not in (2, 3):
            raise config.error(key, f"must be 2 or 3, not {count}")
    experts = read_experts(config, shape.hidden, width, matrices=counts["expert_ffn_matrices"])
    dense = FeedForward(shape.hidden, width, counts["dense_ffn_matrices"])
    blocks = [experts if (i + 1) % every == 0 else dense for i in range(layers)]
    return assemble(config, stack(shape.attention([0] * layers), blocks), tied=True)


@family("ArcticForCausalLM", types=("arctic",))
def arctic(config: Config) -> ModelSpec:
    """Snowflake Arctic: a dense residual block, as wide as the model, in parallel with the experts."""
    shape, layers = read_heads(config, mha=True), config.layers()
    every = config.size("moe_layer_frequency", default=2)
    residual = config.flag("parallel_attn_mlp_res", False)
    experts = read_experts(
        config, shape.hidden, config.size("intermediate_size"), residual_width=shape.hidden if residual else 0
    )
    dense = read_ffn(config, shape.hidden)
    blocks = [experts if (i + 1) % every == 0 else dense for i in range(layers)]
    extra = shape.hidden * residual * blocks.count(experts)  # the residual block's norm
    return assemble(config, stack(shape.attention([0] * layers), blocks), extra=extra)


@family("DeepSpeedMoE", types=("deepspeed_moe",))
def deepspeed_moe(config: Config) -> ModelSpec:
    """DeepSpeed-MoE: GPT with experts in every second layer, in parallel with the dense block in PR-MoE.

    ``num_experts`` is one number, or one for each layer with experts (pyramid). No config.json of the
    authors' exists; the keys are the other families'.
    """
    hidden, layers = config.size("hidden_size"), config.layers()
    heads = config.size("num_attention_heads")
    shape = check_heads(config, hidden, heads, heads)
    width = config.size("intermediate_size", default=4 * hidden)
    step = config.size("moe_layer_freq", default=2)
    sparse = [i for i in range(layers) if (i + 1) % step == 0]
    top_k, residual = config.size("num_experts_per_tok", default=1), config.flag("residual_moe", False)
    counts = _pyramid(config, len(sparse))
    dense = FeedForward(hidden, width, 2, bias=True)
    blocks: list[Block] = [dense] * layers
    for i, count in zip(sparse, counts, strict=True):
        if top_k > count:
            raise config.error("num_experts_per_tok", f"must be at most the {count} experts, not {top_k}")
        blocks[i] = MixtureOfExperts(
            hidden, count, top_k, width, matrices=2, expert_bias=True, residual_width=width if residual else 0
        )
    mixers = shape.attention([0] * layers, qkv_bias=True, out_bias=True)
    extra = config.size("max_position_embeddings") * hidden
    return assemble(config, stack(mixers, blocks, norm_width=2 * hidden), tied=True, extra=extra, final_norm=2 * hidden)


def _pyramid(config: Config, layers: int) -> list[int]:
    """Return the number of experts of each layer that has experts."""
    experts = config.values.get("num_experts")
    if not isinstance(experts, list):
        return [config.experts("num_experts")] * layers
    if len(experts) != layers or any(type(n) is not int or n < 1 for n in experts):
        raise config.error("num_experts", f"must hold a count for each of the {layers} layers with experts")
    return experts


SPARSE = "sparse_attention_config"


@family(
    "MiniMaxM3ForCausalLM", "MiniMaxM3SparseForCausalLM", types=("minimax_m3", "minimax_m3_text", "minimax_m3_sparse")
)
def minimax_m3(config: Config) -> ModelSpec:
    """MiniMax-M3: block-sparse attention with index keys, a shared expert, dense layers first."""
    shape, layers = read_heads(config), config.layers()
    norm = shape.head_norm if config.flag("use_qk_norm", True) else 0
    gated = config.flag("attention_output_gate", False)
    dense = shape.attention([0], qk_norm=norm, gated=gated)[0]
    mixers: list[LayerKind] = [dense] * layers
    if config.has(SPARSE):
        s = config.section(SPARSE)
        sparse = BlockSparseAttention(
            dense, s.size("sparse_block_size"), s.size("sparse_topk_blocks"),
            s.size("sparse_num_index_heads"), s.size("sparse_index_dim"),
        )  # fmt: skip
        if s.flag("use_sparse_attention", True):
            chosen = s.switches("sparse_attention_freq", layers)
            mixers = [sparse if chosen is None or chosen[i] else dense for i in range(layers)]
    blocks = read_blocks(config, shape.hidden, layers, router_bias=config.flag("use_routing_bias", False))
    heads = config.count("num_mtp_modules", "num_nextn_predict_layers")
    return assemble(config, stack(mixers, blocks), heads=heads)
