"""Evidence of a run with experts on separate devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...devices.link import LATENCY_BYTES
from ...simulator.deploy.deployment import Deployment
from ...simulator.engine.policies import Policy
from ...workloads.batch import Batch
from ..show.text import Records
from .evidence import entry, evidence


def apart_evidence(
    deployment: Deployment, sources: Mapping[str, str], beside: Mapping[str, str], policy: Policy | None = None,
    batches: Sequence[Batch] = (),
) -> Records:  # fmt: skip
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
        known for known in evidence(holder, beside, None, batches, experts=True) if known["applies_to"] not in unused
    ]
    entries = [
        {**known, "applies_to": f"{known['applies_to']}, {group}"}
        for group, group_entries in (
            ("attention", evidence(deployment, sources, policy, batches, experts=False)),
            ("experts", experts),
        )
        for known in group_entries
    ]
    why = "the given rate, or the rate of the slower network"
    return [*entries, entry(LATENCY_BYTES, "what crosses to the experts and back", "spec", why=why)]
