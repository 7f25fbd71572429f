"""How the headline moves with what the paper does not say: links, DRAM efficiency, expert skew.

The paper's rows assume 0.85 of the bandwidth whatever is read. With `OWN` every op gets what the command model of HBM3
at 5.2 Gb/s gives for its access pattern.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opbyte.extend import Row, Table, judged

from ..points import Point, Runner
from .cases import BANK, BANK_GROUP, ET, GPU, LABELS, MIXTRAL, MOE, SIZES, closed, grid, mean

ASSUMED, OWN, ALIKE = "3.0 us, 0.85 of every path", "own DRAM", "own DRAM, GPU laid out as Duplex"
CASES: Mapping[str, Mapping[str, Any]] = {
    ASSUMED: {},
    "0.8 us": {"latency_s": 0.8e-6},
    "0.775 of every path": {"efficiency": 0.775},
    "0.90 of every path": {"efficiency": 0.90},
    "0.8 us, 0.775 of every path": {"latency_s": 0.8e-6, "efficiency": 0.775},
    OWN: {"memory": "derived"},
    ALIKE: {"memory": "derived", "layout_of": ET},
    "measured experts": {"routing": "measured"},
    "experts by power_law:1.0": {"routing": "power_law:1.0"},
}
"""What of a point each case changes: 0.8 us is the other latency in the authors' simulator, 0.775 what their DRAM
simulation attains, 0.90 what refresh leaves; the layout is the GPU's alone."""


def varied(case: str, seed: int, routing: str) -> list[Point]:
    """Fig. 11's grid for the GPU and the final Duplex, GPU first."""
    changes = CASES[case]
    of = {GPU: changes, ET: {**changes, "layout_of": None}}
    return [replace(closed(m, d, b, n, seed, routing), **of[d]) for m, b, n in grid(MOE) for d in (GPU, ET)]


def points(seed: int, routing: str) -> list[Point]:
    """All runs that the rows and tables need."""
    return [p for case in CASES for p in varied(case, seed, routing)]


def headline(runner: Runner, case: str, seed: int, routing: str) -> dict[str, float]:
    """T3, T4 with the means of its models, and T19 in one case."""
    runs = varied(case, seed, routing)
    pairs = [(gpu.model, runner[et], runner[gpu]) for gpu, et in zip(runs[::2], runs[1::2], strict=True)]
    speed = [(model, et.output_tokens_per_s / gpu.output_tokens_per_s) for model, et, gpu in pairs]
    saving = [(model, 1.0 - et.joules_per_token / gpu.joules_per_token) for model, et, gpu in pairs]
    return {
        "T3": max(r for _, r in speed),
        "T4": mean([r for _, r in speed]),
        **{f"T4.{m.split('-')[0]}": mean([r for model, r in speed if model == m]) for m in MOE},
        **{f"T19.{m.split('-')[0]}": max(s for model, s in saving if model == m) for m in MOE},
    }


def rows(runner: Runner, seed: int, routing: str) -> list[Row]:
    """The headline on the designs' own DRAM: predictions, since the paper assumes an efficiency."""
    flat, modelled = (headline(runner, case, seed, routing) for case in (ASSUMED, OWN))
    return [
        judged(f"dram.{name}", f"{name} where each access gets what its own DRAM gives", "1", None,
               modelled[name], note=f"seed {seed}; {flat[name]:.4g} with 0.85 on every path")
        for name in modelled if not name.startswith("T4.")
    ]  # fmt: skip


def tables(runner: Runner, seed: int, routing: str) -> tuple[Table, Table]:
    """The headline in each case, and what each design's patterns get of its DRAM."""
    moved = [{"case": case, **headline(runner, case, seed, routing)} for case in CASES]
    note = f"seed {seed}; the first row is what all rows above assume; T4 also by model"
    return (
        Table("sensitivity", "What T3, T4 and T19 owe to links, memory and the popularity of experts", moved, note),
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
