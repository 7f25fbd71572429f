"""Is a better device never slower where two processors share the work, whatever places the ops?

Every rule asks the prices that are then paid, so that the least of them falls as they fall.
"""

from __future__ import annotations

from typing import Any

import pytest

from opbyte.devices.catalog import load_system
from opbyte.devices.spec import SystemSpec
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.placement import BUILT_IN
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model

SYSTEMS = ("h100-logic-pim-x1", "b200-logic-pim-x1", "duplex-x1", "duplex-bankpim-x1")
MODELS = ("deepseek-v2-lite", "llama-3-8b", "qwen3-30b-a3b")
BATCHES = (Batch.of([30_000] * 7), Batch.of([2000] * 64), Batch.of([500] * 3, [(700, 0)]))
TIMES = (1.1, 1.6)
TOLERANCE = 1e-3


def better(system: SystemSpec, what: str, times: float) -> SystemSpec:
    """The same device with one of its peaks so many times as high."""
    device = system.device
    if what == "bandwidth":
        memory = device.memory
        update: Any = {"bandwidth_bytes_per_s": memory.bandwidth_bytes_per_s * times}
        device = device.model_copy(update={"memory": memory.model_copy(update=update)})
    else:
        own = {
            name: p.model_copy(update={
                "peak_flops_per_s": {k: v * times for k, v in p.peak_flops_per_s.items()}
            }) if p.peak_flops_per_s else p
            for name, p in device.processors.items()
        }  # fmt: skip
        device = device.model_copy(update={"processors": own})
    return system.model_copy(update={"device": device})


@pytest.mark.parametrize("costs", ["auto", "roofline"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_better_device_is_never_slower(name: str, costs: str) -> None:
    system = load_system(name)
    for model in map(load_model, MODELS):
        for rule in BUILT_IN:
            for what in ("bandwidth", "peaks"):
                before: list[float] = []
                for times in (1.0, *TIMES):
                    d = deploy(model, better(system, what, times), placement=rule, costs=costs)
                    found = [explicit_stage(d, [b], expected=True).seconds for b in BATCHES]
                    for i, (now, then) in enumerate(zip(found, before, strict=False)):
                        assert now <= then * (1 + TOLERANCE), (model.name, rule, what, times, i)
                    before = found
