"""What adapters take of a device, and what requests asked of their slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....workloads.adapters import Tenants, adapter_bytes
from ...deploy.deployment import Deployment

if TYPE_CHECKING:
    from ...serving.record import Run
    from ...serving.served import Served
    from .run import AdapterCounts


@dataclass(frozen=True, slots=True)
class AdaptersUse:
    """Adapters of a run or a step; `counts` where some wait for slots."""

    tenants: Tenants
    bytes_each: float
    counts: AdapterCounts | None = None

    @property
    def resident_bytes(self) -> float:
        """Bytes of those in a device's memory."""
        return self.tenants.resident * self.bytes_each


def adapters_left(run: Run, served: Served, *_: object) -> AdaptersUse | None:
    """Adapters of a run."""
    tenants = run.deployment.parts.get("adapters")
    return tenants and AdaptersUse(tenants, adapter_bytes(run.deployment.shard), served.parts["adapters"])


def adapters_of_step(deployment: Deployment, *_: object) -> AdaptersUse | None:
    """Adapters of a step."""
    tenants = deployment.parts.get("adapters")
    return tenants and AdaptersUse(tenants, adapter_bytes(deployment.shard))
