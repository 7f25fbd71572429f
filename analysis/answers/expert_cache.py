"""What an expert cache did, and what it cost: for people and for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...simulator.deploy.deployment import Deployment
from ...simulator.parts.expert_cache.counts import StepFetch
from ..show.text import show
from .facet import Facet

if TYPE_CHECKING:
    from ...simulator.serving.record import Run


def cache_dict(d: Deployment, fetch: StepFetch | None, seconds: float) -> dict[str, Any]:
    """Entry of an answer's JSON; nothing without a cache.

    Parameters
    ----------
    seconds : float
        What the steps took in all, waiting included [s].
    """
    store = d.store
    if store is None or fetch is None:
        return {}
    held = next(part.held for part in d.experts if not part.kept)
    found = {
        "slots": store.slots(held, d.system.name),
        "held": held,
        "policy": store.policy,
        "look_ahead": store.look_ahead,
        "predictor_accuracy": store.accuracy,
        "predictor_false_rate": store.false_rate,
        "horizon": store.horizon if store.predicts else None,
        "hit_rate": fetch.hit_rate,
        "experts_needed": fetch.needed,
        "experts_fetched_late": fetch.misses,
        "experts_fetched_ahead": fetch.ahead,
        "fetched_bytes": fetch.bytes,
        "link_s": fetch.link_s,
        "hidden_s": max(0.0, fetch.link_s - fetch.waited_s),
        "waited_s": fetch.waited_s,
        "waited_share": fetch.waited_s / seconds if seconds else None,
    }
    return {"expert_cache": found}


def cache_text(d: Deployment, fetch: StepFetch | None, seconds: float) -> list[str]:
    """The same as a sentence; nothing without a cache."""
    found = cache_dict(d, fetch, seconds).get("expert_cache")
    if found is None:
        return []
    late, ahead = found["experts_fetched_late"], found["experts_fetched_ahead"]
    named = f", {show(ahead)} more were fetched ahead" if ahead else ""
    share = found["waited_share"] or 0.0
    return [
        (
            f"{found['slots']} of {found['held']} experts of a layer stay in a device's memory under "
            f"{found['policy']}: {found['hit_rate']:.1%} of those needed were there{named}, "
            f"{show(late)} were waited for. {show(found['fetched_bytes'] / 1e9)} GB were fetched: of "
            f"{show(found['link_s'])} s on the link {show(found['hidden_s'])} s were hidden behind "
            f"compute, {show(found['waited_s'])} s were not, {share:.1%} of all steps."
        )
    ]


def _stepping_s(r: Run) -> float:
    """Seconds of all steps of a run, on all its engines together."""
    return sum({(op.layer, op.name, op.kind): op.wall_s for op in r.ops}.values())


FACET = Facet(
    lambda r: cache_dict(r.deployment, r.fetch, _stepping_s(r)),
    lambda r: cache_text(r.deployment, r.fetch, _stepping_s(r)),
)
