"""Small ops of a step for which an engine launches a kernel, by engine, version, model, format and card.

`fusion.csv` is read from the engines' source. Measured kernels of a framework include some of these ops; the file lists
the others. The last matching row of an op counts. vLLM's compiler fuses norms with the next op; its kernels and
TensorRT-LLM's were not read.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

from ...devices.calibrated.libraries import generation
from ...devices.spec import DeviceSpec
from ...workloads.model import ModelSpec


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with (Path(__file__).parent / "fusion.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _names(cell: str, name: str) -> bool:
    return cell == "*" or name in cell.split()


def kernels_alone(engine: str, version: str, model: ModelSpec, device: DeviceSpec) -> frozenset[str]:
    """Return small ops with a separate kernel; without a version, of the version that was read."""
    from .engines import sglang_version  # compiled code behind it
    from .keys import numbers_of  # compiled code behind it

    number = sglang_version(version)
    stored, card = model.numerics.weight_format("experts"), str(generation(device))
    own: dict[str, bool] = {}
    for row in _rows():
        applies = (
            row["engine"] == engine
            and numbers_of(row["since"] or "0.0") <= number < (numbers_of(row["before"]) or (99, 0))
            and re.search(row["models"], model.architecture) is not None
            and _names(row["formats"], stored)
            and _names(row["cards"], card)
        )
        if applies:
            own[row["op"]] = row["own"] == "yes"
    return frozenset(op for op, yes in own.items() if yes)
