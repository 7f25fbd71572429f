"""What no price has, though it takes time: the interval widens by it, and the evidence says so.

Each has the distribution of measured over simulated seconds of given runs where it is, with what the
kernels' own errors leave (../shared/real_runs). It is none of the answer: nothing is scaled by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.hosts.catalog import host_of
from ...devices.ratios import Ratios
from ...simulator.deploy.deployment import Deployment

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Unpriced:
    """One such thing.

    Attributes
    ----------
    name, why : str
        What it is; what its errors are of.
    times : callable
        How often a deployment has it; 0 = not at all.
    ratios : Ratios
        Logarithms of measured over simulated seconds for each time.
    """

    name: str
    why: str
    times: Callable[[Deployment], float]
    ratios: Ratios


def _ranks(d: Deployment) -> float:
    return float(d.layout.dp > 1 and d.ranks > 1)


def _stages(d: Deployment) -> float:
    return log2(d.layout.pp)


def _no_peers(d: Deployment) -> float:
    machine = host_of(d.system)
    return float(d.layout.tp > 1 and machine is not None and not machine.link.peer_access)


UNPRICED = (
    Unpriced(
        "ranks in lock-step", "kernels started one by one beside prompts, and what ranks wait for each other; "
        "27 runs of one MoE model on H100, H200 and B200, TensorRT-LLM", _ranks, Ratios(0.2, 0.34, 0.48),
    ),
    Unpriced(
        "stages of a pipeline", "launches of sends, and the host's work for every batch in flight; 30 runs of "
        "one dense model on two to eight cards on PCIe, TensorRT-LLM, for each doubling of stages", _stages,
        Ratios(0.0, 0.13, 0.26),
    ),
    Unpriced(
        "links without peer access", "the host's copies and what else its memory serves; 25 runs on pairs of two "
        "cards, vLLM 0.8", _no_peers, Ratios(0.1, 0.3, 0.6),
    ),
)  # fmt: skip


def unpriced_in(d: Deployment) -> list[Unpriced]:
    """What a deployment has of it."""
    return [each for each in UNPRICED if each.times(d) > 0.0]


def unpriced_slowdowns(d: Deployment, scores: F8) -> F8:
    """Draws of how many times as long steps take for it; 1 where there is nothing.

    Parameters
    ----------
    scores : float64 array
        Standard normal scores in order.
    """
    rng = np.random.default_rng(1)
    out = np.ones(len(scores))
    for each in unpriced_in(d):
        out *= np.exp(each.times(d) * each.ratios.at(rng.permutation(scores)))
    return out


def unpriced_evidence(d: Deployment) -> list[dict[str, Any]]:
    """Entries of the evidence."""
    return [
        {
            "cost_model": "not priced", "applies_to": each.name, "basis": "assumed", "error": None,
            "rows": 0, "assumptions": {}, "why": f"NOT PRICED, the interval is wider: {each.why}",
        }
        for each in unpriced_in(d)
    ]  # fmt: skip
