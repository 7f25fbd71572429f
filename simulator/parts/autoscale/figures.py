"""Values of autoscaling: of all replicas, or of each of two pools."""

from __future__ import annotations

from operator import itemgetter

from ...quantity import Figures, Quantity
from .replicas import PHASES, Scaling


def _hours(phase: str) -> Quantity:
    def value(scaling: Scaling) -> float:
        return scaling.held_s(phase) * scaling.devices / 3600  # type: ignore[arg-type]

    return Quantity(
        f"{phase}_device_hours", f"Device-hours of replicas that are {phase} [h].", value, "1", f"of them {phase}"
    )


POOL = (
    Quantity("least", "Fewest replicas.", "spec.least"),
    Quantity("most", "Most replicas.", "spec.most"),
    Quantity("rule", "What decides.", "spec.by", label="rule"),
    Quantity("target", "Its target.", lambda s: s.spec.target if s.spec.by else None),
    Quantity("start_s", "Time that a replica takes to start [s].", unit="s", label="start"),
    Quantity("device_hours", "Device-hours in all [h].", unit="1", label="device-hours"),
    *map(_hours, PHASES),
    Quantity("mean_replicas", "Mean replicas.", lambda s: s.held_s() / s.end_s if s.end_s > 0 else None, "1", "mean replicas"),
    Quantity("most_replicas", "Most replicas at once.", "most", label="most at once"),
    Quantity("started", "Replicas started.", lambda s: sum(span.phase == "starting" for span in s.spans)),
    Quantity("drained", "Replicas drained.", lambda s: sum(span.phase == "draining" for span in s.spans)),
    Quantity("usd", "Rent of all devices [USD].", "usd", "1", "USD"),
    Quantity("static_joules", "Energy of idle power [J].", lambda s: s.idle_W * s.held_s()),
    Quantity("starting_joules", "What of it starting replicas take [J].", lambda s: s.idle_W * s.held_s("starting")),
    Quantity("slo_ttft_s", "SLO of the first token [s].", "spec.slo_s", "s", "SLO of the first token"),
    Quantity("slo_attained", "Share of requests within it.", "attained", "%", "within it"),
)  # fmt: skip
FIGURES = Figures("autoscale", "Autoscaling", POOL)


def figures(left: Scaling | dict[str, Scaling]) -> Figures:
    """Of two pools, those that scale have an entry each."""
    if isinstance(left, Scaling):
        return FIGURES
    pools = (Quantity(name, f"Of the pool that does {name}.", itemgetter(name), inside=POOL) for name in left)
    return Figures("autoscale", "Autoscaling", tuple(pools))
