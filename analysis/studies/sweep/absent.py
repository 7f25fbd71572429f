"""Metrics that a study asks about and no point of it has: why there are none, instead of an empty front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ....devices.catalog import describe_system
from ....devices.spec import SystemSpec
from ....simulator.quantity import columns
from ....workloads.errors import InputError
from ...answers.part_answers import with_columns
from ...show.text import Rows
from .expression import OF_RUN
from .file import SweepPoint
from .parameters import scenario_of

UNPRICED = ("device_usd_per_hour", "usd_per_million_tokens")


def refuse_absent(asked: Iterable[str], rows: Rows, points: Iterable[SweepPoint], where: str) -> None:
    """Refuse a metric that every point lacks that was simulated.

    Raises
    ------
    InputError
        The line names the metric, and what of the description or study gives it.
    """
    done = [row for row in rows if row["error"] is None]
    if not done:
        return
    first = next(iter(points))
    for name in sorted(set(asked)):
        if all(name in row and row[name] is None for row in done):
            raise InputError(f"{where}: {name}", f"has no value: {why_absent(name, first.settings, len(done))}")


def why_absent(name: str, settings: Mapping[str, Any], done: int) -> str:
    """What of a point's description or settings would give a metric that `done` points lack."""
    for facet in with_columns():
        if name in columns(facet.columns):
            return facet.missing
    if name.startswith(OF_RUN):
        return "simulate gives no such number of these points (see its --json)"
    if name == "stationary":
        return "too few requests to decide, or a closed loop"
    if name.startswith("gco2"):
        return "give grid_gCO2_per_kWh"
    system = scenario_of(settings).system
    spec = system if isinstance(system, SystemSpec) else describe_system(str(system))[0]
    device = spec.device.name
    if name == "processor_area_mm2":
        return f"no processor of {device} gives area_mm2"
    if name in UNPRICED:
        return f"{device} has no price_USD_per_hour"
    return f"none of {done:,} points gives it"
