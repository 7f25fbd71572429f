"""Output of a run's quantities, which any run has, and of parts, derived from their `Figures`: JSON, text, columns of sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...simulator.deploy.deployment import Deployment
from ...simulator.quantity import Figures, Quantity, ratio
from ...simulator.registry import PARTS
from ...simulator.results.metrics import Quantiles
from ...simulator.step.explicit import StageCost
from ..show.text import Rows, seconds, show

if TYPE_CHECKING:
    from ...simulator.results.record import Run


Figure = float | int | str | None

COUNTS = (
    Quantity("requests", "Completed requests.", lambda r: len(r.requests), column=True),
    Quantity("iterations", "Engine steps, summed over all engines.", lambda r: r.iterations, label="steps", column=True),
    Quantity("preemptions", "Preemptions of running requests, summed over all engines.",
             lambda r: r.preemptions, label="preemptions", column=True),
    Quantity("output_tokens", "Output tokens of all requests.", lambda r: r.output_tokens, column=True),
    Quantity("prompt_tokens", "Prompt tokens of all requests.", lambda r: r.prompt_tokens, column=True),
    Quantity("cached_tokens", "Prompt tokens found in a prefix cache, which were not computed.", lambda r: r.cached_tokens),
)  # fmt: skip
LENGTHS = (
    Quantity("makespan_s", "Time from the first arrival to the end of the last step [s].", lambda r: r.makespan_s,
             "s", "simulated time", True),
    Quantity("interval_s", "Length of the steady window that rates are measured in [s].", lambda r: r.interval_s),
)  # fmt: skip
RATES = (
    Quantity("interval_output_tokens", "Output tokens in the steady window.", lambda r: r.interval_output_tokens),
    Quantity("output_tokens_per_s", "Output tokens per second of all devices in the steady window [1/s].",
             lambda r: r.output_tokens_per_s, "1/s", "output tokens per second", True),
    Quantity("total_tokens_per_s", "Prompt and output tokens per second of all devices in the steady window [1/s].",
             lambda r: r.total_tokens_per_s, "1/s", "tokens per second, prompts too", True),
    Quantity("joules_per_token", "Energy of all devices per output token in the steady window, with static power [J].",
             lambda r: r.joules_per_token, "J", "energy per output token", True),
    Quantity("dynamic_joules", "Dynamic energy of all devices over the run [J].", lambda r: r.joules),
    Quantity("static_joules_per_token", "Energy of static power per output token, a part of joules_per_token [J].",
             lambda r: ratio(r.interval_static_joules, r.interval_output_tokens),
             "J", "  of it static power", True),
    Quantity("busy_joules_per_token", "Energy per output token that busy devices take independent of their work, a part of joules_per_token [J].",
             lambda r: ratio(r.interval_busy_joules, r.interval_output_tokens),
             "J", "  constant part of it"),
    Quantity("watts_per_device", "Mean power of a device over the run [W].",
             lambda r: r.watts_per_device, "W", "mean power of a device"),
)  # fmt: skip
STATE = (
    Quantity("kv_peak_fraction", "Largest share of the KV cache in use, 0 to 1.", lambda r: r.kv_peak,
             "%", "KV cache in use at most", True),
    Quantity("failures", "Failures of replicas.", lambda r: r.failures),
    Quantity("restarts", "Requests restarted after a failure.", lambda r: r.restarts),
    Quantity("moved_kv_bytes", "KV cache transferred from the prefill to the decode pool [B].", lambda r: 0.0 if (pools := r.parts.get("two-pools")) is None else pools.moves.total_bytes),
)  # fmt: skip
RUN_QUANTITIES = {q.name: q for q in (*COUNTS, *LENGTHS, *RATES, *STATE)}
"""Every number of any run by its name, in JSON's order."""


def labelled(run: Run, *names: str) -> list[tuple[str, Any, str]]:
    """Return label, value and unit of the named values of a run."""
    return [(q.label, q.of(run), q.unit) for q in map(RUN_QUANTITIES.__getitem__, names)]


