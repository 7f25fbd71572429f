"""Expert caches of a deployment from options, and their results in a run or a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....devices.cost import BOUNDS, PATHS
from ....devices.spec import SystemSpec
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ....workloads.records import summed
from ...deploy.deployment import Deployment
from ...quantity import Figures, Quantity, ratio
from . import ExpertCacheOptions
from .cache import StepFetch
from .store import ExpertStore, expert_store, tiers_of

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...fleet.run_state import RunState
    from ...results.record import OpTotal, Run
    from ...step.explicit import StageCost


def store_asked(options: ExpertCacheOptions, _: object) -> ExpertStore | None:
    """Return the expert cache of the options."""
    return expert_store(
        options.experts_resident, options.expert_cache, options.expert_predictor, options.expert_horizon
    )


def checked_store(store: ExpertStore, model: ModelSpec, system: SystemSpec, *_: object) -> ExpertStore:
    """Refuse an expert cache without experts, or without a memory for the others.

    Raises
    ------
    InputError
    """
    parts = [part.routed for layer in model.layers for part in layer.expert_parts]
    if all(routed.by_request for routed in parts):
        raise InputError("--experts-resident", f"{model.name} has no experts; remove the option")
    if system.mapping.separate:
        reason = "cannot be combined with a system whose processors are separate devices"
        raise InputError("--experts-resident", f"{reason}, as on {system.name}")
    tiers_of(system.device)
    return store


def elsewhere_bytes(store: ExpertStore, deployment: Deployment, stage: int) -> float:
    """Return the bytes of a pipeline stage's experts for which a device has no slots.

    Raises
    ------
    InputError
        More slots than experts on a device.
    """
    parts = [part for part in deployment.experts if part.stage == stage and not part.kept]
    if not parts:
        return 0.0
    sizes = [part.expert_bytes(deployment.run) for part in parts]
    staging = max(sizes) if store.rule.looks_ahead else 0.0  # see `ExpertCache`
    slots = [store.slots(part.held, deployment.system.name) for part in parts]
    return -staging + sum(
        (part.held - slots_of_part) * part.layers * size
        for part, slots_of_part, size in zip(parts, slots, sizes, strict=True)
    )


FETCH = "expert_fetch"
"""Name of the op of the layers' waiting time for experts."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Expert caches of some steps; `seconds` is what the steps took in all, waiting included [s]."""

    store: ExpertStore
    fetch: StepFetch
    seconds: float
    slots: int
    held: int

    @classmethod
    def of(cls, deployment: Deployment, fetch: StepFetch | None, seconds: float) -> CacheUse | None:
        """Caches of a deployment; None without any."""
        store = deployment.parts.get("resident-experts")
        if store is None or fetch is None:
            return None
        count = next(part.held for part in deployment.experts if not part.kept)
        return cls(store, fetch, seconds, store.slots(count, deployment.system.name), count)


def cache_left(run: Run, served: RunState, *_: object) -> CacheUse | None:
    """Expert caches of a run."""
    stepping_s = sum({(op.layer, op.name, op.kind): op.wall_s for op in run.ops}.values())
    return CacheUse.of(run.deployment, fetched(served.engines), stepping_s)


def cache_of_step(deployment: Deployment, stage: StageCost) -> CacheUse | None:
    """Expert caches of a step."""
    return CacheUse.of(deployment, stage.fetch, stage.seconds)


def fetched(engines: Sequence[Engine]) -> StepFetch | None:
    """What the expert caches of all engines did; None without any."""
    totals = [engine.step_totals.cache_state.totals for engine in engines if engine.step_totals.cache_state is not None]
    if not totals:
        return None
    t = summed(totals)
    return StepFetch(t.needed, t.hits, t.misses, t.ahead, t.bytes, t.link_s, t.wait_s)


def waiting(engines: Sequence[Engine]) -> tuple[OpTotal, ...]:
    """Fetches of experts as an op on a link: its wall seconds are those that layers waited."""
    from ...results.record import OpTotal

    fetch = fetched(engines)
    if fetch is None:
        return ()
    bound = {"memory": fetch.link_s}
    return (
        OpTotal(
            "communication", FETCH, "transfer", "host link", fetch.waited_s, fetch.link_s,
            0.0, 0.0, 0.0, dict.fromkeys(PATHS, 0.0), fetch.misses + fetch.ahead, 0.0, dict.fromkeys(BOUNDS, 0.0) | bound,
        ),
    )  # fmt: skip


FIGURES = Figures("expert_cache", "Expert cache", (
    Quantity("slots", "Experts of a layer that fit in a device's expert cache.", label="slots"),
    Quantity("held", "Experts of a layer that are assigned to a device.", label="of experts"),
    Quantity("policy", "Eviction policy.", "store.policy", label="policy"),
    Quantity("look_ahead", "Steps that the policy looks ahead.", "store.look_ahead"),
    Quantity("predictor_accuracy", "Share of the needed experts that the predictor names.", "store.accuracy"),
    Quantity("predictor_false_rate", "Share of the other experts that the predictor names.", "store.false_rate"),
    Quantity("horizon", "Start of the prefetch: layer or step.", lambda c: c.store.horizon if c.store.predicts else None),
    Quantity("hit_rate", "Expert cache hit rate: share of the needed experts in device memory.", "fetch.hit_rate", "%", "hits"),
    Quantity("experts_needed", "Experts that devices needed, summed over layers and steps.", "fetch.needed"),
    Quantity("experts_fetched_late", "Experts fetched when they were needed.", "fetch.misses", "1", "fetched late"),
    Quantity("experts_fetched_ahead", "Experts prefetched.", "fetch.ahead", "1", "fetched ahead"),
    Quantity("fetched_bytes", "Bytes of experts fetched from host memory or disk [B].", "fetch.bytes", "B", "fetched"),
    Quantity("link_s", "Time that the busiest links were busy [s].", "fetch.link_s", "s", "link busy"),
    Quantity("hidden_s", "Link time that overlapped with computation [s].", lambda c: max(0.0, c.fetch.link_s - c.fetch.waited_s), "s", "hidden"),
    Quantity("waited_s", "Time that layers waited for experts [s].", "fetch.waited_s", "s", "layers waited"),
    Quantity("waited_share", "Share of the step time in which layers waited for experts.", lambda c: ratio(c.fetch.waited_s, c.seconds), "%", "of all steps"),
))  # fmt: skip
