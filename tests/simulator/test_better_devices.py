"""Is a better device never slower where two processors share the work, whatever places the ops?

Every rule asks the prices that are then paid, so that the least of them falls as they fall. `CASES` is every device
of the catalog with two processors, with its smallest systems; a seeded sample of it is drawn here, and
``python -m tests.simulator.test_better_devices`` runs all of them in some ten minutes.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from opbyte.devices.catalog import list_systems, load_system
from opbyte.devices.spec import DeviceSpec, SystemSpec
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.placement import BUILT_IN
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

MODELS = ("deepseek-v2-lite", "llama-3-8b", "qwen3-30b-a3b", "qwen3-next-80b-a3b", "deepseek-v3.2-exp",
          "kimi-linear-48b-a3b", "minimax-m3")  # fmt: skip
BATCHES = (Batch.of([30_000] * 7), Batch.of([2000] * 64), Batch.of([500] * 3, [(700, 0)]))
WHATS = ("bandwidth", "peaks", "cache", "link", "clock")
TOLERANCE = 1e-3
LARGEST = 4
"""Devices of a system at most."""
SAMPLE = 80


class Case(NamedTuple):
    """What is asked of one system."""

    system: str
    costs: str
    model: str
    rule: str
    what: str


def shared() -> list[str]:
    """Systems of few devices with two processors each."""
    found = {name: load_system(name) for name in list_systems()}
    return [n for n, s in found.items() if len(s.device.processors) > 1 and s.nodes * s.devices_per_node <= LARGEST]


CASES = [Case(*c) for c in product(shared(), ("auto", "roofline"), MODELS, BUILT_IN, WHATS)]


def better(system: SystemSpec, what: str, times: float) -> SystemSpec:
    """The same devices, one thing of them so many times as good."""
    device = system.device
    update: dict[str, Any]
    if what in ("bandwidth", "cache"):
        names = ("bandwidth_bytes_per_s",) if what == "bandwidth" else ("cache_bytes", "cache_bandwidth_bytes_per_s")
        known = {n: x * times for n in names if (x := getattr(device.memory, n))}
        update = {"memory": device.memory.model_copy(update=known)}
    elif what == "link":
        update = {
            n: link.model_copy(update={
                "bandwidth_bytes_per_s": link.bandwidth_bytes_per_s * times, "latency_s": link.latency_s / times,
            })
            for n in ("link", "node_link") if (link := getattr(device, n))
        }  # fmt: skip
    else:
        update = {"processors": faster(device, what, times)}
    return system.model_copy(update={"device": device.model_copy(update=update)})


def faster(device: DeviceSpec, what: str, times: float) -> dict[str, Any]:
    """Its processors, at a higher clock or with more FLOP/s."""
    own: dict[str, Any] = {}
    for name, p in device.processors.items():
        update: dict[str, Any] = {}
        if what == "clock" and p.clock_Hz:
            update["clock_Hz"] = p.clock_Hz * times
        elif what == "peaks" and p.peak_flops_per_s:
            update["peak_flops_per_s"] = {k: v * times for k, v in p.peak_flops_per_s.items()}
        own[name] = p.model_copy(update=update)
    return own


@cache
def seconds(case: Case, times: float) -> tuple[float, ...] | None:
    """Of every batch on a system one thing of which is so many times as good; None: it does not hold the model."""
    system = better(load_system(case.system), case.what, times)
    try:
        d = deploy(load_model(case.model), system, placement=case.rule, costs=case.costs)
    except InputError:
        return None
    return tuple(explicit_stage(d, [b] * d.ranks, expected=True).seconds for b in BATCHES)


def slower(case: Case) -> list[tuple[float, int, float]]:
    """Where a better device takes longer: how many times as good, which batch, and how much longer."""
    rng, found = random.Random(str(case)), []
    before = seconds(case._replace(what=WHATS[0]), 1.0)
    for times in (*sorted((rng.uniform(1.05, 1.5), 2.0)),) if before else ():
        now = seconds(case, times)
        assert now is not None
        pairs = enumerate(zip(now, before or (), strict=True))
        found += [(times, i, n / b - 1) for i, (n, b) in pairs if n > b * (1 + TOLERANCE)]
        before = now
    return found


def test_a_better_device_is_never_slower() -> None:
    drawn = random.Random(35).sample(CASES, SAMPLE)
    assert {c.system.split("-x")[0] for c in drawn} == {s.split("-x")[0] for s in shared()}
    assert sum(seconds(c._replace(what=WHATS[0]), 1.0) is not None for c in drawn) > SAMPLE / 2
    assert {case: found for case in drawn if (found := slower(case))} == {}


if __name__ == "__main__":
    worst = {case: found for case in CASES if (found := slower(case))}
    print(f"{len(CASES)} cases, {len(worst)} slower: {worst}")
