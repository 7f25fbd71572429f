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
def deepseek_v4(c: Config) -> ModelSpec:
    """DeepSeek-V4: windows and pools of 4 or 128 tokens, hyper-connections, hash-routed layers first."""
    hidden, layers = c.size("hidden_size"), c.layers()
    c = _as_published(c, layers)
    window = CompressedAttention(
        hidden=hidden, heads=c.size("num_attention_heads"), head_dim=c.size("head_dim"),
        rope_dim=c.size("qk_rope_head_dim"), q_rank=c.size("q_lora_rank"),
        out_groups=c.size("o_groups"), out_rank=c.size("o_lora_rank"),
        near=c.size("sliding_window"),
    )  # fmt: skip
    mixers: list[LayerKind] = [_pooled(c, window, ratio) for ratio in _ratios(c, layers)]
    experts = routed_and_shared(c, hidden, router_bias=True)
    hashed = min(c.count("num_hash_layers"), layers)
    blocks = [replace(experts, router_bias=i >= hashed) for i in range(layers)]
    streams = c.size("hc_mult", default=1)
    made = tuple(replace(layer, streams=streams) for layer in stack(mixers, blocks))
    head = replace(stack([window], [experts])[0], streams=streams)
    extra = streams * streams * hidden + streams + 1 if streams > 1 else 0
    spec = assemble(c, made, extra=extra, head=head, heads=c.count(MTP))
    # Engines keep entries in 8 bits whatever is asked for (`fp8_ds_mla` in vllm-project/vllm).
    return replace(spec, numerics=replace(spec.numerics, kv="fp8"))


KINDS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")


def _as_published(c: Config, layers: int) -> Config:
    """Return the file in DeepSeek's keys, if it uses the keys of transformers 5."""
    words = None if c.has("compress_ratios") else c.words("layer_types", layers, KINDS)
    if words is None:
        return c
    rates = c.section("compress_rates")
    pools = {KINDS[0]: 0} | {kind: rates.size(kind) for kind in set(words) - {KINDS[0]}}
    own: dict[str, object] = {"compress_ratios": [pools[word] for word in words]}
    blocks = c.words("mlp_layer_types", layers, ("hash_moe", "moe"))
    if blocks is not None:
        own["num_hash_layers"] = blocks.count("hash_moe")
    if not c.has("qk_rope_head_dim"):
        own["qk_rope_head_dim"] = c.size("head_dim") // 8  # `partial_rotary_factor` of all its checkpoints
    return c.but(**own)


def _ratios(c: Config, layers: int) -> list[int]:
    """Pool of each layer; files have entries of multi-token-prediction layers behind them."""
    ratios = c.items("compress_ratios")
    if ratios is None or len(ratios) < layers:
        have = "nothing" if ratios is None else len(ratios)
        raise c.error("compress_ratios", f"must have one entry per layer: {layers}, not {have}")
    for i, ratio in enumerate(ratios):
        if type(ratio) is not int or ratio < 0:
            raise c.error(f"compress_ratios[{i}]", f"must be a number of tokens, not {ratio!r}")
    return ratios[:layers]


def _pooled(c: Config, window: CompressedAttention, ratio: int) -> CompressedAttention:
    if ratio != CHOSEN:
        return replace(window, ratio=ratio)
    index = Indexer(c.size("index_n_heads"), c.size("index_head_dim"), c.size("index_topk"), ratio)
    return replace(window, ratio=ratio, indexer=index)
