"""Multimodal models: their text model, which is what a language model server repeats per token.

A class whose text section names itself needs no entry here (`families.build`); these are those whose files do not, or
whose text model has a name of its own for what is known. Audio towers are not counted, image towers are
(`tower`).
"""

from __future__ import annotations

from dataclasses import replace

from ..model import ModelSpec
from .blocks import evened
from .config import Config, shown
from .families import ARCHITECTURES, MODEL_TYPES, Family, build_by_type, family

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
    "Kimi_K25ForConditionalGeneration": (None, "kimi_k2"),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", "qwen3"),
    "Qwen3VLMoeForConditionalGeneration": ("qwen3_vl_moe", "qwen3_moe"),
    "Qwen3_5ForConditionalGeneration": ("qwen3_5", "qwen3_5_text"),
    "Qwen3_5MoeForConditionalGeneration": ("qwen3_5_moe", "qwen3_5_moe_text"),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", "qwen2"),
    "Qwen2_5_VLForConditionalGeneration": ("qwen2_5_vl", "qwen2"),
    "Glm4vMoeForConditionalGeneration": ("glm4v_moe", "glm4_moe"),
    "Glm4vForConditionalGeneration": ("glm4v", "glm4"),
    "Glm46VForConditionalGeneration": ("glm46v", "glm4"),
    "GlmOcrForConditionalGeneration": ("glm_ocr", "glm4"),
    "InternVLChatModel": ("internvl_chat", "qwen2"),
    "InternVLForConditionalGeneration": ("internvl", "qwen2"),
    "InternS1ForConditionalGeneration": ("interns1", "qwen3"),
    "SkyworkR1VChatModel": ("skywork_chat", "qwen2"),
    "H2OVLChatModel": ("h2ovl_chat", "llama"),
    "NVLM_D": (None, "qwen2"),
    "Llama_Nemotron_Nano_VL": (None, "llama"),
    "VoxtralForConditionalGeneration": ("voxtral", "llama"),
    "UltravoxModel": ("ultravox", "llama"),
    "Qwen2AudioForConditionalGeneration": ("qwen2_audio", "qwen2"),
    "Qwen2_5OmniForConditionalGeneration": ("qwen2_5_omni", "qwen2"),
    "Qwen2_5OmniModel": (None, "qwen2"),
    "Qwen2_5OmniThinkerForConditionalGeneration": ("qwen2_5_omni_thinker", "qwen2"),
    "Qwen3OmniMoeForConditionalGeneration": ("qwen3_omni_moe", "qwen3_moe"),
    "Qwen3OmniMoeThinkerForConditionalGeneration": ("qwen3_omni_moe_thinker", "qwen3_moe"),
    "Qwen3ASRForConditionalGeneration": ("qwen3_asr", "qwen3"),
    "LlavaOnevisionForConditionalGeneration": ("llava_onevision", "qwen2"),
    "LlavaOnevision2ForConditionalGeneration": (None, "qwen3"),
    "LlavaNextVideoForConditionalGeneration": ("llava_next_video", "llama"),
    "BeeForConditionalGeneration": ("bee", "qwen3"),
    "Idefics3ForConditionalGeneration": ("idefics3", "llama"),
    "SmolVLMForConditionalGeneration": ("smolvlm", "llama"),
    "PixtralForConditionalGeneration": ("pixtral", "mistral"),
    "Ovis": ("ovis", "qwen2"),
    "Ovis2_5": ("ovis2_5", "qwen3"),
    "Ovis2_6ForCausalLM": (None, "qwen3"),
    "Ovis2_6_MoeForCausalLM": (None, "qwen3_moe"),
    "Ovis2ForConditionalGeneration": ("ovis2", "qwen2"),
    "DeepseekVLV2ForCausalLM": ("deepseek_vl_v2", "deepseek_v2"),
    "DeepseekVL2ForCausalLM": (None, "deepseek_v2"),
    "DeepseekOCRForCausalLM": ("deepseek_ocr", "deepseek_v2"),
    "DeepseekOCR2ForCausalLM": (None, "deepseek_v2"),
    "UnlimitedOCRForCausalLM": (None, "deepseek_v2"),
    "MultiModalityCausalLM": ("multi_modality", "llama"),
    "OpenCUAForConditionalGeneration": ("opencua", "qwen2"),
    "OpenVLAForActionPrediction": ("openvla", "llama"),
    "Eagle2_5_VLForConditionalGeneration": ("eagle_2_5_vl", "qwen2"),
    "KananaVForConditionalGeneration": ("kanana-1.5-v", "llama"),
    "LightOnOCRForConditionalGeneration": ("lighton_ocr", "qwen3"),
    "Cohere2VisionForConditionalGeneration": ("cohere2_vision", "cohere2"),
    "Exaone4_5_ForConditionalGeneration": ("exaone4_5", "exaone4"),
    "AriaForConditionalGeneration": ("aria", "aria_text"),
    "Step3p7ForConditionalGeneration": ("step3p7", "step3p5"),
    "BagelForConditionalGeneration": ("bagel", "qwen2"),
    "MiDashengLMModel": ("midashenglm", "qwen2"),
    "GlmAsrForConditionalGeneration": ("glmasr", "llama"),
    "GraniteSpeechForConditionalGeneration": ("granite_speech", "granite"),
    "HCXVisionV2ForCausalLM": ("vlm", "hyperclovax"),
    "QianfanOCRForConditionalGeneration": ("qianfan_ocr", "qwen3"),
    "AudioFlamingo3ForConditionalGeneration": ("audioflamingo3", "qwen2"),
    "Blip2ForConditionalGeneration": ("blip-2", "opt"),
    "MiniMaxM3SparseForConditionalGeneration": ("minimax_m3_vl", "minimax_m3"),
    "BailingMoeV3VLForConditionalGeneration": ("bailing_moe_v3_vl", "bailing_hybrid"),
    "KimiK3ForConditionalGeneration": ("kimi_k3", "kimi_linear"),
    "DeepseekV4ForConditionalGeneration": (None, "deepseek_v4"),
    "NemotronH_Nano_VL_V2": ("NemotronH_Nano_VL_V2", "nemotron_h"),
    "NemotronH_Nano_Omni_Reasoning_V3": (None, "nemotron_h"),
    "NemotronH_Super_Omni_Reasoning_V3": (None, "nemotron_h"),
    "NemotronH_Omni_Reasoning_V3": ("nemotron_h_omni", "nemotron_h"),
    "Granite4VisionForConditionalGeneration": ("granite4_vision", "granitemoehybrid"),
    "GraniteSpeechPlusForConditionalGeneration": ("granite_speech_plus", "granite"),
    "MiniCPMOcrForConditionalGeneration": ("minicpm_ocr", "qwen3_5_text"),
    "MiniCPMV4_6ForConditionalGeneration": ("minicpmv4_6", "qwen3_5_text"),
    "MiniCPMV4_7ForConditionalGeneration": ("minicpmv4_7", "qwen3_5_text"),
    "MossTranscribeDiarizeForConditionalGeneration": ("moss_transcribe_diarize", "qwen3"),
    "VoxtralRealtimeGeneration": (None, "mistral"),
    "Cosmos3ForConditionalGeneration": ("cosmos3_omni", "qwen3"),
    "InternS1ProForConditionalGeneration": ("interns1_pro", "qwen3_moe"),
    "InternS2PreviewForConditionalGeneration": (None, "qwen3_5_moe_text"),
    "FunASRForConditionalGeneration": ("fun_asr_nano", "qwen3"),
    "FunAudioChatForConditionalGeneration": ("funaudiochat", "qwen3"),
    "Qwen3ASRRealtimeGeneration": (None, "qwen3"),
    "GotOcr2ForConditionalGeneration": ("got_ocr2", "qwen2"),
    "FuyuForCausalLM": ("fuyu", "persimmon"),
    "NVILAForConditionalGeneration": ("nvila", "qwen2"),
    "NVILALiteForConditionalGeneration": (None, "qwen2"),
    "POINTSV15ChatModel": ("points", "qwen2"),
    "Sarashina2VisionForCausalLM": ("sarashina2_vision", "llama"),
    "LocateAnythingForConditionalGeneration": (None, "qwen2"),
    "BailingMMNativeForConditionalGeneration": ("bailingmm_moe_v2_lite", "bailing_moe_v2"),
    "BailingMM2NativeForConditionalGeneration": (None, "bailing_moe_v2"),
}
"""Architecture class -> its ``model_type``, and that of its text model where a file is silent."""

