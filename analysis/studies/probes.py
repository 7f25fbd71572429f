"""Deployments that sample expert loads for some layers only: a search simulates them many times faster.

A step samples the expert loads of each MoE layer, and most of a simulation's CPU time goes there. Layers of one kind
differ by chance only, so a sample of them has the same mean time. With 4 samples for the 94 layers of Qwen3-235B, mean
and p99 of TPOT and the energy change by 0.3 %, the p99 of TTFT by 2 %, and 2,000 requests take 0.4 instead of 6.6 CPU s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ...simulator.deploy.expert_parts import ExpertPart
from ...simulator.scenario.build import Made

DRAWS, ROUTED = 4, 24
"""Samples per step for equal layers: under uniform routing, and if each layer has its own popular experts."""


def sampled(made: Made) -> Made:
    """Return a deployment in which equal MoE layers share samples, or the same object if there are none."""
    d, settings = made
    if d.apart is not None or d.parts or d.pools:
        return made
    alike: dict[tuple[object, ...], list[ExpertPart]] = {}
    for part in d.experts:
        alike.setdefault((part.spec, part.ep, part.stage, id(part.router), id(part.placed)), []).append(part)
    experts = tuple(part for parts in alike.values() for part in _shared(parts))
    return made if len(experts) == len(d.experts) else (replace(d, experts=experts), settings)


def _shared(parts: Sequence[ExpertPart]) -> list[ExpertPart]:
    """Return evenly spaced layers, each with the number of layers that it represents."""
    count = min(len(parts), DRAWS if parts[0].router.uniform else ROUTED)
    edges = [i * len(parts) // count for i in range(count + 1)]
    groups = [parts[a:b] for a, b in pairwise(edges)]
    return [replace(group[0], layers=sum(part.layers for part in group)) for group in groups]
