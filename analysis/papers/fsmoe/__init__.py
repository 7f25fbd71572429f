"""FSMoE (arXiv 2501.10714): schedules of a MoE layer on three streams, from the paper's own lines.

Two interpretations of its lines are compared: as printed, and with lines that agree with the printed times of single
ops, both links of a node then on one medium. They contradict each other by a factor of ten in one line; neither is
fitted to the gains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from opbyte.extend import Table
from opbyte.extend.streams import Medium, run

from ..published import Prediction, paper, published
from .layer import MIXTRAL, SIMPLE, Size, Testbed, layers, ops_of, price, times_of
from .schedules import FORWARD, SCHEMES, SHARED, Scheduled, graph_of, schedule, seconds_of

A = Testbed("fsmoe-a", 6, 8, (512, 1024, 2048))
B = Testbed("fsmoe-b", 8, 4, (256, 512, 1024))


@dataclass(frozen=True, slots=True)
class Reading:
    """A testbed under one reading of its lines."""

    title: str
    testbed: Testbed
    media: tuple[Medium, ...] = ()


READINGS: Mapping[str, Reading] = {
    "A": Reading("A, printed lines", A),
    "B": Reading("B, printed lines", B),
    "A.shared": Reading("A, shared medium", replace(A, device="fsmoe-a-times"), (SHARED,)),
    "B.shared": Reading("B, shared medium", replace(B, device="fsmoe-b-times"), (SHARED,)),
    "A.free": Reading("A, free links", replace(A, device="fsmoe-a-free")),
}

GPT2 = Size(1, 1024, 1600, 6400, 1.2, SIMPLE, 25)
MIXTRAL_7B = Size(1, 1024, 4096, 14336, 1.2, MIXTRAL, 32)
MIXTRAL_22B = Size(1, 1024, 6144, 16384, 1.2, MIXTRAL, 48)
"""Whole models: layers of one size, so that a model's gain is its layer's. The capacity is assumed."""

TITLES = {"tutel": "Tutel", "improved": "Tutel-Improved", "noiio": "No-IIO", "fsmoe": "FSMoE"}
JUDGED = {"improved": "mean_improved_vs_tutel", "noiio": "mean_noiio_vs_tutel", "fsmoe": "mean_vs_tutel"}
"""Schedules that gain over Tutel, and how their rows are called."""


@cache
def cases() -> tuple[Prediction, ...]:
    """Return all rows, made once."""
    return tuple(predictions())


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the lines."""
    results = {name: _all(reading) for name, reading in READINGS.items()}
    for name, schemes in results.items():
        yield from _means(name, schemes)
    gains = results["B"]["fsmoe"]
    yield Prediction("fsmoe.B.degree_differs", float((gains.forward != gains.backward).mean()))
    yield from _ops()
    yield from _models()


def _all(reading: Reading) -> dict[str, Scheduled]:
    """Every schedule of the 1,458 layers, each distinct size scheduled once."""
    sizes = layers(reading.testbed)
    distinct = list(dict.fromkeys(replace(size, heads=sizes[0].heads) for size in sizes))
    times = times_of(distinct, reading.testbed)
    return {name: schedule(name, times, reading.media) for name in SCHEMES}


def _means(name: str, scheduled: Mapping[str, Scheduled]) -> Iterator[Prediction]:
    """Mean gains over Tutel of one reading."""
    for scheme, label in JUDGED.items():
        gain = float((scheduled["tutel"].seconds / scheduled[scheme].seconds).mean())
        yield Prediction(f"fsmoe.{name}.{label}", gain)


PAIRS = {
    "a2a": ("dispatch", "dispatch"), "ag": ("gather", "mp_gather"), "rs": ("scatter", "mp_scatter"),
    "experts": ("experts",), "attention": ("attention",), "ar": ("gradient",),
}  # fmt: skip
"""Columns of the paper's Table 2, and the ops whose times they add up."""


def op_ms(size: Size, testbed: Testbed, column: str) -> float:
    """Forward milliseconds of a column of Table 2: 4 sequences a node, as lines say."""
    ops = ops_of(replace(size, batch=4), testbed.layout)
    if column == "ar" and size.matrices == SIMPLE:  # of the query, key and value projections alone
        ops["gradient"] = replace(ops["gradient"], act_bytes=ops["gradient"].act_bytes * 3 / 4)
    return 1e3 * sum(price(ops[name], testbed).seconds for name in PAIRS[column])


def _ops() -> Iterator[Prediction]:
    """Single ops on the printed lines."""
    free = READINGS["A.free"].testbed
    for bed, testbed, columns in (("A", A, ("a2a", "rs", "ar")), ("A", free, ("ag",)), ("B", B, ("a2a",))):
        for column in columns:
            yield Prediction(f"fsmoe.ops.{bed}.gpt2.{column}", op_ms(GPT2, testbed, column))
    for bed, testbed, columns in (("A", A, ("a2a", "rs", "ar")), ("B", B, ("a2a",))):
        for column in columns:
            yield Prediction(f"fsmoe.ops.{bed}.mixtral.{column}", op_ms(MIXTRAL_7B, testbed, column))


