"""Decoders with layer norms and two-matrix feed-forward blocks: OPT, GPT, Falcon and kin."""

from __future__ import annotations

from ..layers import FeedForward
from ..model import ModelSpec
from .config import Config
from .families import family
from .parts import Heads, assemble, check_heads, read_ffn, read_heads, stack


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


@family("GPT2LMHeadModel", types=("gpt2",))
def gpt2(config: Config) -> ModelSpec:
    """GPT-2: learned positions, biases everywhere, tied."""
    heads = config.size("n_head")
    return _gpt2(config, check_heads(config, config.size("n_embd"), heads, heads, keys=("n_head", "n_head")))


@family("GPTBigCodeForCausalLM", types=("gpt_bigcode",))
def gpt_bigcode(config: Config) -> ModelSpec:
    """StarCoder 1: GPT-2 with one key/value head."""
    heads = config.size("n_head")
    groups = 1 if config.flag("multi_query", True) else heads
    return _gpt2(config, check_heads(config, config.size("n_embd"), heads, groups, keys=("n_head", "n_head")))


def _gpt2(config: Config, shape: Heads) -> ModelSpec:
    hidden = shape.hidden
    mixers = shape.attention([0] * config.layers("n_layer"), qkv_bias=True, out_bias=True)
    ffn = FeedForward(hidden, config.size("n_inner", default=4 * hidden), matrices=2, bias=True)
    return assemble(
        config,
        stack(mixers, ffn, norm_width=2 * hidden),
        tied=True,
        extra=config.size("n_positions") * hidden,
        final_norm=2 * hidden,
    )


@family("BloomForCausalLM", types=("bloom",))
def bloom(config: Config) -> ModelSpec:
    """BLOOM: ALiBi instead of positions, a norm on the embedding, tied."""
    hidden, heads = config.size("hidden_size", "n_embed"), config.size("num_attention_heads", "n_head")
    shape = check_heads(config, hidden, heads, heads)
    layers = config.layers("num_hidden_layers", "n_layer")
    mixers = shape.attention([0] * layers, qkv_bias=True, out_bias=True)
    ffn = FeedForward(hidden, 4 * hidden, matrices=2, bias=True)
    return assemble(
        config, stack(mixers, ffn, norm_width=2 * hidden), tied=True, extra=2 * hidden, final_norm=2 * hidden
    )


@family("GPTNeoXForCausalLM", types=("gpt_neox",))
def gpt_neox(config: Config) -> ModelSpec:
    """GPT-NeoX and Pythia: rotary, parallel parts with their own norms, untied."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    shape = check_heads(config, hidden, heads, heads)
    bias = config.flag("attention_bias", True)
    mixers = shape.attention([0] * config.layers(), qkv_bias=bias, out_bias=bias)
    layers = stack(
        mixers,
        read_ffn(config, hidden, matrices=2, bias=True),
        norm_width=2 * hidden,
        parallel=config.flag("use_parallel_residual", True),
    )
    return assemble(config, layers, final_norm=2 * hidden)


@family("PhiForCausalLM", types=("phi",))
def phi(config: Config) -> ModelSpec:
    """Phi-1.5 and Phi-2: parallel parts behind one norm, biases everywhere, the head too."""
    shape = read_heads(config, mha=True)
    hidden = shape.hidden
    mixers = shape.attention([0] * config.layers(), qkv_bias=True, out_bias=True)
    ffn = read_ffn(config, hidden, matrices=2, bias=True)
    layers = stack(mixers, ffn, norms=1, norm_width=2 * hidden, parallel=True)
    return assemble(config, layers, extra=config.size("vocab_size"), final_norm=2 * hidden)
