"""What an autoscaler did, in an answer: devices held over time, what they cost, and who waited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...simulator.serving.record import Run
from ...simulator.serving.replicas import PHASES, Scaling
from ...simulator.serving.start_up import ENGINE_START_S
from ..show.result import Drawing
from ..show.text import seconds, show
from .facet import Facet

if TYPE_CHECKING:
    import pandas as pd

    from ...devices.spec import DeviceSpec

MOST_ROWS = 12
"""Changes that are printed; all are in the files."""


def scaled(run: Run) -> list[tuple[str, Scaling, DeviceSpec]]:
    """What autoscalers did, with the name of the pool if there are two, and its device."""
    own = [(pool.name, pool.scaling, pool.deployment) for pool in run.pools]
    every = own or [("", run.scaling, run.deployment)]
    return [(name, found, d.system.device) for name, found, d in every if found is not None]


def _of_pool(name: str) -> str:
    return f" of the {name} pool" if name else ""


def autoscale_dict(run: Run) -> dict[str, Any]:
    """Entry of an answer's JSON, of two pools one of each; nothing without an autoscaler."""
    entries = {name: _entry(found, device) for name, found, device in scaled(run)}
    if not entries:
        return {}
    return {"autoscale": entries if run.pools else entries[""]}


def _entry(found: Scaling, device: DeviceSpec) -> dict[str, Any]:
    price, hours = device.price_USD_per_hour, found.device_hours
    idle = device.static_W * found.devices
    held = {phase: found.held_s(phase) for phase in PHASES}
    return {
        "least": found.spec.least,
        "most": found.spec.most,
        "rule": found.spec.by,
        "target": found.spec.target if found.spec.by else None,
        "start_s": found.start_s,
        "device_hours": hours,
        **{f"{phase}_device_hours": s * found.devices / 3600 for phase, s in held.items()},
        "mean_replicas": found.held_s() / found.end_s if found.end_s > 0 else None,
        "most_replicas": found.most,
        "started": sum(span.phase == "starting" for span in found.spans),
        "drained": sum(span.phase == "draining" for span in found.spans),
        "usd": None if price is None else hours * price,
        "static_joules": idle * found.held_s(),
        "starting_joules": idle * held["starting"],
        "slo_ttft_s": found.spec.slo_s,
        "slo_attained": found.attained,
    }


def autoscale_text(run: Run) -> list[str | Sequence[Mapping[str, Any]]]:
    """The same as sentences, and the table of replicas over time; nothing without an autoscaler."""
    return [block for own in scaled(run) for block in _text(*own)]


def _text(name: str, found: Scaling, device: DeviceSpec) -> list[str | Sequence[Mapping[str, Any]]]:
    entry, of = _entry(found, device), _of_pool(name)
    price = "" if entry["usd"] is None else f", {show(entry['usd'])} USD"
    parts = [
        (
            f"Replicas{of}: {show(entry['mean_replicas'])} on average, {found.most} at most; "
            f"{show(entry['device_hours'])} device-hours{price}"
        )
    ]
    if found.spec.decides:
        parts.append(
            f"{show(entry['starting_device_hours'])} of them to start ({seconds(found.start_s)} each) "
            f"and {show(entry['draining_device_hours'])} to drain"
        )
    text = ", ".join(parts) + "."
    if found.attained is not None:
        text += f" {found.attained:.1%} of first tokens came within {seconds(found.spec.slo_s)}."
    rows = replica_rows(found)
    out: list[str | Sequence[Mapping[str, Any]]] = [text]
    if found.spec.decides:
        out.append(_worded(rows))
    return out


def replica_rows(found: Scaling) -> list[dict[str, Any]]:
    """Replicas by phase from each time on at which a number changes."""
    times, counts = found.counts()
    return [
        {"from_s": float(time), **{p: int(n) for p, n in zip(PHASES, row, strict=True)}}
        for time, row in zip(times, counts, strict=True)
        if time < found.end_s
    ]


def _worded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for people, those in the middle left out."""
    texts = [{**row, "from_s": seconds(row["from_s"]) if row["from_s"] else "0 s"} for row in rows]
    if len(texts) <= MOST_ROWS:
        return texts
    half = MOST_ROWS // 2
    between: dict[str, Any] = {"from_s": "..."} | dict.fromkeys(PHASES, "...")
    return [*texts[:half], between, *texts[-half:]]


def replica_frame(found: Scaling) -> pd.DataFrame:
    """The rows as a table, the last one at the end of the run."""
    import pandas as pd

    rows = replica_rows(found)
    return pd.DataFrame([*rows, {**rows[-1], "from_s": found.end_s}])


def replicas_drawn(run: Run, name: str) -> list[Drawing]:
    """Replicas over time, where they come and go."""
    changing = [own for own in scaled(run) if own[1].spec.decides]
    if not changing:
        return []
    import pandas as pd

    from ..plots import replicas_over_time

    arrival, out = pd.Series(run.requests.arrival_s), []
    for pool, found, _ in changing:
        title = f"{name}, {pool} pool" if pool else name
        text = f"Arrivals, and replicas{_of_pool(pool)} that serve, start and drain, over time."
        out.append(Drawing(replicas_over_time(replica_frame(found), arrival, title), text))
    return out


def start_up_evidence(run: Run) -> list[dict[str, Any]]:
    """What a start-up time that nobody gave rests on; nothing where it was given or is not needed."""
    every = [found for _, found, _ in scaled(run)]
    if not any(found.spec.start is None and found.spec.decides for found in every):
        return []
    text = (
        "the weights of a device at the rate of its disk or its share of host memory, whichever is "
        f"slower, and {ENGINE_START_S:g} s that vLLM took for everything else with Llama-2-7B on an A100 "
        "(github.com/upb-cn/vllm-startup-profiler 9ef96f47)"
    )
    return [
        {
            "cost_model": "start-up of a replica", "applies_to": "device-hours, waiting",
            "basis": "assumed", "error": None, "rows": 0, "assumptions": {"autoscale.start": f"assumed: {text}"},
        }
    ]  # fmt: skip


FACET = Facet(autoscale_dict, autoscale_text)
