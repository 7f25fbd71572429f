"""Number formats of a checkpoint, from ``torch_dtype`` and ``quantization_config``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..errors import nearest
from ..numerics import Numerics
from .config import Config, shown

SERVED_IN = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "bf16",
             "float": "bf16", "auto": "bf16"}  # fmt: skip
"""Serving format of a stored one. Checkpoints saved in 32 bit (OLMo-2, OLMoE, Gemma-2) are cast
to 16 bit by every inference server (vLLM: ``dtype="auto"`` maps float32 to 16 bit), so weights
and KV cache are counted at 16 bit."""

LINEAR = ("attention", "ffn", "experts")
"""Weight groups that quantisation converts; embeddings, head, norms and routers keep 16 bit."""


def numerics(c: Config, layers: int) -> Numerics:
    """Formats of the weights as stored, and of the KV cache: 16 bit unless a run says otherwise."""
    key = "torch_dtype" if c.nearest_with("torch_dtype").has("torch_dtype") else "dtype"
    at = c.nearest_with(key)
    stored = at.text(key, "bfloat16").removeprefix("torch.")
    if stored not in SERVED_IN:
        raise at.error(key, f"unknown format {shown(stored)}{nearest(stored, SERVED_IN)}")
    default = SERVED_IN[stored]
    outer = c.nearest_with("quantization_config")
    if not outer.has("quantization_config"):
        return Numerics(default=default, kv=default)
    q = outer.section("quantization_config")
    weight_format = _format(q)
    # The checkpoints in this format (gpt-oss) convert their experts and nothing else.
    groups = ("experts",) if weight_format == "mxfp4" else _converted(q, layers)
    return Numerics(
        default=default, weights=tuple((g, weight_format) for g in groups), kv=default
    )  # fmt: skip


def _bits(q: Config) -> str:
    formats = {4: "int4", 8: "int8"}
    bits = q.size("bits", "w_bit")
    if bits not in formats:
        raise q.error("bits", f"must be 4 or 8, not {bits}")
    return formats[bits]


def _bitsandbytes(q: Config) -> str:
    if q.flag("load_in_4bit", False):
        return "int4"
    if q.flag("load_in_8bit", False):
        return "int8"
    raise q.error("load_in_4bit", "must be true unless load_in_8bit is")


def _modelopt(q: Config) -> str:
    algorithms = {"FP8": "fp8", "FP8_PB_WO": "fp8", "FP8_BLOCK_SCALES": "fp8", "NVFP4": "nvfp4",
                  "NVFP4_AWQ": "nvfp4", "W4A16_AWQ": "int4", "INT8_SQ": "int8"}  # fmt: skip
    name = q.text("quant_algo")
    if name not in algorithms:
        raise q.error("quant_algo", f"unknown algorithm {shown(name)}{nearest(name, algorithms)}")
    return algorithms[name]


def _compressed_tensors(q: Config) -> str:
    formats = {(8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "int4", (4, "float"): "nvfp4"}
    groups = q.section("config_groups")
    if not groups.values:
        raise groups.error("group_0", "is missing; an object is required")
    found = set()
    for name in groups.values:
        weights = groups.section(name).section("weights")
        key = (weights.size("num_bits"), weights.text("type", "int"))
        if key not in formats:
            raise weights.error("num_bits", f"{key[0]} bits of type {key[1]!r} are not known")
        found.add(formats[key])
    if len(found) > 1:
        raise q.error("config_groups", f"mixes {' and '.join(sorted(found))}; one is supported")
    return found.pop()


METHODS: dict[str, Callable[[Config], str]] = {
    "fp8": lambda q: "fp8_block" if q.has("weight_block_size") else "fp8",
    "fbgemm_fp8": lambda q: "fp8",
    "mxfp4": lambda q: "mxfp4",
    "nvfp4": lambda q: "nvfp4",
    "gptq": _bits,
    "awq": _bits,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed_tensors,
}
"""``quant_method`` -> weight format."""


def _format(q: Config) -> str:
    method = q.text("quant_method")
    if not method:
        raise q.error("quant_method", f"is missing; known: {', '.join(sorted(METHODS))}")
    if method not in METHODS:
        raise q.error(
            "quant_method",
            f"unknown quantisation method {shown(method)}{nearest(method, METHODS)}",
        )
    return METHODS[method](q)


def _converted(q: Config, layers: int) -> tuple[str, ...]:
    """Weight groups left after the modules that keep their format.

    A group counts as kept when it is exempt in every layer: formats are per group here, and
    the checkpoints met exempt a block everywhere or in a layer or two.
    """
    kept: dict[str, set[int]] = {group: set() for group in LINEAR}
    projections: dict[int, set[str]] = {}
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        for name in q.items(key) or ():
            if not isinstance(name, str):
                raise q.error(key, f"must hold module names, not {shown(name)}")
            at = re.search(r"layers\.(\d{1,9})\.", name)
            numbers: Iterable[int] = (int(at[1]),) if at else range(layers)
            for group in _groups_of(name):
                kept[group].update(n for n in numbers if n < layers)
            part = None if "vision" in name else re.search(r"attn\.([qkvo]_proj)$", name)
            if part:  # named one by one
                for n in numbers:
                    projections.setdefault(n, set()).add(part[1])
    kept["attention"].update(
        n for n, names in projections.items() if n < layers and len(names) == 4
    )
    return tuple(group for group in LINEAR if len(kept[group]) < layers)


def _groups_of(name: str) -> tuple[str, ...]:
    """Weight groups a module name or pattern covers as a whole."""
    name = re.sub(r"^re:|\\|\^|\$|\.?\*", "", name).rstrip(".")
    if re.search(r"(^|\.)(self_attn|attn|attention|linear_attn|mamba)$", name):
        return ("attention",)
    if re.search(r"shared_experts?$|mlp\.\(|mlp\.gate_up_proj$", name):
        return ("ffn",)
    if re.search(r"(^|\.)experts$", name):
        return ("experts",)
    if re.search(r"(^|\.)(mlp|feed_forward|block_sparse_moe)$", name):
        return ("ffn", "experts")
    return ()
