"""When systems for mixtures of experts pay: overlap, experts in host memory, copies; tables for figures.

Each row is a ratio of two answers of `roofline` about one step, so that 1 is where a mechanism is worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...devices.catalog import load_system
from .roofline import roofline

Case = tuple[str, str]
"""A model and a system."""


def overlap_gains(
    cases: Sequence[Case], per_device: Sequence[int], context: int = 2048, way: str = "two-batch"
) -> pd.DataFrame:
    """Time of a step without overlap over that with it, by sequences a device.

    Returns
    -------
    DataFrame
        Columns case, sequences and gain.
    """
    rows = []
    for model, system in cases:
        for n in per_device:
            found = roofline(model, system, tp=1, batch=n * _devices(system), context=context, overlap=way)
            plain = found.overlap["step_seconds_without"]
            rows.append({"case": f"{model} on {system}", "sequences": n, "gain": plain / found.step_seconds})
    return pd.DataFrame(rows)


def cache_speeds(cases: Sequence[Case], shares: Sequence[float], batch: int = 1, context: int = 1024) -> pd.DataFrame:
    """Speed of a step whose devices keep a share of their experts, over that of one with all.

    Returns
    -------
    DataFrame
        Columns case, share and speed.
    """
    rows = []
    for model, system in cases:
        own: dict[str, Any] = {"batch": batch, "context": context, "routing": "measured"}
        whole = roofline(model, system, **own).step_seconds
        for share in shares:
            found = roofline(model, system, **own, experts_resident=str(float(share)))
            rows.append({"case": f"{model} on {system}", "share": share, "speed": whole / found.step_seconds})
    return pd.DataFrame(rows)


def copy_gains(
    cases: Sequence[Case], per_device: Sequence[int], routings: Sequence[str], context: int = 512
) -> pd.DataFrame:
    """Time of a step with experts in order over that with a copy a device and layer, balanced.

    Returns
    -------
    DataFrame
        Columns routing, case, sequences and gain.
    """
    rows = []
    for routing in routings:
        for model, system in cases:
            for n in per_device:
                own: dict[str, Any] = {"tp": 1, "batch": n * _devices(system), "context": context, "routing": routing}
                plain = roofline(model, system, **own)
                copies = plain.deployment.layout.ep
                found = roofline(model, system, **own, redundant_experts=copies)
                rows.append({"routing": routing, "case": f"{model} on {system}", "sequences": n,
                             "gain": plain.step_seconds / found.step_seconds})  # fmt: skip
    return pd.DataFrame(rows)


def _devices(system: str) -> int:
    return load_system(system).groups
