"""Results of an autoscaler: replicas over time, their cost, and waiting requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...simulator.parts.autoscale.replicas import ENGINE_START_S, PHASES, Scaling
from ...simulator.results.record import Run
from ..show.result import Drawing
from ..show.text import Records
from .evidence import entry

if TYPE_CHECKING:
    import pandas as pd


def scaled(run: Run) -> list[tuple[str, Scaling]]:
    """Return the autoscaler result of each pool that has one, with the pool's name (empty if there is one pool)."""
    left = run.parts.get("autoscale")
    return list(left.items()) if isinstance(left, dict) else [("", left)] if left else []


def replica_rows(scaling: Scaling) -> Records:
    """Return the number of replicas in each phase, one row for every time at which a number changes."""
    times, counts = scaling.counts()
    return [
        {"from_s": float(time), **{p: int(n) for p, n in zip(PHASES, row, strict=True)}}
        for time, row in zip(times, counts, strict=True)
        if time < scaling.end_s
    ]


def replica_frame(scaling: Scaling) -> pd.DataFrame:
    """Return `replica_rows` as a table whose last row is the end of the run."""
    import pandas as pd

    rows = replica_rows(scaling)
    return pd.DataFrame([*rows, {**rows[-1], "from_s": scaling.end_s}])


def replicas_drawn(run: Run, name: str) -> list[Drawing]:
    """Return plots of the number of replicas over time, one for each pool whose autoscaler changes it."""
    changing = [pair for pair in scaled(run) if pair[1].spec.decides]
    if not changing:
        return []
    import pandas as pd

    from ..plots import replicas_over_time

    arrival, out = pd.Series(run.requests.arrival_s), []
    for pool, scaling in changing:
        title = f"{name}, {pool} pool" if pool else name
        text = f"Arrivals, and replicas{f' of the {pool} pool' if pool else ''} that serve, start and drain, over time."
        out.append(Drawing(replicas_over_time(replica_frame(scaling), arrival, title), text))
    return out


def start_up_evidence(run: Run) -> Records:
    """Return the source of a default start-up time; nothing if it was given or is not needed."""
    every = [scaling for _, scaling in scaled(run)]
    if not any(scaling.spec.start is None and scaling.spec.decides for scaling in every):
        return []
    text = (
        "the weights of a device at the rate of its disk or its share of host memory, whichever is "
        f"slower, and {ENGINE_START_S:g} s that vLLM took for everything else with Llama-2-7B on an A100 "
        "(github.com/upb-cn/vllm-startup-profiler 9ef96f47)"
    )
    return [
        entry("start-up of a replica", "device-hours, waiting", "assumed", {"autoscale.start": f"assumed: {text}"})
    ]  # fmt: skip
