"""Seconds that the calibrated families give the call of a kernel form, which do not know its tile."""

from __future__ import annotations

import numpy as np

from ...devices.calibrated.family import families
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.rules import parameters
from ...devices.device import can_calibrate
from ...devices.spec import DeviceSpec
from ...devices.tiles.form import Shape, TiledKernel
from ...workloads.errors import InputError
from ...workloads.kernel_tables import KernelTable


def calibrated_seconds(spec: DeviceSpec, form: TiledKernel, shape: Shape) -> float | None:
    """Seconds of the same call, or None where no family covers it."""
    call = form.calibrated(shape)
    if call is None or not any(map(can_calibrate, spec.processors.values())):
        return None
    name, columns = call
    family = families()[name]
    arrays = {
        key: np.array([value], dtype=object if isinstance(value, str) else np.float64) for key, value in columns.items()
    }
    table = KernelTable(name, arrays, np.array([""], dtype=object), np.zeros(1, dtype=np.int64))
    try:
        known = parameters(spec, family)
    except InputError:
        return None
    return float(family.seconds(known.fit.values, hardware(spec), family.from_table(table))[0])
