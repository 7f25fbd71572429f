"""Z-code and DeepSpeed MoE training (arXiv 2109.10465): 3.5 trillion parameters on 512 A100.

Bytes of states per device by strategy, from a model and layouts; the paper prints sizes alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .published import Prediction, paper
from .z_code_step import (
    DEVICES,
    LAST,
    LENGTH,
    SEQUENCES,
    SLICES,
    STRATEGIES,
    device_states,
    on_device,
    scaled_step,
    total_parameters,
    usable_bytes,
)

GIB = 2**30


def predictions() -> Iterator[Prediction]:
    """All rows, from the model's layout on the devices."""
    held, note = device_states(LAST), f"{total_parameters() / 1e12:.3f} T parameters on {DEVICES}"
    yield Prediction("z-code.3.5T.weights_GiB", held.weights / GIB, note)
    yield Prediction("z-code.3.5T.states_GiB", held.total / GIB, note)
    for name, offload in (("fits_with_offload", True), ("fits_without_offload", False)):
        fits, note = on_device(LAST, offload) <= usable_bytes(), f"{usable_bytes() / GIB:.0f} GiB are usable"
        yield Prediction(f"z-code.3.5T.{name}", float(fits), note)


def _strategies() -> Table:
    rows = []
    for strategy in STRATEGIES:
        held = device_states(strategy)
        rows.append({
            "strategy": strategy.name, "weights_GiB": held.weights / GIB,
            "gradients_GiB": held.gradients / GIB, "optimizer_GiB": held.optimizer / GIB,
            "optimizer_on": "host" if strategy.offload else "device",
            "device_GiB": on_device(strategy) / GIB,
            "fits": on_device(strategy) <= usable_bytes(),
        })  # fmt: skip
    return Table("strategies", "States of one of 512 devices by strategy", rows)


def _scaling() -> Table:
    """Throughput of a device with equal experts on each, by devices."""
    rows = []
    for devices in (64, 128, 256, 512):
        step = scaled_step(devices)
        tokens = SEQUENCES * devices // SLICES * LENGTH
        waits = step.seconds - step.by_stream["compute"] - step.by_stream["optimizer"]
        rows.append({"devices": devices, "step_ms": step.seconds * 1e3,
                     "tokens_per_s_device": tokens / step.seconds / devices,
                     "waiting_for_links": waits / step.seconds})  # fmt: skip
    return Table("scaling", "Training with 29 experts a device, by devices", rows)


def _drawn() -> Table:
    """Bytes by kind and strategy, as the figure takes them."""
    rows = [
        {"case": row["strategy"], "weights": row["weights_GiB"], "gradients": row["gradients_GiB"],
         "optimiser on the device": row["optimizer_GiB"] * (row["optimizer_on"] == "device"),
         "optimiser on the host": row["optimizer_GiB"] * (row["optimizer_on"] == "host")}
        for row in _strategies().rows
    ]  # fmt: skip
    return Table("steps", "States of 3.5 T parameters on one of 512 devices (GiB)", rows)


paper(
    "z-code", "Predict Z-code's training: states of 3.5 trillion parameters on 512 A100 by strategy.", predictions,
    facts={"SEQUENCES": SEQUENCES, "LENGTH": LENGTH}, tables=(_strategies, _scaling), drawn=_drawn, runs=len(STRATEGIES),
)  # fmt: skip
