"""Decoders with special keys: ChatGLM, Qwen 1, TeleChat 2, GPT-J, MPT, Persimmon, DeciLM.

Decoders with layer norms and two-matrix feed-forward blocks: OPT, GPT, Falcon and kin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..layers import Attention, FeedForward, LayerKind
from ..model import Layer, ModelSpec
from .config import Config, shown
from .families import family
from .parts import assemble, check_heads, read_ffn, read_heads, stack


@family("ChatGLMModel", "ChatGLMForConditionalGeneration", "GLM4VForCausalLM", types=("chatglm",))
def chatglm(config: Config) -> ModelSpec:
    """ChatGLM 2 and 3, GLM-4-9B as first published: few key/value heads, biases on query, key and value."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    groups = config.size("multi_query_group_num", default=1) if config.flag("multi_query_attention", False) else heads
    shape = check_heads(
        config, hidden, heads, groups, config.optional("kv_channels"), ("num_attention_heads", "multi_query_group_num")
    )
    bias = config.flag("add_bias_linear", False)
    mixers = shape.attention(
        [0] * config.layers("num_layers", "num_hidden_layers"),
        qkv_bias=bias or config.flag("add_qkv_bias", False),
        out_bias=bias,
    )
    ffn = read_ffn(config, hidden, key="ffn_hidden_size", bias=bias)
    vocab = config.size("padded_vocab_size", "vocab_size")
    return assemble(config.but(vocab_size=vocab), stack(mixers, ffn))


