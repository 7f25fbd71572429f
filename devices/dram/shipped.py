"""Derived values that come with the library: patterns of catalog devices.

``derived.csv`` is written by ``python -m opbyte.devices.dram.ship``; a test derives its rows again.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "derived.csv"


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived efficiency.

    Attributes
    ----------
    memory, pattern : str
        Description of the run.
    fraction : float
        Of the pins' rate.
    read_latency_s : float or None
        Mean time of a read [s].
    """

    memory: str
    pattern: str
    fraction: float
    read_latency_s: float | None
    row_hits: float


@cache
def shipped() -> Mapping[str, Derived]:
    """Derived numbers by :func:`.efficiency.key_of`."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["key"]: _row(row) for row in csv.DictReader(file)}


def _row(row: Mapping[str, str]) -> Derived:
    latency = row["read_latency_s"]
    return Derived(
        row["memory"], row["pattern"], float(row["fraction"]),
        float(latency) if latency else None, float(row["row_hits"]),
    )  # fmt: skip
