"""Evidence of a run with experts on separate devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...devices.link import LATENCY_BYTES
from ...simulator.batching.policies import Policy
from ...simulator.deploy.deployment import Deployment
from ...workloads.batch import Batch
from .evidence import evidence


def apart_evidence(
    deployment: Deployment, sources: Mapping[str, str], beside: Mapping[str, str], policy: Policy | None,
    batches: Sequence[Batch],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the evidence of a run; entries name their group of devices.

    Parameters
    ----------
    sources, beside : mapping of str to str
        Key path of each system's description -> source of that number.
    """
    if deployment.apart is None:
        return evidence(deployment, sources, policy, batches)
    holder = deployment.apart.holder
    unused = ("links within a node", "links between nodes")
    experts = [
        entry for entry in evidence(holder, beside, None, batches, experts=True) if entry["applies_to"] not in unused
    ]
    entries = [
        {**entry, "applies_to": f"{entry['applies_to']}, {group}"}
        for group, group_entries in (
            ("attention", evidence(deployment, sources, policy, batches, experts=False)),
            ("experts", experts),
        )
        for entry in group_entries
    ]
    link: dict[str, Any] = {
        "cost_model": LATENCY_BYTES, "applies_to": "what crosses to the experts and back",
        "basis": "spec", "error": None, "rows": 0, "assumptions": {}, "why": "the given rate, or the rate of the slower network",
    }  # fmt: skip
    return [*entries, link]