def _models() -> Iterator[Prediction]:
    """Whole models and lengths, shared reading."""
    cases = [("A.shared", replace(size, length=1024)) for size in (GPT2, MIXTRAL_7B, MIXTRAL_22B)] + [
        ("B.shared", replace(size, length=256)) for size in (GPT2, MIXTRAL_7B)
    ]
    results = [_one(reading, size) for reading, size in cases]
    for scheme, label in (("tutel", "tutel"), ("improved", "improved"), ("noiio", "noiio")):
        mean = float(np.mean([times[scheme] / times["fsmoe"] for times in results]))
        yield Prediction(f"fsmoe.model.mean_vs_{label}", mean)
    for length in A.lengths:
        times = [_one("A.shared", replace(size, length=length)) for size in (GPT2, MIXTRAL_7B, MIXTRAL_22B)]
        mean = float(np.mean([one["tutel"] / one["fsmoe"] for one in times]))
        yield Prediction(f"fsmoe.A.L{length}.vs_tutel", mean)


def _one(reading: str, size: Size) -> dict[str, float]:
    """Seconds of one layer under every schedule."""
    given = READINGS[reading]
    times = times_of([size], given.testbed)
    return {name: float(schedule(name, times, given.media).seconds[0]) for name in SCHEMES}


def gains() -> Table:
    """Both readings side by side."""
    means = {p.id: p.value for p in cases()}
    rows = [
        {"reading": reading.title, "schedule": TITLES[scheme], "gain": means[f"fsmoe.{name}.{label}"]}
        for name, reading in READINGS.items() for scheme, label in JUDGED.items()
    ]  # fmt: skip
    return Table(
        "gains", "Mean gain over Tutel by reading of the lines", rows,
        "shared medium: lines that agree with the op times, both links on PCIe; free links: printed "
        "lines with a tenth of the all-gather's slope",
    )  # fmt: skip


def _compared() -> Table:
    """Return the same with the published values, for the plot."""
    table, given = gains(), published("fsmoe")["rows"]
    ids = [f"fsmoe.{name}.{label}" for name in READINGS for label in JUDGED.values()]
    rows = [{**row, "published": given.get(id, float("nan"))} for row, id in zip(table.rows, ids, strict=True)]
    return replace(table, rows=rows)


def op_times() -> Table:
    """Values of both sets of lines for the ops that the paper times separately."""
    given: Mapping[str, Mapping[str, float]] = published("fsmoe")["parts"]
    rows = [
        {
            "ops": f"{name}.{column}", "published_ms": columns.get(column, float("nan")),
            "printed_lines_ms": op_ms(size, READINGS[bed].testbed, column),
            "lines_by_times_ms": op_ms(size, READINGS[f"{bed}.shared"].testbed, column),
        }
        for name, columns in given.items()
        for bed, size in [(name[0], GPT2 if name.endswith("gpt2") else MIXTRAL_7B)]
        for column in PAIRS if column in columns
    ]  # fmt: skip
    return Table("ops", "Times of single ops, forward", rows,
                 "matmuls of the printed lines per multiply-add; per FLOP they take twice as long, "
                 "alpha aside")  # fmt: skip


def _streams(scheme: str) -> Table:
    """Return the tasks of one layer's forward pass, for the plot of streams."""
    size, reading = replace(GPT2, batch=4), READINGS["A.free"]
    times = times_of([size], reading.testbed)
    degree, order = int(schedule(scheme, times).forward[0]), SCHEMES[scheme].order
    graph = graph_of(order, degree, FORWARD, {})
    seconds = seconds_of(graph, times, degree, FORWARD, {})[0]
    tasks = tuple(replace(t, seconds=float(s)) for t, s in zip(graph.tasks, seconds, strict=True))
    line = run(replace(graph, tasks=tasks))
    rows = [
        {"lane": task.resource, "op": task.name, "kind": task.name, "chunk": task.chunk, "layer": -1, "bound": "its line",
         "start_s": start, "end_s": end}
        for task, start, end in zip(tasks, line.starts, line.ends, strict=True)
    ]  # fmt: skip
    title = f"{TITLES[scheme]}: forward pass of a GPT2-XL layer on testbed A, {degree} chunks"
    return Table(f"streams-{scheme}", title, rows)


paper(
    "fsmoe", "Compare schedules of a MoE layer on one and on three streams over 1,458 layers (FSMoE).", cases,
    tables=(gains, op_times), runs=len(READINGS),
    drawn={"schedules": _compared, **{f"streams-{name}": partial(_streams, name) for name in ("tutel", "fsmoe")}},
)  # fmt: skip
