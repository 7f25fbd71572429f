"""Qwen4-Exp: delta nets, grouped attention to pools that an indexer chose, hashed n-grams, mixed residual streams."""

from __future__ import annotations

from dataclasses import replace

from ..layers import BlockSparseAttention, LayerKind
from ..model import ModelSpec
from .config import Config
from .families import family
from .latent import mixed
from .linear import delta_net
from .moe import qwen_blocks
from .parts import assemble, read_heads, stack

KINDS = ("linear_attention", "full_attention", "indexed_attention")


@family("Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration", types=("qwen4_exp_text", "qwen4_exp"))
def qwen4_exp(config: Config) -> ModelSpec:
    """Qwen4-Exp: Qwen3.5's layers, every fourth reads the best pools; low-rank mixers of the residual streams.

    Mixers and n-gram tables are counted by their weights; their time is not.
    """
    shape, layers = read_heads(config, head_dim=256), config.layers()
    hidden = shape.hidden
    kinds = config.words("layer_types", layers, KINDS)
    if kinds is None:
        every = config.size("full_attention_interval", default=4)
        kinds = tuple(KINDS[2 * ((i + 1) % every == 0)] for i in range(layers))
    bias = config.flag("attention_bias", False)
    attention: LayerKind = shape.attention([0], qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm, gated=True)[0]
    if config.has("indexer_n_heads"):
        pool, budget = config.size("indexer_compress_ratio"), config.size("indexer_budget")
        if config.size("indexer_kv_heads", default=1) != 1:
            raise config.error("indexer_kv_heads", "must be 1: an indexer has one key")
        if budget % pool:
            raise config.error("indexer_budget", f"must be a multiple of indexer_compress_ratio, {pool}")
        heads, dim = config.size("indexer_n_heads"), config.size("indexer_head_dim")
        attention = BlockSparseAttention(attention, pool, budget // pool, heads, dim, pool)  # type: ignore[arg-type]  # it is an Attention
    delta = delta_net(config, hidden)
    mixers = [delta if kind == KINDS[0] else attention for kind in kinds]
    streams, rank = config.size("hc_count", default=4), config.size("hc_lowrank", default=320)
    wide = streams * hidden
    mixing = wide * (1 + 2 * rank)  # of two parts a layer, and before the head
    extra = mixing + 2 * layers * (mixing + wide * streams) + _ngrams(config, hidden, wide)
    made = stack(mixers, qwen_blocks(config, hidden, layers), norm_width=0)
    spec = assemble(config, made, extra=extra, final_norm=0)
    return replace(spec, notes=(*spec.notes, mixed(config, streams)))


def _ngrams(config: Config, hidden: int, wide: int) -> int:
    """Weights of the hashed n-grams of the layers that have some: tables (of primes from the base on), products, taps."""
    ids = config.items("ple_layer_ids") or []
    layers = config.layers()
    for i, layer in enumerate(ids):  # counted from 1
        if type(layer) is not int or not 1 <= layer <= layers:
            raise config.error(f"ple_layer_ids[{i}]", f"must be a layer from 1 to {layers}")
    width = config.size("ple_embed_dim", default=hidden)
    table = config.size("ngram_vocab_size_base", default=20_000_000) * width
    taps = config.size("ple_conv_kernel_size", default=4)
    return len(set(ids)) * (table + width * (wide + hidden) + wide * (3 + taps))
