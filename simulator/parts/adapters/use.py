"""Memory of adapters on a device, and the counts of adapter slots in a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....workloads.adapters import Tenants, adapter_bytes, tenants_of, with_adapters
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ...deploy.deployment import Deployment
from ...quantity import Figures, Quantity
from . import AdapterOptions

if TYPE_CHECKING:
    from ...fleet.run_state import RunState
    from ...results.record import Run
    from .run import AdapterCounts


@dataclass(frozen=True, slots=True)
class AdaptersUse:
    """Adapters of a run or a step, with `counts` of waits if not all adapters are loaded."""

    tenants: Tenants
    bytes_each: float
    counts: AdapterCounts | None = None

    @property
    def resident_bytes(self) -> float:
        """Return the bytes of the adapters in a device's memory."""
        return self.tenants.resident * self.bytes_each


def adapters_left(run: Run, served: RunState, *_: object) -> AdaptersUse | None:
    """Return the adapters and their counts in a run; None without adapters."""
    tenants = run.deployment.parts.get("adapters")
    return tenants and AdaptersUse(tenants, adapter_bytes(run.deployment.shard), served.parts["adapters"])


def adapters_of_step(deployment: Deployment, *_: object) -> AdaptersUse | None:
    """Return the adapters of a step; None without adapters."""
    tenants = deployment.parts.get("adapters")
    return tenants and AdaptersUse(tenants, adapter_bytes(deployment.shard))


HELD = (
    Quantity("adapters", "Number of LoRA adapters.", "tenants.adapters", label="adapters"),
    Quantity("rank", "Rank of the adapters.", "tenants.rank", label="rank"),
    Quantity("resident", "Adapters that fit in a device's memory.", "tenants.resident", label="in memory"),
    Quantity("popularity", "Popularity of adapters among requests that name none.", "tenants.popularity"),
    Quantity("bytes_each", "Bytes of one adapter on a device [B].", unit="B", label="each"),
    Quantity("resident_bytes", "Bytes of the adapters in a device's memory [B].", unit="B", label="all in memory"),
)  # fmt: skip
FIGURES = Figures("adapters", "Adapters", HELD)
SWAPPED = Figures("adapters", "Adapters", (
    *HELD,
    Quantity("hit_rate", "Share of requests whose adapter was in device memory at admission.",
             lambda a: a.counts.hits / a.counts.asked if a.counts.asked else 1.0, "%", "hits"),
    Quantity("loads", "Adapters loaded from host memory.", "counts.loads", label="loads"),
    Quantity("loaded_bytes", "Bytes of adapters loaded from host memory [B].", lambda a: a.counts.loads * a.bytes_each, "B", "brought"),
    Quantity("link_s", "Time that the host link was busy with adapters [s].", "counts.link_s", "s", "link busy"),
    Quantity("waited_s", "Total time that requests waited for adapters [s].", "counts.waited_s", "s", "requests waited in all"),
))  # fmt: skip


def figures(use: AdaptersUse) -> Figures:
    """Values to output; there are more of them if adapters wait for slots."""
    return FIGURES if use.counts is None else SWAPPED


def tenants_asked(options: AdapterOptions, _: object) -> Tenants | None:
    """Return the adapters that the options define."""
    return tenants_of(options.adapters, options.adapter_rank, options.adapters_resident, options.adapter_popularity)


def adapted(tenants: Tenants, model: ModelSpec) -> tuple[ModelSpec, str]:
    """Return the model with its adapters, and the popularity of adapters among requests."""
    return with_adapters(model, tenants), tenants.popularity


def check_adapters(_: Tenants, deployment: Deployment) -> None:
    """Refuse adapters on data-parallel ranks that run in lock-step."""
    if deployment.lockstep:
        raise InputError("--adapters", "cannot be combined with data-parallel ranks that share experts; use --dp 1")
