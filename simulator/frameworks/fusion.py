"""Small ops of a step for which an engine launches a kernel, by engine, version, model, format and card.

`fusion.csv` is read from the engines' source. Measured kernels of a framework include some of these ops; the file lists
the others. The last matching row of an op counts. vLLM's compiler fuses norms with the next op; its kernels and
TensorRT-LLM's were not read. Rooflines without an engine import this module, so it imports no compiled code.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path

from ...devices.calibrated.libraries import generation
from ...devices.spec import DeviceSpec
from ...workloads.model import ModelSpec


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with (Path(__file__).parent / "fusion.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _names(cell: str, names: set[str]) -> bool:
    return cell == "*" or not names.isdisjoint(cell.split())


def kernels_alone(engine: str, version: str, model: ModelSpec, device: DeviceSpec) -> tuple[str, ...]:
    """Return the small ops with separate kernels, repeated by their number of kernels; by default of the version that was read."""
    from .engines import sglang_version  # compiled code behind it
    from .keys import numbers_of  # compiled code behind it

    number = sglang_version(version) if engine == "sglang" else numbers_of(version) or (98,)
    stored, cards = {model.numerics.weight_format("experts")}, {str(generation(device)), device.name}
    kernels = {
        row["op"]: int(row["kernels"])
        for row in _rows()
        if row["engine"] == engine
        and numbers_of(row["since"] or "0.0") <= number < (numbers_of(row["before"]) or (99, 0))
        and re.search(row["models"], model.architecture)
        and _names(row["formats"], stored)
        and _names(row["cards"], cards)
    }
    return tuple(Counter(kernels).elements())
