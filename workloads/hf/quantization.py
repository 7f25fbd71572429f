"""Number formats of a checkpoint, from ``torch_dtype``, ``quantization_config`` and ``hf_quant_config.json``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import nearest
from ..numerics import Numerics
from .config import Config, shown

if TYPE_CHECKING:
    from ..model import Layer

SERVED_IN = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "bf16", "float": "bf16", "auto": "bf16"}
"""Number format in which engines serve a checkpoint, by its stored format. Checkpoints saved in 32 bits (OLMo-2, OLMoE,
Gemma-2) are cast to 16 bits by every inference server (vLLM: ``dtype="auto"`` maps float32 to 16 bits), so weights and
KV cache are counted at 16 bits."""

SIDE_FILE = "hf_quant_config.json"
"""File of modelopt's checkpoints that states the storage of weights, next to ``config.json``."""


def numerics(config: Config, layers: Sequence[Layer]) -> Numerics:
    """Return the formats of the stored weights and of the KV cache: 16 bits, unless the file or a run says otherwise.

    Engines keep the cache in the format that a checkpoint was calibrated for without being asked (vLLM:
    ``kv_cache_dtype="auto"``), so ``kv_cache_quant_algo`` and ``kv_cache_scheme`` hold.
    """
    key = "torch_dtype" if config.nearest_with("torch_dtype").has("torch_dtype") else "dtype"
    at = config.nearest_with(key)
    stored = at.text(key, "bfloat16").removeprefix("torch.")
    if stored not in SERVED_IN:
        raise at.error(key, f"unknown format {shown(stored)}{nearest(stored, SERVED_IN)}")
    default = SERVED_IN[stored]
    q = _given(config)
    if q is None:
        return Numerics(default=default, kv=default)
    from .quant_methods import cache_format, recipe_of  # most files have none
    from .quant_modules import group_formats

    recipe = recipe_of(q, config)
    beside = _beside(config)  # modelopt's files that stand twice may name the cache in one place alone
    kv = recipe.kv or (cache_format(beside) if beside is not None else "") or default
    formats = group_formats(recipe, q, layers, default)
    mixed = tuple((g, parts) for g, parts in formats if _own(parts))
    names = tuple((g, parts[0][0]) for g, parts in formats if parts[0][0] != default or _own(parts))
    return Numerics(default=default, weights=names, kv=kv, stored=mixed)


def _own(parts: Sequence[tuple[str, float, float]]) -> bool:
    """Return whether a group differs from one known format with its usual scales."""
    from ..numerics import BITS

    return len(parts) > 1 or parts[0][1] != BITS[parts[0][0]]


def _given(config: Config) -> Config | None:
    """Return the section on the storage of weights; ``config.json`` has priority over the side file."""
    for key in ("quantization_config", "compression_config"):
        outer = config.nearest_with(key)
        if outer.has(key):
            return outer.section(key)
    return _beside(config)


def _beside(config: Config) -> Config | None:
    """Return the section on the storage of weights in the file next to ``config.json``; None without that file."""
    outer = config.nearest_with(SIDE_FILE)
    if not outer.has(SIDE_FILE):
        return None
    side = replace(outer, path=os.path.join(os.path.dirname(config.path), SIDE_FILE), prefix="")
    q = side.section(SIDE_FILE)
    q = replace(q, prefix="").section("quantization")
    return replace(q, values={"quant_method": "modelopt", **q.values})
