"""What no price has, though it takes time: the interval widens by it, and the evidence says so.

Each has what the kernels' own errors leave of the distribution of measured over simulated seconds of given runs where it
is ($OPBYTE_DATA/real_runs): their median error, and their spread less that of the kernels, in squares. Nothing that is
answered is scaled by it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.catalog import load_device
from ...devices.hosts.catalog import host_of
from ...devices.power.cap import held_processor
from ...devices.ratios import Ratios
from ...simulator.deploy.deployment import Deployment
from ...simulator.step.explicit import StageCost

F8 = npt.NDArray[np.float64]


class Unpriced(NamedTuple):
    """One such thing, what its errors are of, how often a deployment has it, the errors each time, and how ops are bound that have it."""

    name: str
    why: str
    times: Callable[[Deployment], float]
    ratios: Ratios
    bound: str = ""

    def of(self, d: Deployment, stage: StageCost) -> float:
        """How often a step has it."""
        own = [(o.cost.seconds * o.count, o.cost.bound) for o in stage.ops if o.critical]
        held = sum(s for s, bound in own if self.bound in ("", bound))
        return self.times(d) * held / max(sum(s for s, _ in own), 1e-300)


def _no_peers(d: Deployment) -> float:
    machine = host_of(d.system)
    return float(d.layout.tp > 1 and machine is not None and not machine.link.peer_access)


def _below_clock(d: Deployment) -> float:
    """Halvings of the clock by watts: of a cap, and below the clock of the board whose kernels are asked; one at most, as no run had more."""
    spec = d.system.device
    own = next(iter(spec.processors.values()))
    held, share = held_processor(spec, own), spec.clock_share
    if held is not own and spec.kernels is not None:
        timed = next(iter(load_device(spec.kernels)[0].processors.values()))
        share *= min((held.clock_Hz or 1.0) / (timed.clock_Hz or 1.0), 1.0)
    return min(-log2(share), 1.0)


UNPRICED = (
    Unpriced(
        "links without peer access", "the host's copies and what else its memory serves; 15 runs on pairs of two "
        "cards, vLLM 0.8", _no_peers, Ratios(-0.17, 0.15, 0.5),
    ),
    Unpriced(
        "boards with fewer watts", "what lower clocks do to arithmetic beside what is said, and makers' own limits; Llama-2-70B on four "
        "systems of H100 NVL and PCIe, TensorRT-LLM, three quarters of whose steps are bound by arithmetic, for each halving of the clock",
        _below_clock, Ratios(-0.04, 0.92, 1.58), "compute",
    ),
)  # fmt: skip


def unpriced_slowdowns(d: Deployment, stage: StageCost, scores: F8) -> F8:
    """Draws of how many times as long a step takes for it, from standard normal scores in order."""
    rng, out = np.random.default_rng(1), np.ones(len(scores))
    for each in UNPRICED:
        if times := each.of(d, stage):
            out *= np.exp(times * each.ratios.at(rng.permutation(scores)))
    return out


def unpriced_evidence(d: Deployment) -> list[dict[str, Any]]:
    """Entries of the evidence."""
    return [
        {
            "cost_model": "not priced", "applies_to": each.name, "basis": "assumed", "error": None,
            "rows": 0, "assumptions": {}, "why": f"NOT PRICED, the interval is wider: {each.why}",
        }
        for each in UNPRICED if each.times(d)
    ]  # fmt: skip
