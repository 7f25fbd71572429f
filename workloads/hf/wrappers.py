"""Multimodal models: their text model, which is what a language model server repeats per token.

Image and audio towers run once before prefill and are not counted.
"""

from __future__ import annotations

from dataclasses import replace

from ..model import ModelSpec
from .config import Config
from .families import Family, build_by_type, family

TEXT_MODELS = {
    "Gemma3ForConditionalGeneration": ("gemma3", "gemma3_text"),
    "Llama4ForConditionalGeneration": ("llama4", "llama4_text"),
    "Mistral3ForConditionalGeneration": ("mistral3", "mistral"),
    "Ministral3ForConditionalGeneration": (None, "ministral3"),
    "LlavaForConditionalGeneration": ("llava", "llama"),
    "LlavaNextForConditionalGeneration": ("llava_next", "llama"),
    "PaliGemmaForConditionalGeneration": ("paligemma", "gemma"),
    "KimiVLForConditionalGeneration": ("kimi_vl", "deepseek_v3"),
    "KimiK25ForConditionalGeneration": ("kimi_k25", "kimi_k2"),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", "qwen3"),
    "Qwen3VLMoeForConditionalGeneration": ("qwen3_vl_moe", "qwen3_moe"),
    "Qwen3_5ForConditionalGeneration": ("qwen3_5", "qwen3_5_text"),
    "Qwen3_5MoeForConditionalGeneration": ("qwen3_5_moe", "qwen3_5_moe_text"),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", "qwen2"),
    "Qwen2_5_VLForConditionalGeneration": ("qwen2_5_vl", "qwen2"),
    "Glm4vMoeForConditionalGeneration": ("glm4v_moe", "glm4_moe"),
}
"""Architecture class -> its ``model_type``, and that of its text model where a file is silent."""

SAME_TEXT = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_moe_text": "glm4_moe",
}
"""Text models that differ from a known one only in how positions are encoded."""

_WRAPPER_TYPES = {outer for outer, _ in TEXT_MODELS.values()}


def _wrapper(default: str) -> Family:
    def read(c: Config) -> ModelSpec:
        """Read the text model: `c` is the text section, or a file with its sizes at the top."""
        if not c.has("hidden_size") and not c.prefix:
            raise c.error("text_config", "is missing; an object is required")
        kind = c.text("model_type", default)
        kind = default if kind in _WRAPPER_TYPES else SAME_TEXT.get(kind, kind)
        # The class of the whole file stays the architecture; the text section's own is ignored.
        return build_by_type(replace(c, values={**c.values, "model_type": kind}))

    return read


for _name, (_type, _text) in TEXT_MODELS.items():
    family(_name, types=(_type,) if _type else ())(_wrapper(_text))
