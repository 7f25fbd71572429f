"""Expert kernels of a serving framework.

By default its own. On data-centre Blackwell TensorRT-LLM's generated kernels, vLLM's rows in the tables
(`devices.calibrated.libraries`): vLLM prefers them (vllm/model_executor/layers/fused_moe/oracle); scripts of the public
benchmark (SemiAnalysisAI/InferenceX, benchmarks: dsr1_fp4_b200, dsr1_fp8_b200, gptoss_fp4_b200, also _trt) and recipes
of split deployments (NVIDIA/srt-slurm, recipes/b200-fp4/1k1k.yaml, recipes/trtllm/kimi-k25-nvfp4/b200-fp4) select them
in SGLang and TensorRT-LLM. TensorRT-LLM uses CUTLASS or DeepGEMM (its own rows) with data-parallel attention; SGLang
its Triton kernels before 0.5.6, and before 0.5.23 for 16-bit weights (``moe_runner_backend`` "auto" in
python/sglang/srt/server_args.py). For MXFP4 elsewhere OpenAI's Triton kernels, also vLLM's rows: TensorRT-LLM's scripts
(gptoss_fp4_h200_trt.sh) and SGLang's default. vLLM on Hopper uses CUTLASS's grouped products for fp8 weights with a
scale per output channel and inputs with one per token (``CompressedTensorsW8A8Fp8MoEMethod`` in
compressed_tensors_moe.py), TensorRT-LLM's rows: its own rows time an untuned Triton kernel.

Number formats of the checkpoints that serving frameworks load, by their usual names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...devices.calibrated.kernel_sets import LABELS, everywhere, named
from ...devices.calibrated.libraries import BLACKWELL, HOPPER, generation
from ...devices.spec import DeviceSpec
from ...workloads.catalog import fp8_format
from ...workloads.errors import InputError
from ...workloads.layers import LatentAttention
from ...workloads.model import ModelSpec
from ...workloads.numerics import BITS, Numerics
from .engines import sglang_version

ALIASES: Mapping[str, str] = {"bfloat16": "bf16", "float16": "fp16"}
MIXING = ("vllm", "trtllm")
"""Engines that multiply 4-bit weights with 8-bit inputs by default or by the scripts of the public benchmark."""


def formats(model: ModelSpec, weights: str, kv: str, mixed: bool = False) -> Numerics:
    """Return a model with the number formats of a checkpoint.

    ``nvfp4`` checkpoints of models with latent attention keep attention in 16 bit; ``mxfp4`` ones
    convert experts only, whose inputs are 8 bits where the matrix unit multiplies the two as they
    are (`mixed`: data-centre Blackwell; gptoss_fp4_b200.sh of the public benchmark, and
    TensorRT-LLM's deployment guide for gpt-oss). A KV format that was not recorded is fp8 with
    ``nvfp4`` weights, whose checkpoints ask for it, else the model's own.
    """
    name = ALIASES.get(weights, weights)
    if name == "fp8":
        name = fp8_format(model)
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
    """Return a model whose MXFP4 experts take 8-bit inputs, if the engine multiplies the two formats directly.

    vLLM and TensorRT-LLM do this on data-centre Blackwell, see `formats`.
    """
    numerics = model.numerics
    if engine not in MIXING or generation(device) != BLACKWELL or numerics.weight_format("experts") != "mxfp4":
        return model
    weights = tuple((g, "mxfp4_mxfp8" if g == "experts" else f) for g, f in numerics.weights)
    return replace(model, numerics=replace(numerics, weights=weights))


def kernels_of(
    framework: str, device: DeviceSpec, *, apart: bool, stored: str = "", version: str = ""
) -> dict[str, str]:
    """Return the framework whose kernels run each kind of op, as `devices.device.build_device` takes them.

    Parameters
    ----------
    framework : str
        Of `devices.calibrated.kernel_sets.FRAMEWORKS`.
    apart : bool
        Whether attention is data-parallel.
    stored : str
        Format that experts are stored in.
    version : str
        Version of the framework; SGLang's that is read without one.

    Raises
    ------
    InputError
        No such framework.
    """
    rules, (name, _) = everywhere(framework), named(framework)
    if name in LABELS and generation(device):
        other = expert_kernels(name, device, apart=apart, stored=stored, version=version)
        rules["experts"] = framework if other == name else other
    return rules


def expert_kernels(framework: str, device: DeviceSpec, *, apart: bool, stored: str, version: str = "") -> str:
    """The framework whose expert kernels another framework calls on an NVIDIA device."""
    own_rows = framework == "trtllm" and apart
    if framework == "sglang":
        own_rows = sglang_version(version) < ((0, 5, 23) if stored in ("bf16", "fp16") else (0, 5, 6))
    if (generation(device) == BLACKWELL and not own_rows) or stored == "mxfp4":
        return "vllm"
    if framework == "vllm" and stored == "fp8_channel" and generation(device) == HOPPER:
        return "trtllm"
    return framework
