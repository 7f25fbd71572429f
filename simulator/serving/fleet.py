"""How many replicas serve, behind which router, and which of them fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...devices.hosts.catalog import link_of
from ...workloads.errors import InputError
from ..deploy.deployment import Deployment
from ..limits import MAX_REPLICAS
from ..parts.autoscale.asked import OPTION, Autoscale, parse_autoscale
from ..parts.failures.faults import Faults
from .pools import KvLink, Pools


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of a system.

    Attributes
    ----------
    router : str
        See `routers`.
    replicas : int
        Copies of the whole system.
    parts : mapping of str to object
        What parts have of the fleet, by their names.
    autoscale : Autoscale or None
        How many of the replicas there are when.
    """

    router: str = "round-robin"
    replicas: int = 1
    faults: Faults | None = None
    autoscale: Autoscale | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise InputError("--replicas", f"must be in [1, {MAX_REPLICAS}], not {self.replicas}")


def pools_of(deployment: Deployment, fleet: Fleet) -> Pools:
    """Nodes of a fleet: independent ranks of every copy, or the two pools of split systems."""
    if not deployment.pools:
        entry = (deployment,) * (deployment.replicas * fleet.replicas)
        return Pools(entry, parts=fleet.parts)
    system = deployment.system
    link = link_of(system) if system.nodes == 1 else system.device.node_link
    entry, decode = ((side,) * (side.replicas * fleet.replicas) for side in deployment.pools)
    return Pools(entry, decode, KvLink.of(link), parts=fleet.parts)


def parse_fleet(
    router: str | None = None,
    replicas: int | None = None,
    fail: Sequence[str] = (),
    mtbf: float | None = None,
    repair: float | None = None,
    autoscale: str | None = None,
) -> Fleet | None:
    """A fleet from options as they are typed; None where none is given.

    Raises
    ------
    InputError
        An option out of its range, or a failure that is not written REPLICA@SECONDS.
    """
    if repair is not None and mtbf is None and not fail:
        raise InputError("--repair", "needs failures: --mtbf or --fail")
    faults = None
    if fail or mtbf is not None:
        faults = Faults(tuple(map(_failure, fail)), mtbf, repair or 0.0)
    scaled = None if autoscale is None else parse_autoscale(autoscale)
    if scaled is not None and replicas is not None:
        raise InputError("--replicas", f"cannot be combined with {OPTION}, which says how many there are")
    if router is None and replicas is None and faults is None and scaled is None:
        return None
    count = 1 if replicas is None else replicas
    return Fleet(
        "round-robin" if router is None else router, scaled.most if scaled else count, faults, autoscale=scaled
    )


def _failure(text: str) -> tuple[int, float]:
    replica, at, seconds = text.partition("@")
    try:
        if "_" in text:  # Python reads 1_0 as 10; no other option does
            raise ValueError
        return int(replica), float(seconds if at else "")
    except ValueError:
        reason = f"must be REPLICA@SECONDS, for example 0@12.5, not {text!r}"
        raise InputError("--fail", reason) from None
