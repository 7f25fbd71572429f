"""Multimodal models: the text model in them, which a server runs for every token.

A class whose text section names itself needs no entry here (`families.build`); entries are for files without a name, or
with a special one. Audio towers are not counted, image towers are (`tower`).
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from ..model import ModelSpec
from .config import Config, shown
from .families import ARCHITECTURES, MODEL_TYPES, Family, build_by_type, family
from .parts import evened

with (Path(__file__).parent / "wrappers.csv").open(encoding="utf-8") as _file:
    _ROWS = tuple(csv.DictReader(_file))
WRAPPERS = tuple(row for row in _ROWS if row["class"])
"""Architecture classes of multimodal models, their ``model_type``, and the type of the text model if the file has none."""
SAME_TEXT = {row["model_type"]: row["text_model"] for row in _ROWS if not row["class"]}
"""Types of text models that differ from a known one only in the encoding of positions or in name."""

_WRAPPER_TYPES = {row["model_type"] for row in WRAPPERS}


def _wrapper(default: str) -> Family:
    """Return a reader of models that wrap a text model of type `default`, unless the file names another."""

    def read(config: Config) -> ModelSpec:
        """Read the text model: `config` is the text section, or a file with its sizes at the top."""
        if not config.has("hidden_size") and not config.prefix:
            raise config.error("text_config", "is missing; an object is required")
        inner = config.items("architectures") if config.prefix else None
        if inner and isinstance(inner[0], str) and inner[0] in ARCHITECTURES:
            return ARCHITECTURES[inner[0]](config)  # a section that names its own class (InternVL's llm_config)
        kind = config.text("model_type", default)
        kind = default if kind in _WRAPPER_TYPES else SAME_TEXT.get(kind, kind)
        # The class of the whole file stays the architecture; the text section's own is ignored.
        return build_by_type(config.but(model_type=kind))

    read.wraps = default  # type: ignore[attr-defined]  # not a family by itself, see `guess`
    return read


for _row in WRAPPERS:
    _types = (_row["model_type"],) if _row["model_type"] else ()
    family(_row["class"], types=_types)(_wrapper(_row["text_model"]))


def _same(kind: str) -> Family:
    def read(config: Config) -> ModelSpec:
        return MODEL_TYPES[kind](config)

    return read


for _text, _known in SAME_TEXT.items():
    if _text not in MODEL_TYPES.names():
        MODEL_TYPES.register(_text)(_same(_known))


@family("MiniCPMV", "MiniCPMO", types=("minicpmv", "minicpmo"))
def minicpm_v(config: Config) -> ModelSpec:
    """MiniCPM-V and -o: the text model's keys are at the top level; its type depends on the version."""
    texts = {"2.0": "minicpm", "2.5": "llama", "2.6": "qwen2", "4.0": "llama", "4.5": "qwen3"}
    version = str(config.values.get("version", "2.6"))
    if version not in texts:
        raise config.error("version", f"must be one of {', '.join(texts)}, not {shown(version)}")
    return MODEL_TYPES[texts[version]](config)


@family("Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VLMoeForCausalLM",
        types=("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", "ernie4_5_moe_vl"))  # fmt: skip
def ernie_vl(config: Config) -> ModelSpec:
    """ERNIE 4.5 VL: experts for text, and as many narrower experts for images, whose weights are stored too."""
    widths, counts = config.values.get("moe_intermediate_size"), config.values.get("moe_num_experts")
    if not isinstance(widths, list):
        return MODEL_TYPES["ernie4_5_moe"](config)
    if len(widths) != 2 or any(type(w) is not int or w < 1 for w in widths):
        raise config.error("moe_intermediate_size", f"must be two widths, of text and images, not {shown(widths)}")
    first = evened(config, ("moe_num_experts",)).values["moe_num_experts"]
    first = first[0] if isinstance(first, list) and first else first
    text = MODEL_TYPES["ernie4_5_moe"](config.but(moe_intermediate_size=widths[0], moe_num_experts=first))
    images = counts[1] if isinstance(counts, list) and len(counts) == 2 and type(counts[1]) is int else first
    image_weights = text.moe_layers * int(images) * (3 * text.hidden * widths[1] + text.hidden)
    return replace(text, extra_weights=text.extra_weights + image_weights)
