"""Number formats of the checkpoints that serving frameworks load, by their usual names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...devices.calibrated.libraries import BLACKWELL, generation
from ...devices.spec import DeviceSpec
from ...workloads.errors import InputError
from ...workloads.layers import LatentAttention
from ...workloads.model import ModelSpec
from ...workloads.numerics import BITS, Numerics

ALIASES: Mapping[str, str] = {"bfloat16": "bf16", "float16": "fp16"}
MIXING = ("vllm", "trtllm")
"""Engines that do this by default or by the scripts of the public benchmark."""
ONE_SCALE = ("LlamaForCausalLM",)
"""Architectures whose usual fp8 checkpoints have one scale per matrix (NVIDIA's, Meta's); DeepSeek, Qwen, MiniMax
and Kimi have one per block of 128 x 128."""


def formats(model: ModelSpec, weights: str, kv: str, mixed: bool = False) -> Numerics:
    """Number formats of a checkpoint.

    ``nvfp4`` checkpoints of models with latent attention keep attention in 16 bit; ``mxfp4`` ones
    convert experts only, whose inputs are 8 bits where the matrix unit multiplies the two as they
    are (`mixed`: data-centre Blackwell; gptoss_fp4_b200.sh of the public benchmark, and
    TensorRT-LLM's deployment guide for gpt-oss). A KV format that was not recorded is fp8 with
    ``nvfp4`` weights, whose checkpoints ask for it, else the model's own.
    """
    name = ALIASES.get(weights, weights)
    if name == "fp8" and model.architecture not in ONE_SCALE:
        name = "fp8_block"
    if name not in BITS:
        raise InputError("weight_dtype", f"{weights!r} is not known; known: {', '.join(BITS)}")
    out = model.numerics
    if kv == "unknown":
        out = replace(out, kv="fp8" if name == "nvfp4" else out.default)
    else:
        out = out.with_formats(None, ALIASES.get(kv, kv))
    latent = any(isinstance(layer.mixer, LatentAttention) for layer in model.layers)
    groups: tuple[str, ...] = ("attention", "ffn", "experts")
    if name == "mxfp4":
        groups, name = groups[2:], "mxfp4_mxfp8" if mixed else name
    elif name == "nvfp4" and latent:
        groups = groups[1:]
    if BITS[name] >= 16:
        return out.with_formats(name, None)
    return replace(out, weights=tuple((group, name) for group in groups))


def as_multiplied(model: ModelSpec, engine: str, device: DeviceSpec) -> ModelSpec:
    """A model whose MXFP4 experts take inputs of 8 bits, where an engine multiplies the two as they are.

    vLLM and TensorRT-LLM do on data-centre Blackwell, see `formats`.
    """
    numerics = model.numerics
    if engine not in MIXING or generation(device) != BLACKWELL or numerics.weight_format("experts") != "mxfp4":
        return model
    weights = tuple((g, "mxfp4_mxfp8" if g == "experts" else f) for g, f in numerics.weights)
    return replace(model, numerics=replace(numerics, weights=weights))
