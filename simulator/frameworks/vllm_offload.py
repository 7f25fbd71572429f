"""KV blocks of vLLM in host memory: `kv_offloading_size`, or the equivalent connector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...workloads.errors import SpecError
from ..parts.kv_tiers.settings import KvTier, TierSettings
from .keys import Keys

CONNECTOR = "OffloadingConnector"
"""What `kv_offloading_size` sets up with backend native (VllmConfig._post_init_kv_transfer_config in
vllm/config/vllm.py): blocks are copied as they are computed, and loaded whenever they are found."""
OTHERS = "only vLLM's own host memory tier is supported; use --kv-tiers for others, pools for transfers"
ONLY: Mapping[str, tuple[Any, str]] = {
    "eviction_policy": ("lru", "what was used longest ago goes"),
    "spec_name": ("CPUOffloadingSpec", "other tiers are --kv-tiers"),
    "secondary_tiers": (None, "other tiers are --kv-tiers"),
    "lazy_offload": (False, "blocks are copied as they are computed; --kv-write back is another rule"),
}
KEYS = ("kv_offloading_size", "kv_offloading_backend", "kv_transfer_config", "kv_connector",
        "kv_connector_extra_config", "cpu_bytes_to_use", *ONLY)  # fmt: skip


def tiers_of_vllm(keys: Keys, cache: Keys) -> TierSettings | None:
    """The host memory that a file gives KV blocks; None without any. Its link is the device's.

    Raises
    ------
    SpecError
        Another backend or connector, or a size that is none.
    """
    section = cache if cache.values.get("kv_offloading_size") is not None else keys
    size = section.real("kv_offloading_size", 0.0, 0.0, 1e9) * 2.0**30
    backend = section.text("kv_offloading_backend", "native")
    if size and backend != "native":
        raise SpecError(keys.path, f"{section.prefix}kv_offloading_backend: must be native, not {backend!r}: {OTHERS}")
    moved = keys.part("kv_transfer_config")
    if moved.values:
        connector = moved.text("kv_connector", "")
        if connector != CONNECTOR:
            raise SpecError(
                keys.path, f"kv_transfer_config.kv_connector: must be {CONNECTOR}, not {connector!r}: {OTHERS}"
            )
        if size:
            raise SpecError(keys.path, "kv_transfer_config: kv_offloading_size says the same; give one")
        extra = moved.part("kv_connector_extra_config")
        extra.refuse_unsimulated(ONLY)
        size = float(extra.count("cpu_bytes_to_use", 0, 1 << 60, 0))
        if not size:
            where = "kv_transfer_config.kv_connector_extra_config.cpu_bytes_to_use"
            raise SpecError(keys.path, f"{where}: is missing; bytes of the host's memory are required")
    return TierSettings((KvTier("host", size, 0.0, 0.0, "file"),)) if size else None
