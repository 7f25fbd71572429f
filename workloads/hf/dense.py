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
def llama(c: Config) -> ModelSpec:
    """Llama 1 to 3 and the models that kept its shape; windows are never used."""
    shape = read_heads(c, mha=True)
    bias = c.flag("attention_bias", False)
    mixers = shape.attention([0] * c.layers(), qkv_bias=bias, out_bias=bias)
    ffn = read_ffn(c, shape.hidden, bias=c.flag("mlp_bias", False))
    return assemble(c, stack(mixers, ffn))


@family("MistralForCausalLM", types=("mistral",))
def mistral(c: Config) -> ModelSpec:
    """Mistral: one window for all layers where the file has one, or ``layer_types``."""
    return _plain(c, read_heads(c))


@family("Phi3ForCausalLM", types=("phi3",))
def phi3(c: Config) -> ModelSpec:
    """Phi-3 and Phi-4: fused projections without biases, same weights as separate ones."""
    return _plain(c, read_heads(c))


def _plain(c: Config, shape: Heads) -> ModelSpec:
    """No biases, windows honoured."""
    mixers = shape.attention(read_windows(c, c.layers()))
    return assemble(c, stack(mixers, read_ffn(c, shape.hidden)))


def qwen_windows(c: Config, layers: int) -> tuple[int, ...]:
    """Qwen's rule: a window only with ``use_sliding_window``, from ``max_window_layers`` on."""
    used = c.flag("use_sliding_window", False)
    first = c.count("max_window_layers") if used else layers
    return read_windows(c, layers, slides=lambda layer: used and layer >= first)


@family("Qwen2ForCausalLM", types=("qwen2",))
def qwen2(c: Config) -> ModelSpec:
    """Qwen2 and 2.5: biases on query, key and value."""
    shape = read_heads(c)
    mixers = shape.attention(qwen_windows(c, c.layers()), qkv_bias=True)
    return assemble(c, stack(mixers, read_ffn(c, shape.hidden)))


@family("Qwen3ForCausalLM", types=("qwen3",))
def qwen3(c: Config) -> ModelSpec:
    """Qwen3: query and key norms per head, no biases."""
    shape = read_heads(c, head_dim=128)
    bias = c.flag("attention_bias", False)
    mixers = shape.attention(qwen_windows(c, c.layers()), qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm)
    return assemble(c, stack(mixers, read_ffn(c, shape.hidden)))


@family("Gemma3ForCausalLM", "Gemma3TextModel", "Rnj1ForCausalLM", types=("gemma3_text",))
def gemma3(c: Config) -> ModelSpec:
    """Gemma 3: five windowed layers to one full, four norms a layer, query and key norms.

    The files of the 4B to 27B models leave out what equals the defaults of transformers'
    Gemma3TextConfig; the same defaults are used here.
    """
    shape = read_heads(c, head_dim=256, heads=8, kv_heads=4)
    period = c.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    windows = read_windows(c, c.layers(), slides=lambda layer: (layer + 1) % period != 0, default=4096)
    bias = c.flag("attention_bias", False)
    mixers = shape.attention(windows, qkv_bias=bias, out_bias=bias, qk_norm=shape.head_norm)
    layers = stack(mixers, read_ffn(c, shape.hidden), norms=4)
    return assemble(c, layers, tied=True, vocab=262_208)
