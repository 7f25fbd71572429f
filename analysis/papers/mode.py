"""MoDE (arXiv 2412.12953): experts chosen by the noise level, merged before the run.

The printed count of a pass with merged experts is that of attention's projections: the counter did not see
the experts. Work and times here are those of what runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .mode_step import BATCH, BLOCKS, PASSES, SYSTEM, expert_flops, gmac, projections_gmac, seconds, weights_gib
from .published import Prediction, paper

BATCHES = (1, 8, 64, 512)
TIMED = ("merged", "dense")
"""One kernel after another each; the routed block is one op here, whose activation is hidden."""


def predictions() -> Iterator[Prediction]:
    """All rows, from the model's ops and the card."""
    yield Prediction("mode.pass.gmac", gmac("merged"))
    yield Prediction("mode.pass.attention_projections_gmac", projections_gmac())
    merged, dense = seconds("merged", BATCH), seconds("dense", BATCH)
    yield Prediction("mode.b512.mode_ms", merged * 1e3)
    yield Prediction("mode.b512.dense_ms", dense * 1e3)
    yield Prediction("mode.b512.ratio", dense / merged)
    same = abs(expert_flops("merged") / expert_flops("top2") - 1) < 1e-9
    yield Prediction("mode.merged_equals_top2_flops", float(same))


def _batches() -> Table:
    rows = []
    for samples in BATCHES:
        took = {name: seconds(name, samples) for name in TIMED}
        rows.append({"samples": samples, **{f"{name}_ms": s * 1e3 for name, s in took.items()},
                     "dense_over_merged": took["dense"] / took["merged"],
                     "action_ms": PASSES.steps * took["merged"] * 1e3})  # fmt: skip
    note = "an action is ten passes with merged experts"
    return Table("batches", "A pass by batch and design", rows, note)


def _designs() -> Table:
    rows = [{"design": name, "GMAC": gmac(name), "weights_GiB": weights_gib(name)} for name in BLOCKS]
    return Table("designs", "Work of a pass and weights in memory", rows,
                 "merged: the experts, and a merged block for each of ten levels")  # fmt: skip


def _drawn() -> Table:
    """Milliseconds of a pass of 512 samples, as the figure takes them."""
    rows = [{"case": name, "pass": seconds(name, BATCH) * 1e3} for name in TIMED]
    return Table("steps", f"A pass of {BATCH} samples (ms)", rows)


paper(
    "mode", "MoDE: work and time of a diffusion policy's pass with merged experts and without.", predictions,
    facts={"PASSES": PASSES, "SYSTEM": SYSTEM}, tables=(_batches, _designs), drawn=_drawn, runs=len(TIMED) * len(BATCHES),
)  # fmt: skip
