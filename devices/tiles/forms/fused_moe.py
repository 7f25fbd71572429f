"""Fused MoE: the first grouped product of a gated layer's experts, one Triton kernel.

The kernel of SGLang and vLLM: every expert's tokens times its matrix of 2 x `inter` rows, rows of
each expert padded to whole tiles, which are multiplied but not loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....workloads.jit import compiled
from ....workloads.records import Records
from ....workloads.yamlfile import read_yaml
from ...calibrated.hardware import C_16, CODES, INPUT_BYTES, WEIGHT_BYTES
from ..config import I8, KernelConfig
from ..form import Shape, ShapeKey, TiledKernel, Value, grid_of, kernel_form, number
from ..machine import Machine
from ..product import PRODUCT, price

KEYS = (
    ShapeKey("tokens", "tokens before routing", low=1, high=4096),
    ShapeKey("experts", "experts of the layer on this device", low=8, high=128),
    ShapeKey("topk", "experts of a token", low=2, high=8),
    ShapeKey("hidden", "width of the model", low=1024, high=4096),
    ShapeKey("inter", "width of one of the two matrices", low=512, high=3072),
    ShapeKey("dtype", "number format", "bf16"),
    ShapeKey("cold", "1: nothing is in the cache from a call before", 0, 0, 1),
)
LARGE_SHARED = 128 * 1024
"""Shared memory of a core from which a tuner also tries five stages [B]."""


@compiled
def rows(parameters: Records, hardware: Records, inputs: Records, configs: Records, out: Records) -> None:
    """Compute the cost of many configurations; see `TiledKernel.rows`."""
    for i in range(configs.shape[0]):
        price(parameters, hardware, inputs, configs[i], out[i])


def product_of(machine: Machine, shape: Shape) -> Records:
    """Return a product in the shape's format, of any rows and columns."""
    code = CODES[str(shape["dtype"])]
    x = np.zeros(1, PRODUCT)[0]
    x.rate = machine.vector.rate[code]
    x.a_bytes, x.b_bytes = INPUT_BYTES[code], WEIGHT_BYTES[code]
    x.out_bytes, x.warm = INPUT_BYTES[C_16], 1 - number(shape, "cold")
    return x


def work(machine: Machine, shape: Shape) -> Records:
    """Return the product for the loads of round-robin routing: experts differ by at most one token."""
    tokens, experts = number(shape, "tokens"), number(shape, "experts")
    routed = tokens * number(shape, "topk")
    active = min(experts, routed)
    low, more = divmod(routed, active)
    x = product_of(machine, shape)
    x.low, x.num_low, x.high, x.num_high = low, active - more, low + 1, more
    x.n, x.k, x.rows = 2 * number(shape, "inter"), number(shape, "hidden"), tokens
    return x


def stages_of(machine: Machine) -> tuple[int, ...]:
    """Return the numbers of stages that a tuner tries."""
    return (2, 3, 4, 5) if machine.vector.shared >= LARGE_SHARED else (2, 3, 4)


def space(machine: Machine, shape: Shape) -> I8:
    """Return the tuner's tiles and groups, combined with four or eight warps and its stages."""
    listed = read_yaml(Path(__file__).parents[1] / "fused_moe_space.yaml")
    quadruples = [(*map(int, t.split(" x ")), group) for t, gs in listed.items() for group in gs]
    return expanded(machine, quadruples)


def expanded(machine: Machine, quadruples: Sequence[tuple[int, ...]]) -> I8:
    """Return tiles and groups combined with every number of warps and stages that a tuner tries."""
    beside = grid_of((4, 8), stages_of(machine), (1,))
    left = np.repeat(np.array(quadruples, dtype=np.int64), len(beside), axis=0)
    return np.hstack([left, np.tile(beside, (len(quadruples), 1))])


def default(machine: Machine, shape: Shape) -> KernelConfig:
    """Return SGLang's fall-back, as used by the authors of the tables."""
    if number(shape, "tokens") <= number(shape, "experts"):
        return KernelConfig(16, 32, 64, 1, 4, 3)
    return KernelConfig(64, 64, 64, 16, 4, 3)


def calibrated(shape: Shape) -> tuple[str, dict[str, Value]]:
    """Return the calibrated family of grouped products, and this shape's columns in it.

    The rows of experts are contiguous.
    """
    routed = number(shape, "tokens") * number(shape, "topk")
    active = min(number(shape, "experts"), routed)
    return "grouped_gemm", {
        "groups": active,
        "m_per_group": routed / active,
        "n": 2 * number(shape, "inter"),
        "k": number(shape, "hidden"),
        "dtype": shape["dtype"],
        "layout": "contiguous",
    }


FUSED_MOE = kernel_form(
    TiledKernel(
        "fused_moe",
        "first grouped product of a gated MoE layer (Triton)",
        KEYS,
        ("block_m", "block_n", "block_k", "group_m", "warps", "stages"),
        work,
        rows,
        space,
        default,
        lambda machine, shape: "triton",
        calibrated,
    )
)
