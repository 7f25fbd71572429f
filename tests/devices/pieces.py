"""What tests of devices share."""

from __future__ import annotations

from opbyte.devices.calibrated.family import Family, families
from opbyte.devices.calibrated.hardware import hardware
from opbyte.devices.catalog import load_device
from opbyte.workloads.records import Records


def gemm_on_h100() -> tuple[Family, Records]:
    """Return the family of matrix products, and the constants of an H100."""
    return families()["gemm"], hardware(load_device("h100")[0])
