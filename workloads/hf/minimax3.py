"""MiniMax-M3: grouped attention, sparse in all but the first layers, experts as in M2."""

from __future__ import annotations

from ..layers import BlockSparseAttention, LayerKind
from ..model import ModelSpec
from .config import Config
from .families import family
from .parts import assemble, read_experts, read_ffn, read_heads, stack

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
            chosen = _flags(s, "sparse_attention_freq", layers)
            mixers = [sparse if on else dense for on in chosen]
    width = config.size("moe_intermediate_size", "intermediate_size")
    experts = read_experts(
        config, shape.hidden, width, shared_width=config.count("n_shared_experts")
        * config.size("shared_intermediate_size", default=width),
        router_bias=config.flag("use_routing_bias", False),
    )  # fmt: skip
    block = read_ffn(config, shape.hidden, key="dense_intermediate_size") if config.has(
        "dense_intermediate_size"
    ) else read_ffn(config, shape.hidden)  # fmt: skip
    routed = _flags(config, "moe_layer_freq", layers)
    blocks: list[LayerKind] = [experts if on else block for on in routed]
    heads = config.count("num_mtp_modules", "num_nextn_predict_layers")
    return assemble(config, stack(mixers, blocks), heads=heads)


def _flags(config: Config, key: str, layers: int) -> list[bool]:
    """One 0 or 1 per layer; all 1 where the file says nothing."""
    items = config.items(key)
    if items is None:
        return [True] * layers
    if len(items) != layers or any(one not in (0, 1) for one in items):
        raise config.error(key, f"must be one 0 or 1 per layer, {layers} in all")
    return [bool(one) for one in items]
