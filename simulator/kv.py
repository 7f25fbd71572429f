"""KV capacity of a deployment: what fits on one device, in blocks per attention window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..workloads.errors import CapacityError
from .deployment import Deployment

BLOCK_TOKENS = 16
"""Tokens of one KV block (vLLM's default block_size)."""


class KvRules(NamedTuple):
    """KV bytes of a sequence on one device: blocks in every window class, and constant state."""

    window: npt.NDArray[np.int64]  # [C] tokens a class keeps; 0 = all
    block_bytes: npt.NDArray[np.float64]  # [C] bytes of one block over the layers of the class
    constant: float  # constant-size state of a sequence [B]
    block: int  # tokens of one block
    capacity: float  # bytes for KV and state on one device


def kv_rules(deployment: Deployment, block: int = BLOCK_TOKENS) -> KvRules:
    """KV bytes and capacity of one device's shard.

    Windowed layers keep at most their window; every class is rounded up to whole blocks.

    Raises
    ------
    CapacityError
        The weights alone do not fit.
    """
    memory = deployment.memory()
    classes = deployment.shard.kv_classes() or {0: 0.0}
    return KvRules(
        window=np.array(list(classes), dtype=np.int64),
        block_bytes=np.array([size * block for size in classes.values()]),
        constant=deployment.shard.state_bytes_per_sequence,
        block=block,
        capacity=memory.kv,
    )


def sequence_bytes(rules: KvRules, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Bytes that sequences of `tokens` cached tokens hold on one device, shape as `tokens`."""
    size = np.full(tokens.shape, rules.constant)
    for window, block_bytes in zip(rules.window, rules.block_bytes, strict=True):
        kept = np.minimum(tokens, window) if window else tokens
        size = size + block_bytes * -(-kept // rules.block)
    return size


def check_fits(
    rules: KvRules,
    inputs: npt.NDArray[np.int64],
    outputs: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    where: str,
) -> None:
    """Refuse requests that could never run, even alone; they would wait forever.

    Raises
    ------
    CapacityError
        Names the first such request, with needed and available GiB per device.
    """
    need = sequence_bytes(rules, inputs + outputs - 1)
    bad = np.flatnonzero(need > rules.capacity)
    if len(bad):
        i = int(bad[0])
        raise CapacityError(
            where,
            f"request {ids[i]} ({inputs[i]} tokens in, {outputs[i]} out) needs "
            f"{need[i] / 2**30:.2f} GiB of KV cache per device, {rules.capacity / 2**30:.2f} GiB "
            "available",
        )
