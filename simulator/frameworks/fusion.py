"""Which small ops of a step an engine starts a kernel for, by engine, version, model, format and card.

`fusion.csv` is read from the engines' source. Measured kernels of a framework include what it always does in them; the
file lists what they lack. Of the rows for an op the last that applies counts. vLLM's compiler joins norms with what follows,
and its kernels and TensorRT-LLM's were not read.
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
    """Small ops with a kernel of their own; of an engine without a version those of the one that is read."""
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
