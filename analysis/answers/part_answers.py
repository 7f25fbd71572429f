"""Output of parts, derived from their `Figures`: JSON, text, columns of sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...simulator.deploy.deployment import Deployment
from ...simulator.quantity import Figures, Quantity
from ...simulator.registry import PARTS
from ...simulator.results.metrics import Quantiles
from ...simulator.step.explicit import StageCost
from ..show.text import Rows, seconds, show

if TYPE_CHECKING:
    from ...simulator.results.record import Run

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
