"""Gemma 3n and 4: caches shared by layers, per-layer inputs, two widths of heads, experts in parallel with a dense block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..layers import Attention, FeedForward, LayerKind, SideInputs
from ..model import Layer, ModelSpec
from .config import Config, shown
from .families import family
from .parts import WINDOWED, assemble, check_heads, once_each, read_experts


def _windowed(config: Config, layers: int, period: int) -> list[bool]:
    words = config.words("layer_types", layers, WINDOWED)
    if words is None:
        every = config.size("sliding_window_pattern", "_sliding_window_pattern", default=period)
        return [(i + 1) % every != 0 for i in range(layers)]
    return [WINDOWED[word] for word in words]


def _shared(config: Config, windowed: list[bool]) -> list[bool]:
    """Return which layers share the cache of an earlier layer of their kind: the last ones."""
    layers, count = len(windowed), config.count("num_kv_shared_layers")
    if count >= layers:
        raise config.error("num_kv_shared_layers", f"must be below the {layers} layers, not {count}")
    first_shared = layers - count
    for i in range(first_shared, layers):
        if windowed[i] not in windowed[:first_shared]:
            kind = "with" if windowed[i] else "without"
            reason = f"is too large: no layer before layer {i} is {kind} a window like it, so it has no cache to share"
            raise config.error("num_kv_shared_layers", reason)
    return [i >= first_shared for i in range(layers)]


def overrides(config: Config, i: int) -> Mapping[str, Any]:
    """Return the settings of one layer in ``per_layer_config`` (transformers' newer form of two head widths)."""
    table = config.values.get("per_layer_config")
    if not isinstance(table, Mapping):
        return {}
    settings: Any = next((v for k, v in table.items() if str(k).isdigit() and int(k) == i), {})
    if not isinstance(settings, Mapping):
        raise config.error(f"per_layer_config.{i}", f"is {shown(settings)}; an object is required")
    return settings


def _attention(c: Config, layers: int, windowed: list[bool], shared: list[bool]) -> list[Attention]:
    """Return the attention of every layer of Gemma 4."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads", default=8)
    window = c.window("sliding_window", 512)
    bias = c.flag("attention_bias", False)
    same = c.flag("attention_k_eq_v", False)
    out = []
    for i in range(layers):
        config = c.but(**overrides(c, i)) if overrides(c, i) else c
        full = not windowed[i]
        dim = config.size("head_dim", default=256)
        kv = config.size("num_key_value_heads", default=4)
        if full:
            dim = config.size("global_head_dim", default=dim)
            kv = config.size("num_global_key_value_heads", default=kv) if same else kv
        check_heads(config, hidden, heads, kv, dim)
        norm = dim if shared[i] else 2 * dim
        out.append(
            Attention(
                hidden, heads, kv, dim, 0 if full else window, bias, bias, norm, k_is_v=same and full, shares=shared[i]
            )
        )
    return out


@family(
    "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "Gemma4UnifiedForCausalLM",
    "Gemma4UnifiedForConditionalGeneration",
    types=("gemma4_text", "gemma4", "gemma4_unified_text", "gemma4_unified"),
)  # fmt: skip
def gemma4(config: Config) -> ModelSpec:
    """Gemma 4: wide heads without a window, shared caches, per-layer inputs, experts in parallel with a dense block."""
    layers, hidden = config.layers(), config.size("hidden_size")
    windowed = _windowed(config, layers, 6)
    shared = _shared(config, windowed)
    width, wide = config.size("intermediate_size"), config.flag("use_double_wide_mlp", False)
    inputs = config.count("hidden_size_per_layer_input", default=0)
    moe = config.flag("enable_moe_block", False)
    made: list[Layer] = []
    for i, mixer in enumerate(_attention(config, layers, windowed, shared)):
        widths_each = width * (2 if wide and shared[i] else 1)
        ffn: LayerKind = FeedForward(hidden, widths_each)
        if moe:  # the dense block and the experts have separate norms, the router a scale of its input
            ffn = read_experts(
                config, hidden, config.size("moe_intermediate_size", "expert_intermediate_size"),
                experts=("num_experts",), top_k=("top_k_experts", "num_experts_per_tok"), residual_width=widths_each,
                router_bias=True,
            )  # fmt: skip
        if inputs:
            if moe:
                raise config.error("hidden_size_per_layer_input", "cannot be combined with enable_moe_block")
            ffn = SideInputs(FeedForward(hidden, widths_each), inputs)
        made.append(Layer(mixer, ffn, 8 if moe else 4, hidden))
    return assemble(
        config, once_each(made), tied=True, vocab=262_144, extra=_side_table(config, layers, inputs), final_norm=hidden
    )


def _side_table(config: Config, layers: int, inputs: int) -> int:
    """Return the number of weights of the table of per-layer inputs and of its norm."""
    if not inputs:
        return 0
    vocab = config.size("vocab_size_per_layer_input", default=262_144)
    return vocab * layers * inputs + inputs


@family("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration", types=("gemma3n_text", "gemma3n"))
def gemma3n(config: Config) -> ModelSpec:
    """Gemma 3n: four residual streams, a low-rank path, shared caches, separate inputs of each layer."""
    layers, hidden = config.layers(), config.size("hidden_size", default=2048)
    windowed = _windowed(config, layers, 5)
    shared = _shared(config, windowed)
    heads, kv = config.size("num_attention_heads", default=8), config.size("num_key_value_heads", default=2)
    shape = check_heads(config, hidden, heads, kv, config.size("head_dim", default=256))
    window, bias = config.window("sliding_window", 512), config.flag("attention_bias", False)
    streams = config.size("altup_num_inputs", default=4)
    widths = config.values.get("intermediate_size")
    per_layer = widths if isinstance(widths, list) else [config.size("intermediate_size", default=16_384)] * layers
    if len(per_layer) != layers or any(type(w) is not int or w < 1 for w in per_layer):
        raise config.error("intermediate_size", f"must be a width, or one for each of the {layers} layers")
    inputs = config.size("hidden_size_per_layer_input", default=256)
    made: list[Layer] = []
    for i in range(layers):
        norm = shape.head_dim if shared[i] else 2 * shape.head_dim
        mixer = Attention(
            hidden, heads, kv, shape.head_dim, window if windowed[i] else 0, bias, bias, norm, shares=shared[i]
        )
        ffn = SideInputs(FeedForward(hidden, per_layer[i]), inputs, config.count("laurel_rank", default=64), streams)
        made.append(Layer(mixer, ffn, 4, hidden))
    extra = _side_table(config, layers, inputs) + 2 * (streams - 1) * hidden * hidden
    return assemble(config, once_each(made), tied=True, vocab=262_400, extra=extra, final_norm=hidden)