SAME_TEXT = {
    "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen2_5_omni_text": "qwen2",
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_omni_moe_text": "qwen3_moe", "glm4v_moe_text": "glm4_moe", "glm4v_text": "glm4",
    "glm_ocr_text": "glm4", "paddleocr_vl_text": "ernie4_5", "step3p5_text": "step3p5",
    "unlimited_ocr_text": "deepseek_v2", "deepseek_ocr_text": "deepseek_v2",
    "voxtral_realtime_text": "mistral", "exaone4_5_text": "exaone4", "internlm": "internlm2",
}  # fmt: skip
"""Text models that differ from a known one only in how positions are encoded, or in name."""

FLAT = {
    "DotsOCRForCausalLM": ("dots_ocr", "qwen2"),
    "DotsVLMForCausalLM": ("dots_vlm", "deepseek_v3"),
    "KeyeForConditionalGeneration": ("Keye", "qwen3"),
    "KeyeVL1_5ForConditionalGeneration": ("KeyeVL1_5", "qwen3"),
    "PaddleOCRVLForConditionalGeneration": ("paddleocr_vl", "ernie4_5"),
    "IsaacForConditionalGeneration": ("isaac", "qwen3"),
    "MoonshotKimiaForCausalLM": ("kimi_audio", "qwen2"),
    "OpenPanguVLForConditionalGeneration": ("openpangu_vl", "qwen2"),
    "LlavaLlamaForCausalLM": ("llava_llama", "llama"),
    "LlavaQwenForCausalLM": ("llava_qwen", "qwen2"),
    "LlavaMistralForCausalLM": ("llava_mistral", "mistral"),
    "YiVLForCausalLM": ("yi_vl", "llama"),
}
"""Classes whose files have the text model's keys at the top -> their ``model_type`` and the text model's."""

