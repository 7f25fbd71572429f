"""What metrics of a sweep are, for the reference."""

from __future__ import annotations

from ...simulator.quantity import meanings
from ..answers.part_answers import with_columns
from ..answers.quantities import RUN_QUANTITIES
from ..answers.summary import LATENCIES, QUANTILES
from ..studies.sweep.point import DERIVED, METRICS


def metrics() -> dict[str, str]:
    """Return every column of metrics with its meaning, in the order of the table."""
    known = {**meanings(tuple(RUN_QUANTITIES.values())), **DERIVED}
    out: dict[str, str] = {}
    for name in METRICS:
        stem, _, quantile = name.rpartition("_")
        if stem in LATENCIES and quantile in QUANTILES:
            share = "mean" if quantile == "mean" else f"{quantile[1:]}th percentile"
            out[name] = f"{LATENCIES[stem].capitalize()}, {share} [s]."
        else:
            out[name] = known[name]
    return out | {name: text for f in with_columns() for name, text in meanings(f.columns).items()}
