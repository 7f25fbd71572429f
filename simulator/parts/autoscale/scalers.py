"""The number of replicas that an autoscaler requests: named rules over the state at a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ....workloads.errors import InputError
from ....workloads.registry import Registry

if TYPE_CHECKING:
    from ...engine.state import F8


@dataclass(frozen=True, slots=True)
class Seen:
    """State of a fleet as its autoscaler sees it.

    Attributes
    ----------
    replicas, ready : int
        Replicas that have been asked for, those that still start among them, and those that serve.
    waiting, running : int
        Requests in queues, including the router's, and other unfinished ones.
    kv : float
        Shares of the KV capacity that are in use, of all ready replicas added up.
    ttft_s : float64 array
        Of rules decorated with `by_ttft`: times to first token of the first tokens of the window, and
        how long others have waited for theirs that are late already [s].
    share : float
        Of them that should be within the target.
    """

    replicas: int
    ready: int
    waiting: int = 0
    running: int = 0
    kv: float = 0.0
    ttft_s: F8 = field(default_factory=lambda: np.zeros(0))
    share: float = 1.0


Rule = Callable[[Seen, float], float]
"""Function from the observed state and the target to the required number of replicas, not rounded."""


def _wants(rule: Rule) -> None:
    """Refuse a rule that does not return a number of replicas."""
    wanted = rule(Seen(2, 2, 4, 4, 1.0, np.ones(3)), 1.0)
    if not np.isfinite(wanted):
        raise InputError("result of the rule", f"must be a finite number of replicas, not {wanted!r}")


SCALERS: Registry[Rule] = Registry("autoscaler", described=True, check=_wants)
_BY_TTFT: set[Rule] = set()


def by_ttft(rule: Rule) -> Rule:
    """Decorate a rule whose target is a TTFT [s] and that uses measured TTFTs."""
    _BY_TTFT.add(rule)
    return rule


def asks_ttft(rule: Rule) -> bool:
    """Whether a rule is decorated with `by_ttft`."""
    return rule in _BY_TTFT


@SCALERS.register("requests")
def requests(seen: Seen, target: float) -> float:
    """Target number of waiting and running requests per replica.

    Concurrency, which Knative's autoscaler and AIBrix's of the same kind aim at (knative.dev,
    "Additional autoscaling configuration for Knative Pod Autoscaler").
    """
    return (seen.waiting + seen.running) / target


@SCALERS.register("queue")
def queue(seen: Seen, target: float) -> float:
    """Target number of waiting requests per replica.

    ``vllm:num_requests_waiting``, which vLLM's production stack scales by with KEDA
    (docs.vllm.ai/projects/production-stack, "Autoscaling with KEDA").
    """
    return seen.waiting / target


@SCALERS.register("kv")
def kv(seen: Seen, target: float) -> float:
    """Such a share of the KV cache in use on a replica.

    KServe's example of scaling by vLLM's metrics (kserve.github.io, "Autoscale InferenceService with
    LLM metrics"), and the decode workers of NVIDIA Dynamo's load-based planner.
    """
    return seen.kv / target


HALF = 0.5
"""Assumed: one replica less suffices if enough first tokens come within this share of the limit."""


@SCALERS.register("slo")
@by_ttft
def slo(seen: Seen, target: float) -> float:
    """TTFT within a limit: one replica more if attainment is too low, one less if it is well above.

    One at a time, and none while another starts, as NVIDIA Dynamo's load-based planner does
    (docs/architecture/load_planner.md).
    """
    if seen.ready < seen.replicas:
        return seen.replicas
    if len(seen.ttft_s) and np.mean(seen.ttft_s <= target) < seen.share:
        return seen.replicas + 1
    easy = not len(seen.ttft_s) or np.mean(seen.ttft_s <= HALF * target) >= seen.share
    return seen.replicas - 1 if easy else seen.replicas
