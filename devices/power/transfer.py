"""The power model of a device without measured power, by rules from the one that has it.

1. The limit, the idle power, the number of cores and the size of the cache are the device's own.
2. What a busy board draws beside its work's own energy (clock trees, issue, leakage) keeps its share
   of the room between idle and limit: a board's limit is dimensioned for its chip at its clock.
3. Energy of logic (FLOPs, exponentials, bytes from the cache, chains of kernels) goes with the
   process, by the foundry's own figures at equal speed (`PROCESS`).
4. A byte from main memory costs the memory's own energy, times what the measured device takes over
   its memory's (controllers, and the way across the die).

Everything but 1 is an assumption where no power is measured. Devices of the same chip and memory
as the measured one differ from it by 1 and 2 only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..catalog import load_device
from ..spec import DeviceSpec
from .model import PowerModel
from .store import REFERENCE, base_model, stored, stored_fit

PROCESS: dict[str, tuple[float, str]] = {
    "N7": (1.0 / 0.7, "N5 takes 30 % less power than N7 at equal speed (TSMC, as reported 2019)"),
    "N6": (1.0 / 0.7, "assumed: as N7, whose design rules it keeps"),
    "8N": (1.0 / 0.7, "assumed: as N7; Samsung gives no comparison with it"),
    "N5": (1.0, "the unit"),
    "4N": (1.0, "assumed: as N5; NVIDIA names it a 5 nm-class process and gives no figure"),
    "4NP": (1.0 / 1.22, "assumed: as N4P, 22 % more efficient than N5 (TSMC, 26 October 2021)"),
    "N3P": (0.7, "assumed: as N3, 25 to 30 % less power than N5 at equal speed (TSMC)"),
}
"""Energy of logic relative to N5, and where the figure comes from."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A device's power model and what it rests on.

    Attributes
    ----------
    model : PowerModel
    basis : str
        "fitted" on its own rows, or "transferred".
    rows : int
        Measured rows of the device that the fit is of.
    median_ape : float or None
        Median error of readings of unseen shapes, the middle one of the families; None where the
        device itself has no measured power.
    """

    model: PowerModel
    basis: str
    rows: int
    median_ape: float | None


def can_model(spec: DeviceSpec) -> bool:
    """Whether a device is a GPU product whose limit and process are known."""
    xpu = next(iter(spec.processors.values()))
    return (
        spec.limit_W is not None
        and spec.process is not None
        and xpu.kind == "xpu"
        and xpu.cores is not None
    )


def power_model(spec: DeviceSpec) -> Carried:
    """Power model of a device for which `can_model` holds."""
    reference, known = load_device(REFERENCE)[0], stored_fit().model
    if spec.name == REFERENCE:
        errors = sorted(e.by_shape.median_ape for e in stored().errors.values())
        return Carried(known, "fitted", stored().rows, errors[len(errors) // 2])
    assert spec.process is not None
    assert reference.process is not None
    own = base_model(spec)
    room = (own.limit_W - own.idle_W) / (known.limit_W - known.idle_W)
    logic = PROCESS[spec.process][0] / PROCESS[reference.process][0]
    memory = _memory_J_per_byte(spec) / _memory_J_per_byte(reference)
    share = spec.memory.cache_bytes / reference.memory.cache_bytes
    model = replace(
        known,
        limit_W=own.limit_W,
        idle_W=own.idle_W,
        cores=own.cores,
        awake_W=known.awake_W * room,
        cores_W=known.cores_W * room,
        J_per_flop_16=known.J_per_flop_16 * logic,
        J_per_flop_8=known.J_per_flop_8 * logic,
        J_per_flop_4=known.J_per_flop_4 * logic,
        dram_J_per_byte=known.dram_J_per_byte * memory,
        cache_J_per_byte=known.cache_J_per_byte * logic,
        vector_J_per_byte=known.vector_J_per_byte * logic,
        J_per_score=known.J_per_score * logic,
        kept_bytes=known.kept_bytes * share,
    )
    return Carried(model, "transferred", stored().rows, None)


def _memory_J_per_byte(spec: DeviceSpec) -> float:
    return next(iter(spec.processors.values())).memory_J_per_byte
