"""Published checkpoints in narrow formats: what an engine loads where it cannot make the format itself."""

from __future__ import annotations

from collections.abc import Mapping

from ...workloads.errors import InputError

CHECKPOINTS: Mapping[str, Mapping[str, str]] = {
    "meta-llama/Llama-3.1-8B-Instruct": {
        "fp8": "nvidia/Llama-3.1-8B-Instruct-FP8", "nvfp4": "nvidia/Llama-3.1-8B-Instruct-FP4",
    },
    "meta-llama/Llama-3.1-70B-Instruct": {"fp8": "nvidia/Llama-3.1-70B-Instruct-FP8"},
    "meta-llama/Llama-3.3-70B-Instruct": {
        "fp8": "nvidia/Llama-3.3-70B-Instruct-FP8", "nvfp4": "nvidia/Llama-3.3-70B-Instruct-FP4",
    },
    "meta-llama/Llama-3.1-405B-Instruct": {
        "fp8": "nvidia/Llama-3.1-405B-Instruct-FP8", "nvfp4": "nvidia/Llama-3.1-405B-Instruct-FP4",
    },
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": {
        "fp8": "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic",
    },
    "Qwen/Qwen3-8B": {"fp8_block": "Qwen/Qwen3-8B-FP8"},
    "Qwen/Qwen3-14B": {"fp8_block": "Qwen/Qwen3-14B-FP8"},
    "Qwen/Qwen3-32B": {"fp8_block": "Qwen/Qwen3-32B-FP8"},
    "Qwen/Qwen3-30B-A3B": {"fp8_block": "Qwen/Qwen3-30B-A3B-FP8"},
    "Qwen/Qwen3-235B-A22B": {"fp8_block": "Qwen/Qwen3-235B-A22B-FP8"},
    "deepseek-ai/DeepSeek-R1-0528": {"nvfp4": "nvidia/DeepSeek-R1-0528-FP4-V2"},
    "deepseek-ai/DeepSeek-V3.1": {"nvfp4": "nvidia/DeepSeek-V3.1-NVFP4"},
    "zai-org/GLM-4.5": {"fp8": "zai-org/GLM-4.5-FP8"},
}  # fmt: skip
"""Checkpoint of a model -> format -> a published checkpoint in it. Names as the launch scripts of the public
benchmarks (serving_points of docs/data.md) and the makers' model cards give them; the smaller Qwen3, GLM-4.5
and 405B ones from memory of these cards. A format that is not here is made by the engine or refused."""

MADE = {"vllm": ("fp8",), "sglang": ("fp8",), "tensorrt-llm": ("fp8",)}
"""Formats that an engine makes of 16-bit weights as it loads them."""


def checkpoint_of(engine: str, model: str, dtype: str | None, own: str) -> tuple[str, bool]:
    """What to load for a format, and whether the engine must be told to make it.

    Parameters
    ----------
    dtype : str or None
        Format that is asked for; None = the checkpoint's own.
    own : str
        Format of the model's own checkpoint.

    Raises
    ------
    InputError
        No such checkpoint is known, and the engine makes none.

    Examples
    --------
    >>> checkpoint_of("vllm", "Qwen/Qwen3-32B", "fp8_block", "bf16")
    ('Qwen/Qwen3-32B-FP8', False)
    >>> checkpoint_of("vllm", "org/m", "fp8", "bf16"), checkpoint_of("vllm", "org/m", None, "mxfp4")
    (('org/m', True), ('org/m', False))
    """
    if dtype is None or dtype == own or dtype in ("bf16", "fp16"):
        return model, False
    known = next((x for name, x in CHECKPOINTS.items() if name.lower() == model.lower()), {})
    if dtype in known:
        return known[dtype], False
    if dtype in MADE[engine] and own in ("bf16", "fp16"):
        return model, True
    raise InputError(
        f"--dtype {dtype}", f"no checkpoint of {model} in it is known, and {engine} makes none as it "
        "loads; quantise one, and name its folder",
    )  # fmt: skip
