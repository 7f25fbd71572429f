"""What the paper's designs get of their own DRAM, and how the headline moves with it.

The paper's rows assume 0.85 of the bandwidth whatever is read. Here every op gets what the command
model of HBM3 at 5.2 Gb/s gives for its access pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from opbyte.extend import Row, Table, judged

from ..points import Point, Runner
from .cases import BANK, BANK_GROUP, ET, GPU, LABELS, MIXTRAL, MOE, SIZES, closed, grid
from .cases import mean as average

ASSUMED, OWN, ALIKE = "0.85 of every path", "own DRAM", "own DRAM, GPU laid out as Duplex"
CASES: dict[str, tuple[Literal["flat", "derived"], str | None]] = {
    ASSUMED: ("flat", None),
    OWN: ("derived", None),
    ALIKE: ("derived", ET),
}
"""Case -> ``--memory``, and the device whose data layout the GPU takes."""


def varied(case: str, seed: int, routing: str) -> list[Point]:
    """Fig. 11's grid for the GPU and the final Duplex, GPU first."""
    memory, layout = CASES[case]
    return [
        replace(closed(m, d, b, n, seed, routing), memory=memory, layout_of=layout if d == GPU else None)
        for m, b, n in grid(MOE)
        for d in (GPU, ET)
    ]


def points(seed: int, routing: str) -> list[Point]:
    """All runs that the rows and tables need."""
    return [p for case in CASES for p in varied(case, seed, routing)]


def headline(runner: Runner, case: str, seed: int, routing: str) -> dict[str, float]:
    """T3, T4 and T19 in one case."""
    pairs = varied(case, seed, routing)
    speed: list[float] = []
    saving: dict[str, list[float]] = {m: [] for m in MOE}
    for gpu, et in zip(pairs[::2], pairs[1::2], strict=True):
        base, own = runner[gpu], runner[et]
        speed.append(own.output_tokens_per_s / base.output_tokens_per_s)
        saving[gpu.model].append(1.0 - own.joules_per_token / base.joules_per_token)
    best = {f"T19.{m.split('-')[0]}": max(values) for m, values in saving.items()}
    return {"T3": max(speed), "T4": average(speed), **best}


def rows(runner: Runner, seed: int, routing: str) -> list[Row]:
    """The headline on the designs' own DRAM: predictions, since the paper assumes an efficiency."""
    flat, own = (headline(runner, case, seed, routing) for case in (ASSUMED, OWN))
    return [
        judged(f"dram.{name}", f"{name} where each access gets what its own DRAM gives", "1", None,
               value, note=f"seed {seed}; {flat[name]:.4g} with 0.85 on every path")
        for name, value in own.items()
    ]  # fmt: skip


def tables(runner: Runner, seed: int, routing: str) -> tuple[Table, Table]:
    """The headline under each assumption, and what each design's patterns get."""
    moved = [{"memory": case, **headline(runner, case, seed, routing)} for case in CASES]
    return (
        Table("dram", "How T3, T4 and T19 move with the memory's efficiency", moved, f"seed {seed}"),
        Table("dram_patterns", "What Mixtral's ops get of each design's own DRAM",
              [row for device in (GPU, ET, BANK_GROUP, BANK) for row in _patterns(device)],
              "HBM3 at 5.2 Gb/s, command by command; fractions of each processor's bandwidth"),
    )  # fmt: skip


def _patterns(device: str) -> Sequence[dict[str, Any]]:
    from opbyte.extend import deploy, load_model, load_system
    from opbyte.extend.answers import dram_rows

    system = load_system(f"{device}-{SIZES[MIXTRAL]}")
    return [
        {"device": LABELS[device], "on": row["processor"], "reads": row["pattern"],
         "gets": row["efficiency"], "ops": ", ".join(row["ops"])}
        for row in dram_rows(deploy(load_model(MIXTRAL), system, memory="derived"))
    ]  # fmt: skip
