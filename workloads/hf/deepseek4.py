"""DeepSeek-V4: compressed attention, residual streams, experts in 4 bit, some chosen by a table."""

from __future__ import annotations

from dataclasses import replace

from ..layers import CompressedAttention, Indexer, LayerKind
from ..model import ModelSpec
from .config import Config
from .deepseek import MTP, routed_and_shared
from .families import family
from .parts import assemble, stack

CHOSEN = 4
"""Ratio of the layers whose pools an indexer chooses from."""


@family("DeepseekV4ForCausalLM", types=("deepseek_v4",))
def deepseek_v4(config: Config) -> ModelSpec:
    """DeepSeek-V4: windows and pools of 4 or 128 tokens, hyper-connections, hash-routed layers first."""
    hidden, layers = config.size("hidden_size"), config.layers()
    config = _as_published(config, layers)
    window = CompressedAttention(
        hidden=hidden, heads=config.size("num_attention_heads"), head_dim=config.size("head_dim"),
        rope_dim=config.size("qk_rope_head_dim"), q_rank=config.size("q_lora_rank"),
        out_groups=config.size("o_groups"), out_rank=config.size("o_lora_rank"),
        near=config.size("sliding_window"),
    )  # fmt: skip
    mixers: list[LayerKind] = [_pooled(config, window, ratio) for ratio in _ratios(config, layers)]
    experts = routed_and_shared(config, hidden, router_bias=True)
    hashed = min(config.count("num_hash_layers"), layers)
    blocks = [replace(experts, router_bias=i >= hashed) for i in range(layers)]
    streams = config.size("hc_mult", default=1)
    made = tuple(replace(layer, streams=streams) for layer in stack(mixers, blocks))
    head = replace(stack([window], [experts])[0], streams=streams)
    extra = streams * streams * hidden + streams + 1 if streams > 1 else 0
    spec = assemble(config, made, extra=extra, head=head, heads=config.count(MTP))
    # Engines keep entries in 8 bits whatever is asked for (`fp8_ds_mla` in vllm-project/vllm).
    return replace(spec, numerics=replace(spec.numerics, kv="fp8"))


KINDS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")


def _as_published(config: Config, layers: int) -> Config:
    """Return the file in DeepSeek's keys, if it uses the keys of transformers 5."""
    words = None if config.has("compress_ratios") else config.words("layer_types", layers, KINDS)
    if words is None:
        return config
    rates = config.section("compress_rates")
    pools = {KINDS[0]: 0} | {kind: rates.size(kind) for kind in set(words) - {KINDS[0]}}
    keys: dict[str, object] = {"compress_ratios": [pools[word] for word in words]}
    blocks = config.words("mlp_layer_types", layers, ("hash_moe", "moe"))
    if blocks is not None:
        keys["num_hash_layers"] = blocks.count("hash_moe")
    if not config.has("qk_rope_head_dim"):
        keys["qk_rope_head_dim"] = config.size("head_dim") // 8  # `partial_rotary_factor` of all its checkpoints
    return config.but(**keys)


def _ratios(config: Config, layers: int) -> list[int]:
    """Pool of each layer; files have entries of multi-token-prediction layers behind them."""
    ratios = config.items("compress_ratios")
    if ratios is None or len(ratios) < layers:
        have = "nothing" if ratios is None else len(ratios)
        raise config.error("compress_ratios", f"must have one entry per layer: {layers}, not {have}")
    for i, ratio in enumerate(ratios):
        if type(ratio) is not int or ratio < 0:
            raise config.error(f"compress_ratios[{i}]", f"must be a number of tokens, not {ratio!r}")
    return ratios[:layers]


def _pooled(config: Config, window: CompressedAttention, ratio: int) -> CompressedAttention:
    if ratio != CHOSEN:
        return replace(window, ratio=ratio)
    index = Indexer(config.size("index_n_heads"), config.size("index_head_dim"), config.size("index_topk"), ratio)
    return replace(window, ratio=ratio, indexer=index)
