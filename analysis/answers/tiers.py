"""What KV cache tiers did: for people, for JSON and for sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...simulator.parts.kv_tiers.run import TiersRun
from ...simulator.serving.record import Run
from ..show.text import show
from .facet import Facet
from .quantities import Quantity, ratio


def prompt_tokens(r: Run) -> int:
    """Prompt tokens that were asked for, computed or found; those of preempted requests again."""
    return r.prompt_tokens + r.cached_tokens


def tiers_dict(r: Run) -> dict[str, Any]:
    """Entry of a simulation's JSON; nothing without tiers."""
    found = r.tiers
    if found is None:
        return {}
    return {
        "kv_tiers": {
            "write": found.settings.write,
            "load": found.settings.load,
            "prefetch": found.settings.prefetch,
            "hit_rate": ratio(r.cached_tokens, prompt_tokens(r)),
            "hbm": {"hit_tokens": found.near_tokens, "hit_rate": ratio(found.near_tokens, prompt_tokens(r))},
            "tiers": [_tier_dict(r, found, i) for i in range(len(found.tiers))],
            "declined_tokens": found.declined_tokens,
            "loads": found.loads,
            "load_wait_s_mean": ratio(found.waited_s, found.loads),
            "load_wait_s_max": found.longest_s,
            "load_wait_s_total": found.waited_s,
            "steps_held_s": found.held_s,
        }
    }


def _tier_dict(r: Run, found: TiersRun, index: int) -> dict[str, Any]:
    own = found.tiers[index]
    return {
        "name": own.tier.name,
        "capacity_bytes": own.capacity_bytes,
        "peak_bytes": own.peak_bytes,
        "bandwidth_bytes_per_s": own.tier.bandwidth_bytes_per_s if own.tier.paced else None,
        "latency_s": own.tier.latency_s,
        "link": own.tier.source,
        "hit_tokens": own.hit_tokens,
        "hit_rate": ratio(own.hit_tokens, prompt_tokens(r)),
        "loaded_bytes": own.loaded_bytes,
        "stored_bytes": own.stored_bytes,
        "evicted_bytes": own.evicted_bytes,
        "prefetched_bytes": own.prefetched_bytes,
        "link_up_s": own.up_s,
        "link_down_s": own.down_s,
    }


def tiers_text(r: Run) -> list[str | Sequence[Mapping[str, Any]]]:
    """The same as a sentence and a table; nothing without tiers."""
    found = r.tiers
    if found is None:
        return []
    asked = prompt_tokens(r)
    rows: list[dict[str, Any]] = [
        {"tier": "HBM", "GiB": "-", "peak_GiB": "-", "link": "-",
         "hit_rate": _share(found.near_tokens, asked), "loaded_GiB": "-", "stored_GiB": "-"}
    ]  # fmt: skip
    for own in found.tiers:
        tier = own.tier
        rate = f"{show(tier.bandwidth_bytes_per_s / 1e9)} GB/s" if tier.paced else "free"
        rows.append({
            "tier": tier.name, "GiB": show(own.capacity_bytes / 2**30),
            "peak_GiB": show(own.peak_bytes / 2**30), "link": f"{rate} + {show(tier.latency_s * 1e6)} us",
            "hit_rate": _share(own.hit_tokens, asked), "loaded_GiB": show(own.loaded_bytes / 2**30),
            "stored_GiB": show((own.stored_bytes + own.prefetched_bytes) / 2**30),
        })  # fmt: skip
    text = (
        f"KV cache tiers (write {found.settings.write}, load {found.settings.load}): "
        f"{_share(r.cached_tokens, asked)} of {show(asked)} prompt tokens were found"
    )
    if found.loads:
        mean = found.waited_s / found.loads
        text += f"; {show(found.loads)} loads took {show(mean)} s on average, {show(found.longest_s)} s at most"
    if found.declined_tokens:
        text += f"; {show(found.declined_tokens)} tokens lay in a tier and were computed sooner"
    if found.held_s > 0:
        text += f"; steps waited {show(found.held_s)} s for copies of blocks that they took"
    return [text + ".", rows]


def _share(part: float, whole: float) -> str:
    share = ratio(part, whole)
    return "-" if share is None else f"{share:.1%}"


def _found(r: Run) -> TiersRun:
    assert r.tiers is not None
    return r.tiers


def _rate(name: str, where: str) -> Quantity:
    """Share of the prompt tokens asked for that a tier had; None where there is no such tier."""

    def value(r: Run) -> float | None:
        own = {each.tier.name: each for each in _found(r).tiers}.get(name)
        return None if own is None else ratio(own.hit_tokens, prompt_tokens(r))

    return Quantity(f"kv_hit_rate_{name}", f"Share that came from {where}.", value, column=True)


QUANTITIES = (
    Quantity("kv_hit_rate", "Share of the prompt tokens asked for that were found somewhere.",
             lambda r: ratio(r.cached_tokens, prompt_tokens(r)), column=True),
    Quantity("kv_hit_rate_hbm", "Share that was found in the devices' own memory.",
             lambda r: ratio(_found(r).near_tokens, prompt_tokens(r)), column=True),
    _rate("host", "the host's memory"), _rate("disk", "the disk"), _rate("shared", "the shared pool"),
    Quantity("kv_loaded_bytes", "Bytes loaded from tiers.",
             lambda r: sum(own.loaded_bytes for own in _found(r).tiers), column=True),
    Quantity("kv_stored_bytes", "Bytes written to tiers.",
             lambda r: sum(own.stored_bytes for own in _found(r).tiers), column=True),
    Quantity("kv_load_wait_s_mean", "Mean time from a load's order to its end [s].",
             lambda r: ratio(_found(r).waited_s, _found(r).loads), column=True),
    Quantity("kv_steps_held_s", "Time that steps waited for blocks to be copied [s].",
             lambda r: _found(r).held_s, column=True),
)  # fmt: skip
FACET = Facet(tiers_dict, tiers_text, QUANTITIES, "kv_tiers", "it is of a KV cache with tiers (kv_tiers)")
