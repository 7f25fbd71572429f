"""Text of a simulation's result: metrics, time, energy and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...devices.device import Processor
from ...simulator.quantity import ratio
from ...workloads.latencies import MEASURES, QUANTILES
from ..show.text import Records, seconds, show
from .part_answers import RUN_QUANTITIES, labelled, text_of

if TYPE_CHECKING:
    from ...simulator.deploy.deployment import Deployment
    from ...simulator.results.metrics import Quantiles
    from ...simulator.results.record import OpTotal, Run
    from ...simulator.results.steady import Window

LATENCIES = {f"{measure}_s": label for measure, label in MEASURES.items()}
"""Columns of latencies, and their labels."""
SMALL = 0.01
"""Ops below this share of both time and energy are combined into one row."""


def heading(run: Run) -> str:
    """Return the model, system and policy of a run as a heading."""
    d = run.deployment
    copies = 1 if d.pools or "autoscale" in run.parts else round(run.engines / d.replicas)
    return (
        f"{d.model.name} on {f'{copies} x ' if copies > 1 else ''}{d.system.name}: policy {run.policy.name}, placement {d.placement}, "
        f"{degrees(d)}; {len(run.requests):,} requests from {run.workload}"
    )


def degrees(deployment: Deployment) -> str:
    """Return the parallel degrees as text."""
    layout = deployment.layout
    experts = f", ep {layout.ep}" if deployment.has_experts else ""
    return f"tp {layout.tp}, dp {layout.dp}{experts}{f', pp {layout.pp}' if layout.pp > 1 else ''}"


def figures(run: Run) -> list[tuple[str, float | None, str]]:
    """Return label, value and unit of every value of a run that is not a latency."""
    return [
        *labelled(
            run, "output_tokens_per_s", "total_tokens_per_s", "joules_per_token", "static_joules_per_token",
            "busy_joules_per_token", "watts_per_device", "kv_peak_fraction",
        ),
        *_hits(run),
        *labelled(run, "iterations", "preemptions"),
        *_fleet_figures(run),
        *labelled(run, "makespan_s"),
    ]  # fmt: skip


def _hits(run: Run) -> list[tuple[str, float | None, str]]:
    """Return the share of prompt tokens found in the prefix cache; empty if there were none."""
    share = ratio(run.cached_tokens, run.cached_tokens + run.prompt_tokens)
    return [("prompt tokens found in the cache", share, "%")] if run.cached_tokens else []


def _fleet_figures(run: Run) -> list[tuple[str, float | None, str]]:
    """Return the values that only runs with replicas or pools have."""
    out: list[tuple[str, float | None, str]] = []
    if run.failures:
        out += [("replica failures", float(run.failures), ""), ("requests computed again", float(run.restarts), "")]
    if moved := RUN_QUANTITIES["moved_kv_bytes"].of(run):
        rate = ratio(moved / 1e9, run.makespan_s)
        out.append(("GB of KV cache moved per second", rate, "1/s"))
    return out


def overload(run: Run) -> str:
    """Return the text that an overloaded run's latencies depend on the length of the run."""
    from ...simulator.results.record import FULL  # compiled code, which tables of a step start without

    came = float(np.ptp(run.requests.arrival_s))
    rate, grows = (len(run.requests) - 1) / came if came else 0.0, run.window.queue_growth_per_s
    more = f"; {rate / (rate - grows):.1f} times the replicas would serve them" if 0.0 < grows < rate else ""
    full = "the KV cache is full and " if run.kv_peak > FULL else ""
    return (
        f"requests come faster than they are served: {full}the queue grows by {show(grows)} requests a second, so latencies "
        f"grow with the number of requests; rates are for the full system{more}"
    )


def window_text(window: Window) -> str:
    """Return a text on the part of a run that its rates cover, and their random error; see `results.steady`.

    Examples
    --------
    >>> from opbyte.simulator.results.steady import Window
    >>> window_text(Window(1.0, 9.0, "steady", half_width=0.16, drift=0.29)).partition("drift ")[2]
    '+29.0%, which more --requests would tell from chance.'
    """
    part = f"{seconds(window.start_s)} to {seconds(window.end_s)}"
    if window.kind == "steady":
        text = f"Rates, energy and power are for the steady part, {part}"
    elif window.kind == "asked":
        text = f"Rates, energy and power are those between warm-up and stop, {part}"
    else:
        text = (
            f"NOT STEADY: rates, energy and power are for {part}, filling and draining "
            f"included, and change with --requests ({window.why})"
        )
    if window.half_width is None or window.drift is None:
        return text + "."
    chance = f"+- {window.half_width:.1%} by chance (95 %, {window.batches} batches)"
    from ...simulator.results.steady import DRIFTS  # imported here, because most results do not need it

    doubt = (
        ", which more --requests would tell from chance"
        if window.kind == "steady" and abs(window.drift) > DRIFTS
        else ""
    )
    return f"{text}: {chance}, drift {window.drift:+.1%}{doubt}."


def window_dict(window: Window) -> dict[str, Any]:
    """Return the measurement window for JSON."""
    names = ("start_s", "end_s", "length_s", "batches", "half_width_95", "drift", "queue_growth_per_s", "overloaded")
    values = {name: getattr(window, name.removesuffix("_95")) for name in names}
    return {"kind": window.kind, "why": window.why or None, **values}


