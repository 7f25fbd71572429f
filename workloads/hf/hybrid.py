"""Models with unusual mixers: Jamba, Qwen3-Next, Qwen3.5 and JetMoE."""

from __future__ import annotations

from ..layers import ExpertAttention, LayerKind, Mamba
from ..model import ModelSpec
from .config import Config
from .families import family
from .linear import delta_net
from .moe import qwen_blocks
from .parts import assemble, read_experts, read_ffn, read_heads, read_windows, stack


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
    """``"auto"`` means a sixteenth of the hidden size, rounded up."""
    if config.values.get("mamba_dt_rank", "auto") == "auto":
        return -(-hidden // 16)
    return config.size("mamba_dt_rank")


def _periodic(config: Config, stem: str, layers: int, *, period: int, offset: int) -> list[bool]:
    """Layers chosen by ``<stem>_period`` and ``<stem>_offset``."""
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
    kinds = config.words("layer_types", layers, ("linear_attention", "full_attention"))
    if kinds is None:
        every = config.size("full_attention_interval", default=4)
        attends = [(i + 1) % every == 0 for i in range(layers)]
    else:
        attends = [kind == "full_attention" for kind in kinds]
    bias = config.flag("attention_bias", False)
    attention = shape.attention([0], qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm, gated=True)[0]
    delta = delta_net(config, shape.hidden)
    mixers: list[LayerKind] = [attention if a else delta for a in attends]
    # Qwen3.5 has dense models too, under a class of their own.
    dense = config.architecture.startswith(("Qwen3_5For", "qwen3_5_text")) or (
        config.text("model_type") == "qwen3_5_text" and not config.has("num_experts")
    )
    blocks = [read_ffn(config, shape.hidden)] * layers if dense else qwen_blocks(config, shape.hidden, layers)
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
