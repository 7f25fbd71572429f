"""Experts on devices of their own in an answer: how busy both groups and their link are, what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...devices.link import LATENCY_BYTES
from ...simulator.batching.policies import Policy
from ...simulator.deploy.deployment import Deployment
from ...simulator.serving.record import Run
from ...workloads.batch import Batch
from ..show.text import seconds
from .evidence import evidence
from .facet import Facet


def apart_dict(r: Run) -> dict[str, Any]:
    """Both groups of devices for JSON; nothing where there is one."""
    a, apart = r.apart, of_run(r).apart
    if a is None or apart is None:
        return {}
    rate = apart.link.bandwidth_bytes_per_s
    return {
        "experts_apart": {
            "experts_on": a.deployment.system.name,
            "attention_devices": a.attention_devices,
            "experts_devices": a.experts_devices,
            "micro_batches": a.batches,
            "link": {"bytes_per_s": None if rate == float("inf") else rate, "latency_s": apart.link.latency_s},
            "attention_busy": a.attention,
            "experts_busy": a.experts,
            "link_busy": a.link,
            "limit": a.limit,
        }
    }


def apart_text(r: Run) -> list[str]:
    """The same as a sentence."""
    a, apart = r.apart, of_run(r).apart
    if a is None or apart is None:
        return []
    rate = apart.link.bandwidth_bytes_per_s
    link = "free" if rate == float("inf") else f"{rate / 1e9:g} GB/s a device"
    text = (
        f"Of the time in steps, of {a.batches} micro-batches at most, the devices that attend "
        f"({a.attention_devices}) work {a.attention:.1%}, those with experts ({a.experts_devices}) "
        f"{a.experts:.1%}, and the link ({link}, {seconds(apart.link.latency_s)} a message) {a.link:.1%}; "
        f"steps are limited by: {a.limit}."
    )
    return [text]


def of_run(r: Run) -> Deployment:
    """What runs, of two pools the one that decodes: experts apart are its own."""
    return r.pools[-1].deployment if r.pools else r.deployment


def apart_evidence(
    d: Deployment, sources: Mapping[str, str], beside: Mapping[str, str], policy: Policy | None,
    batches: Sequence[Batch],
) -> list[dict[str, Any]]:  # fmt: skip
    """What a run rests on, both groups of devices told apart by name.

    Parameters
    ----------
    sources, beside : mapping of str to str
        Key path of each system's description -> source of that number.
    """
    if d.apart is None:
        return evidence(d, sources, policy, batches)
    holder = d.apart.holder
    unused = ("links within a node", "links between nodes")
    experts = [
        entry for entry in evidence(holder, beside, None, batches, experts=True) if entry["applies_to"] not in unused
    ]
    found = [
        {**entry, "applies_to": f"{entry['applies_to']}, {group}"}
        for group, own in (("attention", evidence(d, sources, policy, batches, experts=False)), ("experts", experts))
        for entry in own
    ]
    link: dict[str, Any] = {
        "cost_model": LATENCY_BYTES, "applies_to": "what crosses to the experts and back",
        "basis": "spec", "error": None, "rows": 0, "assumptions": {}, "why": "the rate given, or that of the slower network",
    }  # fmt: skip
    return [*found, link]


FACET = Facet(apart_dict, apart_text)
