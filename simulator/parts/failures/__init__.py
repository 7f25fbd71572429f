"""Replicas that fail, and where their requests go."""

from __future__ import annotations

from dataclasses import dataclass

from ....workloads.requests.options import MAX_TIME_S
from ...limits import MIN_MTBF_S
from ...option import CheckedOptions, described, real, texts
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class FailureOptions(CheckedOptions):
    """Replicas that fail."""

    fail: tuple[str, ...] = texts(
        "Time [s] at which a replica (counted from 0) fails; may be repeated.", "REPLICA@SECONDS"
    )
    mtbf: float | None = real("Mean time between failures of a replica.", MIN_MTBF_S, MAX_TIME_S, unit="s")
    repair: float | None = real("Time from a replica's failure to its return.", 0.0, MAX_TIME_S, unit="s")


PARTS = (
    Part(
        "failures",
        "--fail, --mtbf",
        "replicas that fail",
        options=FailureOptions,
        panel="Fleet and failures",
        hooks={"fleet": "failing:with_failures", "run": "failing:of_run"},
        page="clusters",
        tests=("simulator/test_cluster",),
        asked=lambda a: a.fails and "--fail or --mtbf",
    ),
)
