"""The power model of a device without measured power, by rules from a measured one: a B200, kernel by kernel (`fit`), for Blackwell's process and newer, an H100 by serving runs (`run_state.yaml`) for all others. 1.

Limit, idle power, cores and cache size are the device's own. 2. The constant power of a busy board (clock trees, issue,
leakage) keeps its share of the range between idle and limit. 3. Energy of logic (FLOPs, exponentials, bytes from the
cache, chains of kernels) scales with the process, by the foundry's values at equal speed (`PROCESS`). 4. A byte from
main memory costs the memory's own energy, times the measured device's factor (controllers, and the way across the die).
All rules except 1 are assumptions. Devices with the same chip and memory as the measured one differ only by 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..catalog import load_device
from ..spec import DeviceSpec
from .clock import PROCESS, capped_energy
from .model import PowerModel
from .store import REFERENCE, SERVED, base_model, served, stored, stored_fit

NEW = ("4NP", "N3P")
"""Processes of the generation with measured power of kernels; older devices use the serving runs."""


SURE: dict[str, tuple[float, float]] = {"b200": (0.88, 1.1), "h100": (0.84, 1.12), "": (0.8, 1.25)}
"""Factors on a board's power that contain 80 % of measured ones. H100: from the runs of its fit, and ML.ENERGY's,
whose steady part takes 5 to 20 % less than predicted (samplers with penalties wait for their host). B200: its
kernels' fit is 1 to 14 % high on ten serving runs (Llama-3.1-70B on two, ML.ENERGY v3.0), with an error of 10 % on
kernels. Others: the H100's fit transferred to those runs is 5 to 20 % low, the only such check."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A device's power model and its evidence.

    Attributes
    ----------
    basis : str
        "fitted" on its own rows, or "transferred".
    rows : int
        Measured rows of the device that the fit is of.
    median_ape : float or None
        Median error of readings of unseen shapes, the middle one of the families; None where the
        device itself has no measured power.
    sure : tuple of float
        Factors on its power that hold the true one in 80 of 100 cases.
    """

    model: PowerModel
    basis: str
    rows: int
    median_ape: float | None
    sure: tuple[float, float] = SURE[""]


def can_model(spec: DeviceSpec) -> bool:
    """Return whether a device is a GPU product whose limit and process are known."""
    xpu = next(iter(spec.processors.values()))
    return spec.limit_W is not None and spec.process is not None and xpu.kind == "xpu" and xpu.cores is not None


def power_model(spec: DeviceSpec) -> Carried:
    """Return the power model of a device for which `can_model` holds."""
    name = reference_of(spec)
    reference = load_device(name)[0]
    known = stored_fit().model if name == REFERENCE else served_model(reference)
    if spec.name == name:
        return Carried(known, "fitted", *_fitted(name), SURE[name])
    model = _carried(spec, reference, known, _logic(spec, reference) * capped_energy(spec.clock_share))
    return Carried(model, "transferred", _fitted(name)[0], None)


def reference_of(spec: DeviceSpec) -> str:
    """Return the device with measured power from which a device's model is transferred: of its generation."""
    return REFERENCE if spec.process in NEW else SERVED


def _fitted(name: str) -> tuple[int, float]:
    """Return the rows of a fit, and its median error on the test set."""
    if name == SERVED:
        return served().rows, served().errors.median_ape
    errors = sorted(e.by_shape.median_ape for e in stored().errors.values())
    return stored().rows, errors[len(errors) // 2]


STREAMED = 0.9
"""Share of the steps of those runs in which bytes and FLOPs hold the cores (decodes of 8 to 14 billion 16-bit weights on one
H100, 1 to 64 sequences: 0.82 and more): `beside_W` is of the whole time."""


def _logic(spec: DeviceSpec, reference: DeviceSpec) -> float:
    """Return the energy of a device's logic over another's, by their processes."""
    assert spec.process is not None
    assert reference.process is not None
    return PROCESS[spec.process][0] / PROCESS[reference.process][0]


def served_model(spec: DeviceSpec) -> PowerModel:
    """Return the power model fitted to a device's serving runs.

    Coefficients without information from the runs come from the kernels' fit. A byte from memory has the memory's own
    energy: weights stream at one rate in all runs, so it cannot be separated from `beside_W`.
    """
    runs, reference = served(), load_device(REFERENCE)[0]
    base = _carried(spec, reference, stored_fit().model, _logic(spec, reference))
    half = base.J_per_flop_8 / base.J_per_flop_16
    return replace(
        base,
        cores_W=(runs.beside_W - base.awake_W) / STREAMED,
        J_per_flop_16=runs.J_per_flop_16,
        J_per_flop_8=runs.J_per_flop_16 * half,
        J_per_flop_4=runs.J_per_flop_16 * base.J_per_flop_4 / base.J_per_flop_16,
        dram_J_per_byte=_memory_J_per_byte(spec),
        cache_J_per_byte=0.0,
        vector_J_per_byte=runs.vector_J_per_byte,
        kv_J_per_byte=runs.kv_J_per_byte,
    )


LOGIC = (
    "J_per_flop_16",
    "J_per_flop_8",
    "J_per_flop_4",
    "cache_J_per_byte",
    "vector_J_per_byte",
    "J_per_score",
    "kv_J_per_byte",
)
"""Energies that scale with the process."""


def _carried(spec: DeviceSpec, reference: DeviceSpec, known: PowerModel, logic: float) -> PowerModel:
    """Return the model of a device by the rules above; its logic takes `logic` times the reference's energy."""
    base = base_model(spec)
    room = (base.limit_W - base.idle_W) / (known.limit_W - known.idle_W)
    memory = _memory_J_per_byte(spec) / _memory_J_per_byte(reference)
    share = spec.memory.cache_bytes / reference.memory.cache_bytes
    return replace(
        known,
        limit_W=base.limit_W,
        idle_W=base.idle_W,
        cores=base.cores,
        awake_W=known.awake_W * room,
        cores_W=known.cores_W * room,
        dram_J_per_byte=known.dram_J_per_byte * memory,
        kept_bytes=known.kept_bytes * share,
        **{name: getattr(known, name) * logic for name in LOGIC},
    )


def _memory_J_per_byte(spec: DeviceSpec) -> float:
    return next(iter(spec.processors.values())).memory_J_per_byte