TextOrRows = str | Rows
UNITS = {"B": (2.0**30, "GiB"), "B/s": (1e9, "GB/s")}
MOST_ROWS = 16
"""Maximum number of printed rows of a part's table; JSON contains all rows."""


def text_of(value: Any, unit: str) -> str:
    """Return a value with its unit as text."""
    if isinstance(value, Quantiles):
        return text_of(value.mean, unit)
    if value is None or value == []:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {show(x)}" for name, x in value.items())
    if isinstance(value, list):
        return ", ".join(map(show, value))
    if unit == "s":
        return seconds(value)
    if unit == "%":
        return f"{value:.1%}"
    if unit in UNITS:
        factor, name = UNITS[unit]
        return f"{show(value / factor)} {name}"
    number = show(int(value) if unit == "" and not isinstance(value, str | bool) else value)
    return f"{number} {unit}" if unit in ("J", "W") else number


def lines(source: Any, quantities: Sequence[Quantity], title: str) -> Iterator[TextOrRows]:
    """Yield one line with the labelled values, then a table for each list."""
    told, tables, inner = [], [], []
    for q in quantities:
        value = q.of(source)
        if isinstance(value, list | tuple) and q.inside:
            tables.append([_row(item, q.inside) for item in value[:MOST_ROWS]])
            inner += [line for item in value[:MOST_ROWS] for line in _inner_lists(item, q.inside, title)]
        elif q.inside and value is not None:
            inner += list(lines(value, q.inside, f"{title}, {q.name.replace('_', ' ')}"))
        elif q.label and value is not None:
            told.append(f"{q.label} {text_of(value, q.unit)}")
    if told:
        yield f"{title}: {', '.join(told)}."
    yield from (table for table in tables if table)
    yield from inner


def _row(source: Any, quantities: Sequence[Quantity]) -> dict[str, str]:
    return {q.label: text_of(q.of(source), q.unit) for q in quantities if q.label and not q.inside}


def _inner_lists(source: Any, quantities: Sequence[Quantity], title: str) -> Iterator[TextOrRows]:
    lists = [q for q in quantities if q.inside and q.of(source)]
    name = text_of(quantities[0].of(source), "")
    for q in lists:
        yield from lines(source, [q], f"{title}, {name}")


def entries_after(parts: Mapping[str, Any], after: str) -> dict[str, Any]:
    """Return the JSON entries of the parts that are placed after the key `after`."""
    return {
        k: v for figures, left in figures_of(parts) if figures.after == after for k, v in figures.entry(left).items()
    }


def blocks_of(parts: Mapping[str, Any], late: bool) -> Iterator[TextOrRows]:
    """Yield the printed results of all parts that are placed before the latencies, or after them (`late`)."""
    for figures, left in figures_of(parts):
        if figures.late == late:
            yield from lines(left, figures.quantities, figures.title)


def figures_of(parts: Mapping[str, Any]) -> Iterator[tuple[Figures, Any]]:
    """Yield the `Figures` and the values of each part."""
    for name, left in parts.items():
        if PARTS[name].hook("figures") is not None:
            yield PARTS[name].figures(left), left


def step_parts(deployment: Deployment, stage: StageCost) -> dict[str, Any]:
    """Return the results of the active parts for one step."""
    hooks = {name: PARTS[name].hook("step") for name in PARTS if deployment.parts.get(name) is not None}
    parts = {name: hook(deployment, stage) for name, hook in hooks.items() if hook is not None}
    return {name: left for name, left in parts.items() if left is not None}


def with_columns() -> tuple[Figures, ...]:
    """Return the `Figures` of all parts that add columns to a sweep."""
    figures = [part.hook("figures") for part in PARTS.values()]
    return tuple(figure for figure in figures if figure and figure.columns)


def columns_of(run: Run) -> dict[str, Any]:
    """Return the sweep columns of the parts of a run."""
    return {k: v for figures, left in figures_of(run.parts) for k, v in figures.row(left).items()}