@family("QWenLMHeadModel", types=("qwen",))
def qwen1(config: Config) -> ModelSpec:
    """Qwen 1: biases on query, key and value; ``intermediate_size`` is of both halves of the gated block."""
    shape = read_heads(config, mha=True)
    width = config.size("intermediate_size")
    if width % 2:
        raise config.error(
            "intermediate_size",
            f"must be even, because it is the width of gate and up projection together, not {width}",
        )
    mixers = shape.attention([0] * config.layers(), qkv_bias=True, out_bias=not config.flag("no_bias", True))
    return assemble(config, stack(mixers, FeedForward(shape.hidden, width // 2)))


@family("TeleChat2ForCausalLM", types=("telechat",))
def telechat2(config: Config) -> ModelSpec:
    """TeleChat 2: biases on the output projections of both parts."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads", "n_head")
    groups = config.size("num_key_value_heads", default=heads)
    shape = check_heads(config, hidden, heads, groups, keys=("n_head", "num_key_value_heads"))
    mixers = shape.attention([0] * config.layers("num_hidden_layers", "n_layer"), out_bias=True)
    layers = stack(mixers, FeedForward(hidden, config.size("ffn_hidden_size", "intermediate_size")))
    return assemble(config, layers, extra=len(layers) * hidden)  # the biases of the down projections


@family("MptForCausalLM", "MPTForCausalLM", types=("mpt",))
def mpt(config: Config) -> ModelSpec:
    """MPT: ALiBi, no biases, tied."""
    hidden, heads = config.size("d_model"), config.size("n_heads")
    attn = config.section("attn_config") if config.has("attn_config") else config
    groups = attn.size("kv_n_heads", default=1 if attn.text("attn_type") == "multiquery_attention" else heads)
    shape = check_heads(config, hidden, heads, groups, keys=("n_heads", "attn_config.kv_n_heads"))
    bias = not config.flag("no_bias", True)
    mixers = shape.attention([0] * config.layers("n_layers"), qkv_bias=bias, out_bias=bias)
    ffn = FeedForward(hidden, config.size("expansion_ratio", default=4) * hidden, 2, bias)
    return assemble(config, stack(mixers, ffn), tied=True)


@family("DeciLMForCausalLM", types=("nemotron-nas", "deci"))
def deci(config: Config) -> ModelSpec:
    """Nemotron Super and Ultra of Llama's kind: every layer's parts as a search found them, some of them left out."""
    shape = read_heads(config, mha=True)
    blocks = config.items("block_configs")
    if blocks is None:
        groups = config.items("num_key_value_heads_per_layer") or [shape.kv_heads] * config.layers()
        blocks = [{"attention": {"n_heads_in_group": shape.heads // int(g)}, "ffn": {}} for g in groups]
    layers: list[Layer] = []
    for i, block in enumerate(blocks):
        parts = [
            part for part in (_attention(config, shape.heads, shape.head_dim, i, block), _ffn(config, i, block)) if part
        ]
        if parts:
            second = parts[1] if len(parts) == 2 else None
            layers.append(Layer(parts[0], second, len(parts), shape.hidden))
    if not layers:
        raise config.error("block_configs", "must keep at least one layer")
    return assemble(config, tuple(layers))


def _part(config: Config, i: int, block: Any, key: str) -> Mapping[str, Any]:
    value = block.get(key) if isinstance(block, Mapping) else None
    if not isinstance(value, Mapping):
        raise config.error(f"block_configs[{i}].{key}", f"is {shown(value)}; an object is required")
    if value.get("replace_with_linear"):
        raise config.error(
            f"block_configs[{i}].{key}.replace_with_linear",
            "is not supported; attention or FFN of a block can only be complete or absent",
        )
    return value


def _attention(config: Config, heads: int, head_dim: int, i: int, block: Any) -> LayerKind | None:
    mixer = _part(config, i, block, "attention")
    if mixer.get("no_op"):
        return None
    group = mixer.get("n_heads_in_group")
    if type(group) is not int or group < 1 or heads % group:
        reason = f"must divide the {heads} query heads, {shown(group)} does not"
        raise config.error(f"block_configs[{i}].attention.n_heads_in_group", reason)
    bias = config.flag("attention_bias", False)
    return Attention(config.size("hidden_size"), heads, heads // group, head_dim, 0, bias, bias)


def _ffn(config: Config, i: int, block: Any) -> LayerKind | None:
    kind, hidden = _part(config, i, block, "ffn"), config.size("hidden_size")
    if kind.get("no_op"):
        return None
    if isinstance(width := kind.get("intermediate_size"), int):
        return FeedForward(hidden, width)
    factor = kind.get("ffn_mult")
    if factor is None:
        return FeedForward(hidden, config.size("intermediate_size"))
    if not isinstance(factor, (int, float)) or not 0 < factor < 100:
        raise config.error(f"block_configs[{i}].ffn.ffn_mult", f"must be a number above 0, not {shown(factor)}")
    width = int(2 * factor * hidden / 3)  # rounded up to a multiple of 256, as its authors' code does
    return FeedForward(hidden, -(-width // 256) * 256)


@family("OPTForCausalLM", types=("opt",))
def opt(config: Config) -> ModelSpec:
    """OPT: learned positions, biases everywhere, tied."""
    hidden, layers = config.size("hidden_size"), config.layers()
    heads = config.size("num_attention_heads")
    shape = check_heads(config, hidden, heads, heads)
    bias = config.flag("enable_bias", True)
    norm = 2 * hidden * config.flag("layer_norm_elementwise_affine", True)
    # Positions are shifted by two (transformers' OPTLearnedPositionalEmbedding).
    extra = (config.size("max_position_embeddings") + 2) * hidden
    narrow = config.size("word_embed_proj_dim", default=hidden)
    if narrow != hidden:
        # OPT-350M: tables of another width than the model, and a projection at either end.
        extra += 2 * narrow * hidden + config.size("vocab_size") * (narrow - hidden)
    final = config.flag("do_layer_norm_before", True) and not config.flag("_remove_final_layer_norm", False)
    mixers = shape.attention([0] * layers, qkv_bias=bias, out_bias=bias)
    ffn = read_ffn(config, hidden, key="ffn_dim", matrices=2, bias=bias)
    return assemble(
        config, stack(mixers, ffn, norm_width=norm), tied=True, extra=extra, final_norm=norm if final else 0
    )


@family("FalconForCausalLM", "RWForCausalLM", types=("falcon", "RefinedWeb", "RefinedWebModel"))
def falcon(config: Config) -> ModelSpec:
    """Falcon: attention and feed-forward side by side, tied.

    Old layout (7B): one key/value head with ``multi_query``, else as many as query heads.
    New layout (40B, 180B): ``num_kv_heads`` of them.
    """
    hidden, heads = config.size("hidden_size", "n_embed"), config.size("num_attention_heads", "n_head")
    # Falcon-40B's first files name the layout only by their model type.
    new = config.flag("new_decoder_architecture", config.text("model_type") == "RefinedWeb")
    multi_query = config.flag("multi_query", True)
    kv_heads = 1 if multi_query and not new else config.size("num_kv_heads", "n_head_kv", default=heads)
    shape = check_heads(config, hidden, heads, kv_heads, keys=("num_attention_heads", "num_kv_heads"))
    parallel = new or config.flag("parallel_attn", True)
    # The new layout norms both parts' inputs apart unless told otherwise (Falcon 2).
    norms = config.size("num_ln_in_parallel_attn", default=2) if new else 2 - parallel
    bias = config.flag("bias", False)
    mixers = shape.attention([0] * config.layers("num_hidden_layers", "n_layer"), qkv_bias=bias, out_bias=bias)
    ffn = FeedForward(hidden, config.size("ffn_hidden_size", default=4 * hidden), 2, bias)
    layers = stack(mixers, ffn, norms=norms, norm_width=2 * hidden, parallel=parallel)
    return assemble(config, layers, tied=True, final_norm=2 * hidden)
