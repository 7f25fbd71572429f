"""Dense decoders of the Llama kind: gated feed-forward, RMS norms, grouped attention."""

from __future__ import annotations

from ..model import ModelSpec
from .config import Config
from .families import family
from .parts import Heads, assemble, read_ffn, read_heads, read_windows, stack


@family(
    "LlamaForCausalLM", "SmolLM3ForCausalLM", "GraniteForCausalLM", "InternLM3ForCausalLM",
    types=("llama", "smollm3", "granite", "internlm3"),
)  # fmt: skip
def llama(config: Config) -> ModelSpec:
    """Llama 1 to 3 and the models that kept its shape; windows are never used."""
    shape = read_heads(config, mha=True)
    bias = config.flag("attention_bias", False)
    mixers = shape.attention([0] * config.layers(), qkv_bias=bias, out_bias=bias)
    ffn = read_ffn(config, shape.hidden, bias=config.flag("mlp_bias", False))
    return assemble(config, stack(mixers, ffn))


@family("MistralForCausalLM", types=("mistral",))
def mistral(config: Config) -> ModelSpec:
    """Mistral: one window for all layers where the file has one, or ``layer_types``."""
    return _plain(config, read_heads(config))


@family("Phi3ForCausalLM", types=("phi3",))
def phi3(config: Config) -> ModelSpec:
    """Phi-3 and Phi-4: fused projections without biases, same weights as separate ones."""
    return _plain(config, read_heads(config))


def _plain(config: Config, shape: Heads) -> ModelSpec:
    """No biases, windows honoured."""
    mixers = shape.attention(read_windows(config, config.layers()))
    return assemble(config, stack(mixers, read_ffn(config, shape.hidden)))


def qwen_windows(config: Config, layers: int) -> tuple[int, ...]:
    """Qwen's rule: a window only with ``use_sliding_window``, from ``max_window_layers`` on."""
    used = config.flag("use_sliding_window", False)
    first = config.count("max_window_layers") if used else layers
    return read_windows(config, layers, slides=lambda layer: used and layer >= first)


@family("Qwen2ForCausalLM", types=("qwen2",))
def qwen2(config: Config) -> ModelSpec:
    """Qwen2 and 2.5: biases on query, key and value."""
    shape = read_heads(config)
    mixers = shape.attention(qwen_windows(config, config.layers()), qkv_bias=True)
    return assemble(config, stack(mixers, read_ffn(config, shape.hidden)))


@family("Qwen3ForCausalLM", types=("qwen3",))
def qwen3(config: Config) -> ModelSpec:
    """Qwen3: query and key norms per head, no biases."""
    shape = read_heads(config, head_dim=128)
    bias = config.flag("attention_bias", False)
    mixers = shape.attention(
        qwen_windows(config, config.layers()), qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm
    )
    return assemble(config, stack(mixers, read_ffn(config, shape.hidden)))


@family("Gemma3ForCausalLM", "Gemma3TextModel", "Rnj1ForCausalLM", types=("gemma3_text",))
def gemma3(config: Config) -> ModelSpec:
    """Gemma 3: five windowed layers to one full, four norms a layer, query and key norms.

    The files of the 4B to 27B models leave out what equals the defaults of transformers'
    Gemma3TextConfig; the same defaults are used here.
    """
    shape = read_heads(config, head_dim=256, heads=8, kv_heads=4)
    period = config.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    windows = read_windows(config, config.layers(), slides=lambda layer: (layer + 1) % period != 0, default=4096)
    bias = config.flag("attention_bias", False)
    mixers = shape.attention(windows, qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm)
    layers = stack(mixers, read_ffn(config, shape.hidden), norms=4)
    return assemble(config, layers, tied=True, vocab=262_208)