_WRAPPER_TYPES = {outer for outer, _ in TEXT_MODELS.values()} | {
    outer for outer, _ in FLAT.values()
}


def _wrapper(default: str) -> Family:
    def read(c: Config) -> ModelSpec:
        """Read the text model: `c` is the text section, or a file with its sizes at the top."""
        if not c.has("hidden_size") and not c.prefix:
            raise c.error("text_config", "is missing; an object is required")
        inner = c.items("architectures") if c.prefix else None
        if inner and isinstance(inner[0], str) and inner[0] in ARCHITECTURES:
            return ARCHITECTURES[inner[0]](
                c
            )  # a section that names its own class (InternVL's llm_config)
        kind = c.text("model_type", default)
        kind = default if kind in _WRAPPER_TYPES else SAME_TEXT.get(kind, kind)
        # The class of the whole file stays the architecture; the text section's own is ignored.
        return build_by_type(c.but(model_type=kind))

    read.wraps = default  # type: ignore[attr-defined]  # no family of its own, see `guess`
    return read


for _name, (_type, _text) in (TEXT_MODELS | FLAT).items():
    family(_name, types=(_type,) if _type else ())(_wrapper(_text))


def _same(kind: str) -> Family:
    def read(c: Config) -> ModelSpec:
        return MODEL_TYPES[kind](c)

    return read


for _text, _known in SAME_TEXT.items():
    if _text not in MODEL_TYPES.names():
        MODEL_TYPES.register(_text)(_same(_known))


@family("MiniCPMV", "MiniCPMO", types=("minicpmv", "minicpmo"))
def minicpm_v(c: Config) -> ModelSpec:
    """MiniCPM-V and -o: the text model's keys at the top; which it is follows from the version."""
    texts = {"2.0": "minicpm", "2.5": "llama", "2.6": "qwen2", "4.0": "llama", "4.5": "qwen3"}
    version = str(c.values.get("version", "2.6"))
    if version not in texts:
        raise c.error("version", f"must be one of {', '.join(texts)}, not {shown(version)}")
    return MODEL_TYPES[texts[version]](c)


@family("Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VLMoeForCausalLM",
        types=("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", "ernie4_5_moe_vl"))  # fmt: skip
def ernie_vl(c: Config) -> ModelSpec:
    """ERNIE 4.5 VL: experts for text and, as many and narrower, for images; those for images are held too."""
    widths, counts = c.values.get("moe_intermediate_size"), c.values.get("moe_num_experts")
    if not isinstance(widths, list):
        return MODEL_TYPES["ernie4_5_moe"](c)
    if len(widths) != 2 or any(type(w) is not int or w < 1 for w in widths):
        raise c.error(
            "moe_intermediate_size", f"must be two widths, of text and images, not {shown(widths)}"
        )
    first = evened(c, ("moe_num_experts",)).values["moe_num_experts"]
    first = first[0] if isinstance(first, list) and first else first
    text = MODEL_TYPES["ernie4_5_moe"](
        c.but(moe_intermediate_size=widths[0], moe_num_experts=first)
    )
    images = (
        counts[1]
        if isinstance(counts, list) and len(counts) == 2 and type(counts[1]) is int
        else first
    )
    held = text.moe_layers * int(images) * (3 * text.hidden * widths[1] + text.hidden)
    return replace(text, extra_weights=text.extra_weights + held)
