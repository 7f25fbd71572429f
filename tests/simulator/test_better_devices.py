"""Is a better device never slower where two processors share the work, whatever places the ops?

Every rule asks the prices that are then paid, so that the least of them falls as they fall. Each rule and model
draws one of the five what-ifs by its name.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from opbyte.devices.catalog import load_system
from opbyte.devices.spec import DeviceSpec, SystemSpec
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.placement import BUILT_IN
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model

SYSTEMS = ("h100-logic-pim-x2", "b200-logic-pim-x1", "duplex-x2", "duplex-bankpim-x1")
MODELS = ("deepseek-v2-lite", "llama-3-8b", "qwen3-30b-a3b", "qwen3-next-80b-a3b", "deepseek-v3.2-exp",
          "kimi-linear-48b-a3b", "minimax-m3")  # fmt: skip
BATCHES = (Batch.of([30_000] * 7), Batch.of([2000] * 64), Batch.of([500] * 3, [(700, 0)]))
WHATS = ("bandwidth", "peaks", "cache", "link", "clock")
TOLERANCE = 1e-3


def better(system: SystemSpec, what: str, times: float) -> SystemSpec:
    """The same devices, one thing of them so many times as good."""
    device = system.device
    update: dict[str, Any]
    if what in ("bandwidth", "cache"):
        names = (
            ("bandwidth_bytes_per_s",)
            if what == "bandwidth"
            else ("cache_bytes", "cache_bandwidth_bytes_per_s")
        )
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


@pytest.mark.parametrize("costs", ["auto", "roofline"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_better_device_is_never_slower(name: str, costs: str) -> None:
    system = load_system(name)
    for model in map(load_model, MODELS):
        for rule in BUILT_IN:
            rng = random.Random(f"{name} {costs} {model.name} {rule}")

            def seconds(of: SystemSpec, rule: str = rule, model: Any = model) -> list[float]:
                d = deploy(model, of, placement=rule, costs=costs)
                return [explicit_stage(d, [b] * d.ranks, expected=True).seconds for b in BATCHES]

            what, before = rng.choice(WHATS), seconds(system)
            for times in sorted((rng.uniform(1.05, 1.5), 2.0)):
                found = seconds(better(system, what, times))
                for i, (now, then) in enumerate(zip(found, before, strict=True)):
                    assert now <= then * (1 + TOLERANCE), (model.name, rule, what, times, i)
                before = found
