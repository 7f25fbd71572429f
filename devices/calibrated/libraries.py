"""The kernel library of a serving framework on a device.

Frameworks share libraries on some generations, so data of a framework transfers between devices as far as its library
does. Rules, from the frameworks' defaults: attention of SGLang and vLLM: FlashAttention 3 on Hopper, TensorRT-LLM's
generated kernels on data-centre Blackwell (vLLM through FlashInfer); elsewhere FlashInfer in SGLang (docs.sglang.io,
advanced features, attention backend), FlashAttention 2 in vLLM (docs/design/attention_backends.md in
vllm-project/vllm). Attention of TensorRT-LLM: generated kernels on data-centre Blackwell, its own elsewhere (XQA and
fused multi-head attention). Products on AMD's devices: AITER, which ROCm images of SGLang ask for (``SGLANG_USE_AITER``
in docker/rocm.Dockerfile) and vLLM calls by ``VLLM_ROCM_USE_AITER``; its tables hold the fastest kernels of hipBLASLt
too. Experts: SGLang and vLLM share a Triton kernel; on data-centre Blackwell vLLM calls
TensorRT-LLM's generated ones through FlashInfer (``fused_moe/oracle/unquantized.py`` in vllm-project/vllm);
TensorRT-LLM's own rows are CUTLASS kernels, on data-centre Blackwell DeepGEMM for block-scaled fp8
(``collector/trtllm/collect_moe_v3.py`` in ai-dynamo/aiconfigurator). Latent attention of TensorRT-LLM: FlashMLA only on
Hopper (``mUseGenFlashMLA`` in NVIDIA/TensorRT-LLM, ``cpp/tensorrt_llm/thop/attentionOp.cpp``), generated kernels on
data-centre Blackwell, XQA on workstation Blackwell, its masked multi-head kernel before; of SGLang and vLLM as
attention, Triton elsewhere. Frontier timed FlashInfer's attention and vLLM's experts on Hopper (NetX-lab/Frontier). All
other combinations are separate, and so are devices without a compute capability.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..spec import DeviceSpec

HOPPER, BLACKWELL, WORKSTATION = 9, 10, 12
"""Major compute capabilities of NVIDIA's generations; the last two are Blackwell, with two designs of cores."""
ATTENTION: Mapping[str, Mapping[int | None, str]] = {
    "aiconfigurator/sglang": {HOPPER: "FlashAttention-3", BLACKWELL: "trtllm-gen", None: "FlashInfer"},
    "aiconfigurator/vllm": {HOPPER: "FlashAttention-3", BLACKWELL: "trtllm-gen", None: "FlashAttention-2"},
    "aiconfigurator/trtllm": {BLACKWELL: "trtllm-gen"},
    "frontier": {HOPPER: "FlashInfer"},
}
EXPERTS: Mapping[str, Mapping[int | None, str]] = {
    "aiconfigurator/sglang": {None: "Triton"},
    "aiconfigurator/vllm": {BLACKWELL: "trtllm-gen", None: "Triton"},
    "frontier": {HOPPER: "Triton"},
}
_LATENT: Mapping[int | None, str] = {HOPPER: "FlashAttention-3", BLACKWELL: "trtllm-gen", None: "Triton"}
LATENT: Mapping[str, Mapping[int | None, str]] = {
    "aiconfigurator/sglang": _LATENT,
    "aiconfigurator/vllm": _LATENT,
    "aiconfigurator/trtllm": {HOPPER: "FlashMLA", BLACKWELL: "trtllm-gen", WORKSTATION: "XQA"},
    "infersim": {HOPPER: "FlashMLA"},
}
AITER = "aiter"
LIBRARIES = {"mla": LATENT, "attention_prefill": ATTENTION, "attention_decode": ATTENTION, "moe": EXPERTS}
"""Library by family, framework and major compute capability (None for all others)."""

UNSERVED: Mapping[str, tuple[str, ...]] = {"FlashAttention-3": ("prefill", "decode_fp8"), "Triton": ("prefill",)}
"""Kernels of latent attention, by library, whose bare rows are of calls that no framework serves: whole modules take less. Prompts are of the absorbed
form, 3.4 times the arithmetic: at most 189 TFLOP/s of the expanded form's on an H100, where modules of SGLang and vLLM, which expand, attain up to
527. Decodes read a cache in fp8 at no more than 0.28 TB/s, whole modules of SGLang and vLLM at up to 1.06 and 2.89."""

CUDNN: Mapping[int, Mapping[tuple[str, bool], float]] = {
    BLACKWELL: {("forward", False): 0.72, ("backward", False): 0.77, ("forward", True): 0.62, ("backward", True): 0.43}
}
"""Seconds of cuDNN's fused attention in 16 bits, which trains, over those of the kernels that serve, by pass and by whether it has a window; medians
over shapes of Llama 3.1, DeepSeek-V3 and gpt-oss and 2,048 to 16,384 tokens on GB200 and GB300 (NVIDIA/cudnn-frontend, benchmark/attention_training/results
of 2026-09-28, cuDNN 9.27). Those of serving's backward passes are what training predicts from forward ones (`workloads.training.SLOWER_BACKWARD`). On Hopper
it takes 0.82 of them, but PyTorch's FlashAttention-2 takes more (torchtitan): there the serving kernels stand for both."""


def generation(spec: DeviceSpec) -> int:
    """Return the major compute capability of a device; 0 for other makers' devices."""
    return max(int(p.compute_capability or 0) for p in spec.processors.values())


def joint_attention(spec: DeviceSpec) -> bool:
    """Return whether vLLM's attention on a device is one call for prompts and decodes, as in FlashAttention."""
    called = library("attention_prefill", "aiconfigurator/vllm", float(generation(spec)))
    return called.startswith("FlashAttention")


def library(family: str, label: str, capability: float) -> str:
    """Return the library that a framework calls; the framework's name if it shares the kernels with no other.

    Parameters
    ----------
    label : str
        As `workloads.kernel_tables.framework` gives it.
    capability : float
        The device's compute capability; 0 where it has none.

    Examples
    --------
    >>> library("attention_decode", "aiconfigurator/vllm", 9.0)
    'FlashAttention-3'
    >>> library("gemm", "aiconfigurator/vllm", 9.0)
    'aiconfigurator/vllm'
    """
    known = LIBRARIES.get(family, {}).get(label, {})
    if not capability:
        return label
    return known.get(int(capability), known.get(None, label))
