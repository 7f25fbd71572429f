"""Options of KV cache tiers."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, flag, text


@described
@dataclass(frozen=True, slots=True)
class TierOptions(CheckedOptions):
    """Options of the KV cache tiers below device memory; `asked` reads them."""

    kv_tiers: str | None = text(
        "Tiers below the devices' memory that keep KV blocks, from the nearest on: host, disk, shared; a "
        "size (of a replica; of shared, of all), a device's rate [GB/s] and latency [us] where the "
        "device's own do not hold.",
        "NAME[:SIZE[:RATE[:US]]],...",
    )
    kv_write: str | None = text(
        "When blocks are copied to them: through (as soon as they are computed; without it) or back (as "
        "they leave the memory above).",
        "RULE",
    )
    kv_load: str | None = text(
        "When blocks found there are loaded: always (without it) or cheaper (where that is sooner than "
        "computing them).",
        "RULE",
    )
    kv_prefetch: bool = flag("Bring what a request will find below the first tier to that one as it arrives.")
