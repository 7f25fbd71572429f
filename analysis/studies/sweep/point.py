"""One point of a sweep: a simulation in, a flat row of figures or a line of error out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....workloads.errors import InputError
from ...answers.bases import bases_of
from ...answers.carbon import gco2
from ...answers.classes import class_figures
from ...answers.pools import pool_dict
from ...answers.price import costs_of
from ...answers.seeds import Seeds, simulate_seeds
from ...answers.simulate import Simulation, simulate
from ...answers.summary import LATENCIES, QUANTILES
from ...answers.tiers import METRICS as OF_TIERS
from ...answers.tiers import tiers_metrics
from ...show.provenance import code_version
from ...show.text import plain
from .expression import OF_RUN
from .parameters import scenario_of

SCALARS = (
    "requests", "iterations", "preemptions", "output_tokens", "prompt_tokens", "makespan_s",
    "output_tokens_per_s", "total_tokens_per_s", "joules_per_token", "static_joules_per_token",
    "kv_peak_fraction",
)  # fmt: skip
"""Figures of `simulate` that a row holds as they are. Real time is left out: rows of equal
points are equal bytes."""
DERIVED = (
    "steady",
    "devices",
    "device_usd_per_hour",
    "usd_per_million_tokens",
    "processor_area_mm2",
    "gco2_per_token",
    "outside_share",
    "tokens_per_s_per_device",
    "tokens_per_s_per_user",
    "watts_per_device",
)
METRICS = (
    *SCALARS, *(f"{name}_{q}" for name in LATENCIES for q in QUANTILES), *DERIVED,
)  # fmt: skip
"""Every figure of a row, in the order of the table."""
BASES = ("basis", "energy_basis")
"""What a row's times and its energy rest on, in words: columns after the figures."""
POOLED = (
    "prefill_utilisation", "decode_utilisation", "kv_wait_s_mean", "kv_transfer_s_mean",
    "kv_share_of_latency", "limiting_pool",
)  # fmt: skip
"""Columns behind those, of points with two pools."""
CLASSED = ("refused", "attainment", "goodput_per_s")
"""And of points with classes of requests."""
TIERED = OF_TIERS
"""The same of points with KV cache tiers."""
Figure = float | int | str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a point: its figures, or one line that says why there are none."""

    metrics: dict[str, Figure] | None
    error: str | None


def evaluate(point: Mapping[str, Any], version: str) -> Outcome:
    """Simulate one point.

    Parameters
    ----------
    point : mapping
        Parameters by the names of `parameters.check_parameter`.
    version : str
        The sweep's code version; a worker with another one refuses.
    """
    try:
        if code_version() != version:
            reason = f"has OpByte {code_version()}, the sweep {version}; install the same"
            raise InputError("worker", reason)
        scenario, seeds = scenario_of(point), point.get("seeds")
        if seeds is None:
            return Outcome(metrics_of(simulate(scenario)), None)
        return Outcome(metrics_of(simulate_seeds(scenario, seeds=seeds)), None)
    except InputError as error:
        return Outcome(None, str(error))
    except Exception as error:  # noqa: BLE001  # a point never stops a sweep, not even by a bug
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(None, f"internal error, please report: {text}")


def metrics_of(result: Simulation | Seeds) -> dict[str, Figure]:
    """The row of a result: `METRICS` and `BASES`; means over the seeds where several ran."""
    data = result.to_dict()
    row: dict[str, Any] = {name: data[name] for name in SCALARS}
    for name in LATENCIES:
        row |= {f"{name}_{q}": data[name][q] for q in QUANTILES}
    runs = (result,) if isinstance(result, Simulation) else result.runs
    first = runs[0]
    row |= costs_of(first.run, first.scenario, row["output_tokens_per_s"])
    row["gco2_per_token"] = gco2(row["joules_per_token"], first.scenario.grid_gCO2_per_kWh)
    row["outside_share"] = None if first.ranges is None else first.ranges.share
    rate, pace = row["output_tokens_per_s"], row["tpot_s_mean"]
    row["tokens_per_s_per_device"] = rate / row["devices"] if rate else None
    row["tokens_per_s_per_user"] = 1 / pace if pace else None
    row["steady"] = int(all(r.run.window.kind != "whole" for r in runs))
    watts = [r.run.watts_per_device for r in runs]
    known = [each for each in watts if each is not None]
    row["watts_per_device"] = sum(known) / len(known) if len(known) == len(watts) else None
    bases = bases_of(first.run.deployment)
    return {name: plain(row[name]) for name in METRICS} | {
        "basis": bases.times, "energy_basis": bases.energy, **_pooled(first), **_classed(runs),
        **{name: plain(value) for name, value in tiers_metrics(first.run).items()},
        **{OF_RUN + name: value for name, value in _numbers(data)},
    }  # fmt: skip


def _numbers(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Figure]]:
    """Every number of an answer by its path."""
    for key, value in data.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path, plain(value)


def _classed(runs: Sequence[Simulation]) -> dict[str, Figure]:
    """Figures of classes, means over the seeds; nothing without classes."""
    found = [class_figures(r.run) for r in runs]
    out: dict[str, Figure] = {}
    for name in CLASSED if found[0] else ():
        values = [each[name] for each in found]
        known = [x for x in values if x is not None]
        out[name] = sum(known) / len(known) if len(known) == len(values) else None
    return out


def _pooled(first: Simulation) -> dict[str, Figure]:
    """Figures of two pools, of the first seed; nothing where there is one."""
    found = pool_dict(first.run)
    if not found:
        return {}
    prefill, decode = (pool["utilisation"] for pool in found["pools"])
    link = found["kv_link"]
    values = (prefill, decode, link["wait_s"]["mean"], link["transfer_s"]["mean"],
              link["share_of_latency"], found["limiting_pool"])  # fmt: skip
    return {name: plain(value) for name, value in zip(POOLED, values, strict=True)}
