"""A device under one serving framework's kernels."""

from __future__ import annotations

from dataclasses import replace

from ..device import SharedMemoryDevice
from .model import CalibratedModel, calibrated_model


def with_kernels(device: SharedMemoryDevice, framework: str) -> SharedMemoryDevice:
    """Cost every kind of op by one framework's kernels where the device has kernel models.

    Parameters
    ----------
    device : SharedMemoryDevice
    framework : str
        Of `kernel_sets.FRAMEWORKS`. Where a framework has no rows on a device it has those of
        devices of the same silicon, of others that call the same kernel library, of the device's
        other kernels, or another silicon's parameters, in this order (`set_fit`).

    Raises
    ------
    InputError
        No such framework.
    """
    processors = {
        name: replace(p, model=calibrated_model(device.spec, p.model.base, framework))
        if isinstance(p.model, CalibratedModel) else p
        for name, p in device.processors.items()
    }  # fmt: skip
    return replace(device, processors=processors)
