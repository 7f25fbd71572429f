"""Duplex (MICRO 2024, arXiv 2409.01141): its tables out of the serving engine.

See `cases` for the definitions. Two assumptions stand in the device files and hold for all rows
alike but `dram.*`: 3.0 us links and 0.85 DRAM efficiency; `variants` shows what they decide, and
what the designs' own DRAM gives instead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from opbyte.extend import EXPERIMENTS, Reproduction, Row
from opbyte.extend.answers import NOTHING, Crew, Kept, OnProgress, cores

from .. import PAPERS
from ..points import Point, Runner
from ..published import Prediction, assumed, rows_of
from . import figures as drawn
from . import own, rows, static, variants
from .cases import (
    BANK,
    ET,
    GLAM,
    GPU,
    HETERO,
    LENGTHS,
    LLAMA3,
    MIXTRAL,
    MOE,
    OPT,
    PE,
    PLAIN,
    SPLIT,
    TWO,
    Means,
    closed,
    fixed,
    grid,
)


@EXPERIMENTS.register("duplex")
def duplex(
    seeds: Sequence[int],
    routing: str,
    progress: OnProgress | None,
    device: str | None = None,
    figures: bool = False,
    kept: Kept = NOTHING,
) -> Reproduction:
    """Reproduce the paper's printed numbers and predict those withheld."""
    began = time.perf_counter()
    if device is not None:
        own.check(device)
    with Crew(cores()) as crew:
        runner = Runner(crew, progress, kept)
        wanted = [*points(seeds, routing), *variants.points(seeds[0], routing)]
        if device is not None:
            wanted += own.points(device, seeds, routing)
        if figures:
            wanted += drawn.points(seeds, routing)
        runner.run(wanted)
    get = Means(runner, seeds, routing)
    table: list[Prediction | Row] = [
        *static.constants(),
        *rows.throughput(get),
        *rows.latency(get),
        *rows.energy(get),
        *rows.hetero(runner),
        static.utilisation(),
        *rows.loads(get),
        *rows.bank_pim(get),
        *rows.split(get, runner),
        *static.edap_rows(),
        *variants.rows(runner, seeds[0], routing),
        *(own.rows(device, get) if device is not None else ()),
    ]
    return Reproduction(
        "duplex",
        rows_of("duplex", table),
        len(runner.results),
        time.perf_counter() - began,
        tables=(*variants.tables(runner, seeds[0], routing), static.gaps()),
        assumptions=assumed("duplex", {}),
        figures=drawn.tables(get) if figures else (),
        plots=f"{PAPERS}.figures.duplex",
    )


def points(seeds: Sequence[int], routing: str) -> list[Point]:
    """Closed-loop points behind the rows."""
    wanted = [(m, d, b, n) for m, b, n in grid(MOE) for d in (GPU, PLAIN, PE, ET)]
    wanted += [(GLAM, TWO, 64, n) for n in LENGTHS[GLAM]]
    wanted += [(MIXTRAL, BANK, b, n) for _, b, n in grid([MIXTRAL])]
    wanted += [(m, d, b, n) for m, b, n in grid((LLAMA3, OPT)) for d in (BANK, ET)]
    wanted += [(MIXTRAL, SPLIT, 128, n) for n in LENGTHS[MIXTRAL]]
    out = [closed(m, d, b, n, s, routing) for m, d, b, n in wanted for s in seeds]
    out += [p for d in rows.LOADED.values() for p in rows.full(d, seeds, routing)]
    out += [fixed(HETERO, 128, *lengths) for lengths in rows.HETERO_LENGTHS]
    return [*out, fixed(SPLIT, 128, 4096, 4096)]
