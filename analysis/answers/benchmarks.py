"""The benchmarks of `benchmarks.yaml`: workload, SLO, scenarios, scoring and published results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.catalog import load_system
from ...devices.spec import SystemSpec
from ...simulator.scenario import Scenario
from ...workloads.errors import CapacityError
from ...workloads.registry import Registry
from ...workloads.yamlfile import read_yaml
from .interval import Interval

OFFLINE, SERVER, CURVE = "offline", "server", "curve"
"""Scenarios: all requests at once; the highest Poisson rate that meets the SLO; a closed loop of each size."""
FULL = 1024
"""Clients of the closed loop of one replica in which the effect of the mean prompt length on a score is simulated."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes
    ----------
    name, model : str
        Name of the benchmark, and of its model in the catalog.
    input_len, output_len : int
        Mean lengths of prompts and outputs [tokens].
    lengths : str
        Distribution of the lengths, as in ``opbyte simulate --lengths``.
    slo : mapping of str to float
        Latency limits of scenario "server" [s].
    clients : tuple of int
        Numbers of clients of scenario "curve", one closed loop for each.
    dtype : str or None
        Weight format of most submissions; None for the checkpoint's format.
    wording : str
        Text that the owners of the benchmark require next to a score.
    published : tuple of mapping
        Published entries: name, version, id, and for each scenario the score of the whole system [output tokens/s].
    assumed : str
        Fields above that the rules do not state, and what is assumed for them.
    prompts : tuple of int, optional
        Lowest and highest possible mean prompt length [tokens], if the rules do not state it.
    """

    name: str
    model: str
    input_len: int
    output_len: int
    lengths: str
    scenarios: tuple[str, ...]
    wording: str
    assumed: str = ""
    prompts: tuple[int, int] | None = None
    slo: Mapping[str, float] = field(default_factory=dict)
    clients: tuple[int, ...] = ()
    dtype: str | None = None
    published: tuple[Mapping[str, Any], ...] = ()

    def scenario(self, model: str | Path | None = None, **options: Any) -> Scenario:
        """Return a scenario with the benchmark's workload; `model` replaces the benchmark's model."""
        usual: dict[str, Any] = {"input_len": self.input_len, "output_len": self.output_len, "lengths": self.lengths}
        return Scenario.of(model or self.model, **usual | {"dtype": self.dtype} | options)


@dataclass(frozen=True, slots=True)
class Score:
    """One score.

    Attributes
    ----------
    clients : int or None
        Clients of one replica's closed loop; None in other scenarios.
    layout : str
        Number of replicas and their parallel degrees.
    output_tokens_per_s : float or None
        The score of the whole system; None if no load meets the SLO.
    requests_per_s : float or None
        Load of scenario "server" [1/s].
    interval : Interval or None
        Factors on the score.
    reason : str
        The limiting factor in scenario "server".
    """

    scenario: str
    clients: int | None
    layout: str
    output_tokens_per_s: float | None
    requests_per_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_p99_s: float | None = None
    tpot_mean_s: float | None = None
    interval: Interval | None = None
    reason: str = ""


Scorer = Callable[[Benchmark, Scenario, SystemSpec, int, int | None, float], Score]
"""Function that scores a scenario, from: rules, base scenario, a replica's system, replicas, all clients, load
tolerance."""
SCORERS: Registry[Scorer] = Registry("scenario", home=f"{__package__.rpartition('.')[0]}.studies.benchmark")
BENCHMARKS: Registry[Benchmark] = Registry("benchmark")


_raw = read_yaml(Path(__file__).parent / "benchmarks.yaml")
for _name, _own in _raw["benchmarks"].items():
    _own |= {
        "wording": _raw["wording"][_own["wording"]], "scenarios": tuple(_own["scenarios"]),
        "clients": tuple(_own.get("clients", ())),
        "prompts": tuple(_own["prompts"]) if "prompts" in _own else None,
        "published": tuple(_own.get("published", ())),
    }  # fmt: skip
    BENCHMARKS.register(_name, f"{_own['model']}, {_own['input_len']}+{_own['output_len']} tokens")(
        Benchmark(_name, **_own)
    )


def best_score(
    rules: Benchmark, base: Scenario, system: SystemSpec, scenario: str, clients: int | None = None,
    tolerance: float = 0.02, size: int | None = None, most: Score | None = None,
) -> Score:  # fmt: skip
    """Return the best score of a scenario on a system split into equal replicas, of `size` devices if given.

    `most` is the system's score of scenario "offline". It limits the score of "server": Poisson arrivals cannot be served
    faster than requests that are all sent at once. The search finds a load only to `tolerance`, so it can exceed `most`.

    Raises
    ------
    CapacityError
        The model does not fit, however the devices are split.
    """
    scores = []
    for part, count in _splits(system, base, size):
        try:
            scores.append((SCORERS[scenario](rules, base, part, count, clients, tolerance), part))
        except CapacityError:
            continue
    if not scores:
        raise CapacityError(system.name, f"{base.model} does not fit on the system with any parallel layout")
    best, part = max(scores, key=lambda pair: pair[0].output_tokens_per_s or 0.0)
    best = replace(best, interval=_beside_prompts(rules, base, part, best.interval))
    rate, load, limit = best.output_tokens_per_s, best.requests_per_s, most and most.output_tokens_per_s
    if scenario != SERVER or not rate or not limit or rate <= limit:
        return best
    return replace(
        best, output_tokens_per_s=limit, requests_per_s=load and load * limit / rate, reason="as many as all at once"
    )


def _beside_prompts(rules: Benchmark, base: Scenario, part: SystemSpec, sure: Interval | None) -> Interval | None:
    """Return a score's interval, widened for the unknown mean prompt length: squared logarithms add up."""
    if rules.prompts is None or sure is None or not 0.0 < sure.low < sure.high < np.inf:
        return sure
    outside = (1.0 - sure.level) / 2 * (rules.prompts[1] - rules.prompts[0])
    means = (rules.prompts[0] + outside, rules.input_len, rules.prompts[1] - outside)
    tried = [SCORERS[CURVE](rules, base.changed(input_len=round(n)), part, 1, FULL, 0.0) for n in means]
    above, middle, below = np.log([s.output_tokens_per_s or 1.0 for s in tried])
    low, high = np.hypot(np.log(sure.low), middle - below), np.hypot(np.log(sure.high), above - middle)
    return Interval(float(np.exp(-low)), float(np.exp(high)), sure.level)


def _splits(system: SystemSpec, base: Scenario, size: int | None) -> list[tuple[SystemSpec, int]]:
    """Return possible replicas of a system, each with their number; MLPerf leaves this choice to submitters."""
    if base.deployment.tp is not None or base.deployment.dp is not None:
        return [(system, 1)]
    devices = system.devices_per_node * system.nodes
    sizes = [size] if size else [n for n in (1, 2, 4, 8) if n < devices and devices % n == 0] + [devices]
    return [(system if n == devices else load_system(f"{system.device.name}-x{n}"), devices // n) for n in sizes]
