"""How the headline moves with what the paper does not say: links, DRAM efficiency, expert skew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from opbyte.extend import Table

from ..points import Point, Runner
from .cases import ET, GPU, MOE, closed, grid, mean

ASSUMED_LATENCY_S, ASSUMED_EFFICIENCY = 3.0e-6, 0.85
SENSITIVITY: tuple[tuple[float | None, float | None], ...] = (
    (None, None), (0.8e-6, None), (None, 0.775), (None, 0.90), (0.8e-6, 0.775),
)  # fmt: skip
"""Link latency [s] and DRAM efficiency, None as assumed: 0.8 us is the other value in the
authors' simulator, 0.775 what their DRAM simulation attains, 0.90 refresh alone."""

ROUTINGS = ("uniform", "measured", "power_law:1.0")


def varied(seed: int, routing: str, latency_s: float | None = None, efficiency: float | None = None) -> list[Point]:
    """Fig. 11's grid for the GPU and the final Duplex, with one assumption changed."""
    return [
        replace(closed(m, d, b, n, seed, routing), latency_s=latency_s, efficiency=efficiency)
        for m, b, n in grid(MOE) for d in (GPU, ET)
    ]  # fmt: skip


def all_points(seed: int, routing: str) -> list[Point]:
    """Everything that the two tables need."""
    out = [p for latency, eff in SENSITIVITY for p in varied(seed, routing, latency, eff)]
    return out + [p for name in ROUTINGS for p in varied(seed, name)]


def tables(runner: Runner, seed: int, routing: str) -> tuple[Table, Table]:
    """T3 and T4 under every assumption and every expert popularity, one seed each."""
    assumed = [
        {
            "link latency": f"{(latency or ASSUMED_LATENCY_S) * 1e6:.1f} us",
            "DRAM efficiency": efficiency or ASSUMED_EFFICIENCY,
            **_headline(runner, varied(seed, routing, latency, efficiency)),
        }
        for latency, efficiency in SENSITIVITY
    ]
    skew = [{"experts": name, **_headline(runner, varied(seed, name))} for name in ROUTINGS]
    note = f"seed {seed}; the first row is what all rows above assume"
    return (
        Table("sensitivity", "What T3 and T4 owe to two assumptions", assumed, note),
        Table("skew", "What T3 and T4 owe to the popularity of experts", skew, f"seed {seed}"),
    )


def _headline(runner: Runner, points: Iterable[Point]) -> dict[str, Any]:
    """Largest and mean throughput of the final Duplex over the GPU, and the mean by model."""
    speeds = [(p.model, runner[p].output_tokens_per_s) for p in points]
    pairs: Sequence[tuple[str, float]] = [
        (model, et / gpu) for (model, gpu), (_, et) in zip(speeds[::2], speeds[1::2], strict=True)
    ]
    ratios = [ratio for _, ratio in pairs]
    means = {f"mean {m}": mean([r for model, r in pairs if model == m]) for m in MOE}
    return {"T3 (largest)": max(ratios), "T4 (mean)": mean(ratios), **means}
