"""Adapters of tenants in an answer: what they take, and what requests waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...simulator.deploy.deployment import Deployment
from ...workloads.adapters import adapter_bytes
from ..show.text import show
from .facet import Facet

if TYPE_CHECKING:
    from ...simulator.parts.adapters.run import AdapterCounts


def adapters_dict(d: Deployment, counts: AdapterCounts | None = None) -> dict[str, Any]:
    """Entry of an answer's JSON; nothing without adapters.

    Parameters
    ----------
    counts : AdapterCounts, optional
        Of a run in which some adapters were elsewhere.
    """
    if d.tenants is None:
        return {}
    found: dict[str, Any] = {
        "adapters": d.tenants.adapters,
        "rank": d.tenants.rank,
        "resident": d.tenants.resident,
        "popularity": d.tenants.popularity,
        "bytes_each": adapter_bytes(d.shard),
        "resident_bytes": d.tenants.resident * adapter_bytes(d.shard),
    }
    if counts is not None:
        found |= {
            "hit_rate": counts.hits / counts.asked if counts.asked else 1.0,
            "loads": counts.loads,
            "loaded_bytes": counts.loads * adapter_bytes(d.shard),
            "link_s": counts.link_s,
            "waited_s": counts.waited_s,
        }
    return {"adapters": found}


def adapters_text(d: Deployment, counts: AdapterCounts | None = None) -> list[str]:
    """The same as a sentence; nothing without adapters."""
    found = adapters_dict(d, counts).get("adapters")
    if found is None:
        return []
    text = (
        f"{found['adapters']:,} adapters of rank {found['rank']}, {show(found['bytes_each'] / 1e6)} MB each "
        f"on a device; {found['resident']:,} in its memory take {show(found['resident_bytes'] / 2**30)} GiB."
    )
    if counts is not None:
        text += (
            f" {found['hit_rate']:.1%} of the requests found theirs there; {found['loads']:,} were brought "
            f"over the link in {show(found['link_s'])} s, and requests waited "
            f"{show(found['waited_s'] / max(counts.asked, 1))} s each for them."
        )
    return [text]


FACET = Facet(lambda r: adapters_dict(r.deployment, r.adapters), lambda r: adapters_text(r.deployment, r.adapters))
