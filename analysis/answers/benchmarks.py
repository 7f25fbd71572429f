"""The benchmarks of `benchmarks.yaml`: workload, service level, scenarios and scoring of each, and published results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...workloads.registry import Registry
from ...workloads.yamlfile import read_yaml

OFFLINE, SERVER, CURVE = "offline", "server", "curve"
"""Scenarios: all requests at once; the highest Poisson rate within the level; a closed loop of each size."""


@dataclass(frozen=True, slots=True)
class Published:
    """One published score, output tokens a second of the whole system."""

    name: str
    version: str
    ident: str
    scenario: str
    score: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes
    ----------
    name, model : str
        Of the benchmark; model in the catalog.
    input_len, output_len : int
        Mean tokens.
    lengths : str
        How they spread, an option of ``opbyte simulate``.
    slo : mapping of str to float
        Of scenario "server" [s].
    clients : tuple of int
        Closed loops of scenario "curve".
    dtype : str or None
        Format of weights of the usual submissions; without it as the checkpoint.
    wording : str
        What its owners want said beside a score.
    assumed : str
        What of the above the rules do not print.
    """

    name: str
    model: str
    input_len: int
    output_len: int
    lengths: str
    scenarios: tuple[str, ...]
    wording: str
    assumed: str = ""
    slo: Mapping[str, float] = field(default_factory=dict)
    clients: tuple[int, ...] = ()
    dtype: str | None = None
    published: tuple[Published, ...] = ()


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")


def _published(row: dict[str, Any]) -> list[Published]:
    """A system's scores, one a scenario."""
    return [
        Published(row["name"], row["version"], row["ident"], scenario, row[scenario])
        for scenario in (OFFLINE, SERVER) if scenario in row
    ]  # fmt: skip


_raw = read_yaml(Path(__file__).parent / "benchmarks.yaml")
for _name, _own in _raw["benchmarks"].items():
    _own |= {
        "wording": _raw["wording"][_own["wording"]], "scenarios": tuple(_own["scenarios"]),
        "clients": tuple(_own.get("clients", ())),
        "published": tuple(score for row in _own.get("published", ()) for score in _published(row)),
    }  # fmt: skip
    BENCHMARKS.register(_name, f"{_own['model']}, {_own['input_len']}+{_own['output_len']} tokens")(
        Benchmark(_name, **_own)
    )


def replica_sizes(devices: int) -> list[int]:
    """Devices of a replica that are tried, of which the one is taken that scores most: MLPerf leaves it to who submits."""
    return [n for n in (1, 2, 4, 8) if devices % n == 0]