def took(wall_s: float) -> str:
    """Return the wall-clock time of the simulation, separate from its results."""
    return f"Computed in {seconds(wall_s)} of real time (compiling included, the first time)."


def figure_rows(run: Run) -> Records:
    """Return one row per value that is not a latency."""
    return [{"": label, " ": text_of(value, unit)} for label, value, unit in figures(run)]


def latency_texts(run: Run) -> list[tuple[str, str]]:
    """Return latencies with their labels; client latencies only if they differ from the engine's."""
    return [(n, label) for n, label in LATENCIES.items() if run.outside_s or not n.startswith("client")]


def latency_rows(run: Run, shown: Sequence[str] = QUANTILES) -> Records:
    """Return one row for each latency, with one column for each quantile."""
    rows = []
    for name, label in latency_texts(run):
        q: Quantiles = getattr(run, name)
        rows.append({"latency": label, **{k: seconds(q.at(k)) for k in shown}})
    return rows


def flat(run: Run, shown: Sequence[str] = QUANTILES) -> dict[str, float | None]:
    """Return every value under its JSON name, latencies as ``ttft_s_p99``."""
    out: dict[str, float | None] = {
        name: getattr(run, name)
        for name in ("output_tokens_per_s", "total_tokens_per_s", "joules_per_token", "makespan_s", "kv_peak")
    }
    for name in LATENCIES:
        out |= {f"{name}_{k}": getattr(run, name).at(k) for k in shown}
    return out


def comparison_rows(runs: Sequence[Run]) -> Records:
    """Return one row per value, one column per system, and the first over the last."""
    shown = [("mean", "mean"), ("p50", "median"), ("p99", "p99")]
    tables: list[dict[str, tuple[float | None, str]]] = []
    for r in runs:
        first, rest = figures(r)[:3], figures(r)[3:]
        latencies = [
            (f"{label}, {word}", getattr(getattr(r, name), k), "s")
            for name, label in latency_texts(r)
            for k, word in shown
        ]
        tables.append({label: (x, unit) for label, x, unit in [*first, *latencies, *rest]})
    rows = []
    for label in dict.fromkeys(name for table in tables for name in table):
        if label.startswith(" "):  # an indented label is a part of the row above it
            continue
        values = [table.get(label, (None, "")) for table in tables]
        row = {"": label}
        for r, (value, unit) in zip(runs, values, strict=True):
            row[r.deployment.system.name] = text_of(value, unit)
        quotient = ratio(values[0][0], values[-1][0])
        rows.append(row | {"ratio": "-" if quotient is None else f"{quotient:.2f}x"})
    return rows


def where_rows(run: Run) -> Records:
    """Return the time and energy of a run: one row for each op and processor.

    ``of time`` is the op's share of all steps' duration (one value for an op on two processors at once). ``busy`` is the
    share of it in which an average device's processor worked on the op. ``bound`` is its limit for most of that time.
    """
    groups: dict[tuple[str, str], list[OpTotal]] = {}
    for op in sorted(run.ops, key=lambda op: (-op.wall_s, op.name, -op.busy_s)):
        groups.setdefault((op.layer, op.name), []).append(op)
    clock = sum(ops[0].wall_s for ops in groups.values())
    joules = sum(energy(op) for op in run.ops)
    devices = run.deployment.layout.all_devices / run.deployment.replicas
    rows, small, apart = [], [], run.parts.get("experts-apart")
    for ops in groups.values():
        share, part = ratio(ops[0].wall_s, clock) or 0.0, ratio(sum(map(energy, ops)), joules) or 0
        if share < SMALL and part < SMALL:
            small.append((share, part))
            continue
        for i, op in enumerate(ops):
            on = devices
            if apart is not None and op.kind == "experts":
                on *= apart.experts_devices / apart.attention_devices
            rows.append(
                {
                    "op": op.name if i == 0 else '  "',
                    "of time": f"{share:.1%}" if i == 0 else None,
                    "runs on": op.processor,
                    "busy": f"{ratio(op.busy_s, clock * on) or 0:.1%}",
                    "energy": f"{ratio(energy(op), joules) or 0:.1%}",
                    "Op/B": op.op_per_byte,
                    "bound": op.bound,
                }
            )
    if small:
        share, part = (sum(column) for column in zip(*small, strict=True))
        rows.append({"op": f"{len(small)} more", "of time": f"{share:.1%}", "runs on": "", "busy": None,
                     "energy": f"{part:.1%}", "Op/B": None, "bound": ""})  # fmt: skip
    return rows


def energy(total: OpTotal) -> float:
    """Return the dynamic energy of an op [J]."""
    return sum(total.joules.values())


def roof_of(processor: Processor, dtype: str) -> dict[str, Any]:
    """Return the roofs of a processor in one arithmetic format: FLOP/s, B/s, efficiencies, launch [s]."""
    roof = processor.model.roof(dtype)
    names = ("bandwidth", "compute_efficiency", "memory_efficiency", "launch_s")
    return {
        "name": processor.name, "kind": processor.kind, "peak_flops": roof.peak,
        **{name: getattr(roof, name) for name in names}, "ridge_op_per_byte": processor.ridge(dtype),
    }  # fmt: skip
