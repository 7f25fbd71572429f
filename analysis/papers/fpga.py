"""Common code of the FPGA experiments: designs with changed numbers, and the mean over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from opbyte.extend import load_device, load_model
from opbyte.extend.devices import DeviceSpec
from opbyte.extend.fpga import FpgaDeployment, FrameResult, deploy_fpga, engine_of, run_image


@dataclass(frozen=True, slots=True)
class Runs:
    """Results of one image for several samples of the routing."""

    deployment: FpgaDeployment
    frames: tuple[FrameResult, ...]

    @property
    def seconds(self) -> float:
        """Mean latency [s]."""
        return self.mean(lambda f: f.cycles) / self.deployment.engine.clock_Hz

    @property
    def joules(self) -> float:
        """Mean energy at the board's power [J]."""
        return self.seconds * self.deployment.device.static_W

    def mean(self, get: Callable[[FrameResult], float]) -> float:
        """Return the mean over samples."""
        return float(np.mean([get(frame) for frame in self.frames]))


def run_images(
    model: str, device: DeviceSpec, seeds: Sequence[int], routing: str, *,
    schedule: str = "reordered", attention_reorder: bool = True,
) -> Runs:  # fmt: skip
    """Simulate one image of task 0 on an idle engine, once per seed."""
    d = deploy_fpga(load_model(model), device, attention_reorder=attention_reorder)
    draws = seeds if d.moe is not None else seeds[:1]
    return Runs(d, tuple(run_image(d, schedule=schedule, routing=routing, seed=s) for s in draws))


def assumptions(device: str) -> tuple[str, ...]:
    """Return the assumptions in a device's description: key and reason."""
    kinds = ("assumed", "derived", "fitted")
    return tuple(f"{key}: {source}" for key, source in load_device(device)[1].items()
                 if source.startswith(kinds) and "link" not in key)  # fmt: skip


def with_utilisation(device: DeviceSpec, utilisation: float) -> DeviceSpec:
    """Return the device with another share of useful cycles in its arrays."""
    name, _, _ = engine_of(device)
    processor = device.processors[name].model_copy(update={"compute_efficiency": utilisation})
    return device.model_copy(update={"processors": {name: processor}})


def fit_utilisation(model: str, device: str, seconds: float) -> float:
    """Return the utilisation for which a model takes `seconds` on a device (one parameter, one measured value)."""
    spec, utilisation = load_device(device)[0], 1.0
    for _ in range(20):
        took = run_images(model, with_utilisation(spec, utilisation), (0,), "uniform").seconds
        utilisation = min(1.0, utilisation * took / seconds)
        if abs(took / seconds - 1) < 1e-6:
            break
    return utilisation
