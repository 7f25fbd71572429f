"""Hecate (arXiv 2502.02581): experts sharded over all devices, the most loaded copied in every layer.

Routing is not published; the power law's exponent was chosen with the gains of cluster A on 16 devices
in view, so those two rows are a check of consistency, and the other clusters are the evidence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

from opbyte.extend import EXPERIMENTS, Reproduction, Table
from opbyte.extend.answers import OnProgress

from . import PAPERS
from .hecate_step import CLUSTERS, EP, HECATE, HELD, REMATERIALISED, SHAPES, Iteration, both, gain, memory_over_ep
from .published import Prediction, assumed, ratio_table, rows_of

EXPONENTS = (0.0, 0.3, 0.6, 0.9)
ASSUMED = 0.6
"""Exponent of the rows; assumed."""


@EXPERIMENTS.register("hecate")
def hecate(seeds: Sequence[int], routing: str, progress: OnProgress | None, figures: bool = False) -> Reproduction:
    """Compare Hecate's sharded experts with expert parallelism in training, on V100 and A100."""
    began = time.perf_counter()
    rows = rows_of("hecate", list(predictions()))
    result = Reproduction(
        "hecate", rows, len(CLUSTERS) * len(SHAPES) * len(EXPONENTS), time.perf_counter() - began,
        tables=(_sweep(), _parts()), assumptions=assumed("hecate", ASSUMED=ASSUMED),
    )  # fmt: skip
    if not figures:
        return result
    gains, parts = result.tables
    drawn = replace(gains, name="skew"), replace(parts, name="iteration")
    return replace(result, figures=(*ratio_table(rows, "hecate"), *drawn), plots=f"{PAPERS}.figures.hecate")


def routing_of(exponent: float) -> str:
    """A routing by its exponent."""
    return f"power_law:{exponent:g}"


def predictions() -> Iterator[Prediction]:
    """All rows, from models, maps and streams."""
    for cluster in CLUSTERS:
        found = [gain(shape, cluster, routing_of(ASSUMED)) for shape in SHAPES]
        for name, value in (("low", min(found)), ("high", max(found))):
            yield Prediction(f"hecate.{cluster.name}.gain.{name}", value)
    yield from _skew()
    yield Prediction("hecate.memory.over_ep", memory_over_ep(HELD))
    yield Prediction("hecate.memory.rematerialised_over_ep", memory_over_ep(1.0 + REMATERIALISED * (HELD - 1.0)))


def _skew() -> Iterator[Prediction]:
    """What gains become without skew, and with more of it."""
    gains = [[gain(shape, cluster, routing_of(e)) for e in EXPONENTS] for cluster in CLUSTERS for shape in SHAPES]
    own = fmean(row[0] for row in gains[: len(SHAPES)])
    note = f"{own:.3f} on A16 alone: copies that balance nothing still save their tokens the way"
    yield Prediction("hecate.gain_at_no_skew", fmean(row[0] for row in gains), note)
    grows = all(a < b for row in gains for a, b in pairwise(row))
    yield Prediction("hecate.gain_grows_with_skew", float(grows))


def _sweep() -> Table:
    """Gains by exponent."""
    rows = [
        {"cluster": cluster.name, "model": shape.name,
         **{f"{e:g}": gain(shape, cluster, routing_of(e)) for e in EXPONENTS}}
        for cluster in CLUSTERS for shape in SHAPES
    ]  # fmt: skip
    return Table("gains", "Gain over expert parallelism by exponent of the power law", rows)


def _parts() -> Table:
    """What of an iteration each kind of task takes where nothing hides it."""
    rows = []
    for shape in SHAPES:
        found = both(shape, CLUSTERS[0], routing_of(ASSUMED))
        rows += [{"case": f"{shape.name}, {way}", **_exposed(found[way])} for way in (EP, HECATE)]
    return Table("parts", f"An iteration on {CLUSTERS[0].name}, exponent {ASSUMED:g} (ms)", rows)


def _exposed(iteration: Iteration) -> dict[str, float]:
    """Milliseconds by kind of task; head and embedding count as dense."""
    out = dict.fromkeys(("dense", "experts", "exchange", "gather", "scatter"), 0.0)
    line = iteration.timeline
    for task, seconds in zip(line.graph.tasks, line.exposed(), strict=True):
        out["dense" if task.label == "head" else task.label] += seconds * 1e3
    return out
