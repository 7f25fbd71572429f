"""Experts in any naming of keys: their number, width, shared ones, and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..layers import FeedForward, MixtureOfExperts
from .config import Config, shown
from .parts import read_ffn

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_moe_experts")
TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk", "moe_k",
    "experts_per_token",
)  # fmt: skip
WIDTH = ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size", "intermediate_size")
SHARED_COUNT = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = (
    "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size", "share_expert_dim",
    "shared_expert_dim", "shared_intermediate_size",
)  # fmt: skip
"""Keys with the width of one shared expert, or of all without a count."""
FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers", "first_k_dense_layers")
PERIOD = ("moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step", "moe_every_n_layers")
LISTS = ("moe_layer_freq", "is_moe_layer")
"""Keys that may hold 0 or 1 for each layer."""

Block = FeedForward | MixtureOfExperts


def evened(config: Config, keys: Sequence[str]) -> Config:
    """Return the same file with a list of equal numbers per layer replaced by the number (Hunyuan)."""
    changed = {}
    for key in keys:
        value = config.values.get(key)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            changed[key] = value[0]
    return config.but(**changed) if changed else config


def sparse_layers(config: Config, layers: int, first: int = 0) -> list[bool]:
    """Which layers have experts; `first` dense ones where the file does not say."""
    kinds = config.words("mlp_layer_types", layers, ("dense", "sparse", "moe"))
    if kinds is not None:
        return [kind != "dense" for kind in kinds]
    for key in LISTS:
        if isinstance(config.values.get(key), list):
            return _switches(config, key, layers)
    if config.has("moe_layers_enum"):
        return _enumerated(config, layers)
    named = config.indices("moe_layers", layers) if isinstance(config.values.get("moe_layers"), list) else None
    if named is not None:
        return [i in named for i in range(layers)]
    every = config.size(*(key for key in PERIOD), default=1)
    dense = config.count(*FIRST_DENSE, default=first)
    only = config.indices("mlp_only_layers", layers) or frozenset()
    from_zero = not config.has("decoder_sparse_step")  # Qwen counts from one, DeepSeek from zero
    return [i >= dense and i not in only and (i if from_zero else i + 1) % every == 0 for i in range(layers)]


def _switches(config: Config, key: str, layers: int) -> list[bool]:
    switches: list[Any] = config.items(key) or []
    if len(switches) < layers or any(v not in (0, 1) for v in switches):
        raise config.error(key, f"must hold 0 or 1 for each of the {layers} layers")
    return [bool(v) for v in switches[:layers]]


def _enumerated(config: Config, layers: int) -> list[bool]:
    """Step's list of layers, as text with commas."""
    value = config.values["moe_layers_enum"]
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [""]
    numbers = {int(p) for p in parts if str(p).strip().isdigit() and len(str(p)) < 9}
    if len(numbers) != len(parts):
        raise config.error("moe_layers_enum", f"must be a comma-separated list of layers, not {shown(value)}")
    return [i in numbers for i in range(layers)]


def read_blocks(
    config: Config, hidden: int, layers: int, *, router_bias: bool = False, shared_gate: bool = False,
    matrices: int = 3, bias: bool = False, first: int = 0, shared: int | None = None,
) -> list[Block]:  # fmt: skip
    """Feed-forward part of every layer; a file without experts (or with none) is dense.

    Parameters
    ----------
    first : int
        Dense layers before the first with experts, where the file does not say.
    shared : int, optional
        Width of all shared experts together, where it is not in the usual keys.
    """
    config = evened(config, (*TOP_K, *WIDTH, *SHARED_COUNT))
    if not config.count(*EXPERTS, default=0):
        return [read_ffn(config, hidden, matrices=matrices, bias=bias)] * layers
    experts = read_experts_of(
        config, hidden, router_bias=router_bias, shared_gate=shared_gate, matrices=matrices,
        shared=shared,
    )  # fmt: skip
    sparse = sparse_layers(config, layers, first)
    if all(sparse):
        return [experts] * layers
    dense = dense_of(config, hidden, matrices, bias)
    return [experts if s else dense for s in sparse]


def dense_of(config: Config, hidden: int, matrices: int = 3, bias: bool = False) -> FeedForward:
    """The dense block of a model with experts."""
    width = config.size("dense_intermediate_size", "prefix_dense_intermediate_size", "intermediate_size")
    return FeedForward(hidden, width, matrices, bias)


def read_experts_of(
    config: Config, hidden: int, *, router_bias: bool = False, shared_gate: bool = False, matrices: int = 3,
    shared: int | None = None,
) -> MixtureOfExperts:  # fmt: skip
    """The experts of a layer, in any of the usual keys."""
    from .parts import read_experts

    width = config.size(*WIDTH)
    if shared is None:
        count = config.count(*SHARED_COUNT, default=0) if any(config.has(k) for k in SHARED_COUNT) else None
        width_each = config.count(*SHARED_WIDTH, default=width if count is not None else 0)
        shared = width_each * (1 if count is None else count)
    keys = tuple(k for k in EXPERTS if config.has(k)) or EXPERTS
    return read_experts(
        config, hidden, width, experts=keys, top_k=TOP_K, matrices=matrices, shared_width=shared,
        shared_gate=shared_gate and shared > 0, router_bias=router_bias,
        groups="n_group",
    )  # fmt: skip
