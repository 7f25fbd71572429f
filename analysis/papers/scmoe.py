"""SCMoE (arXiv 2405.14507): contrastive decoding with two passes of a MoE model in one batch.

A step at batch 1 is read from memory, so what a second pass costs is the experts that the first has not
read. Times are those of a step's kernels; the paper's take four times as long in its framework.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .passes import Shares
from .published import Prediction, paper
from .scmoe_step import (
    ANSWER,
    GREEDY,
    MIDDLE,
    MODEL,
    PROMPT,
    SELF_CONTRAST,
    SYSTEM,
    TOP3,
    answer_s,
    distinct,
    step_s,
    weight_bytes,
)

WELL_BELOW = 1.7
"""What counts as well below two passes of one batch each."""
WAYS = {
    "greedy, top-2": GREEDY, "top-3": TOP3, "self-contrast, 2 and 1": SELF_CONTRAST,
    "two strong passes": Shares.of_passes((2, 2)),
    "dynamic, half with 1 and half with 2": Shares((1, 2), (0.5, 0.5)),
    "dynamic, half with 2 and half with 3": Shares((2, 3), (0.5, 0.5)),
}  # fmt: skip


def predictions() -> Iterator[Prediction]:
    """All rows, from steps of the model."""
    greedy = answer_s(GREEDY)
    yield Prediction(
        "scmoe.top3_over_greedy",
        answer_s(TOP3) / greedy,
        f"weights read: {weight_bytes(TOP3) / weight_bytes(GREEDY):.2f} times",
    )
    ours = answer_s(SELF_CONTRAST) / greedy
    yield Prediction("scmoe.scmoe_over_greedy", ours, f"{distinct(SELF_CONTRAST):.2f} experts a layer for two")
    yield Prediction("scmoe.passes_share_a_batch", float(ours < WELL_BELOW))


def _ways() -> Table:
    rows = []
    for name, shares in WAYS.items():
        took = step_s(shares, MIDDLE)
        rows.append({"way": name, "rows": shares.passes,
                     "experts_a_layer": distinct(shares), "step_ms": took * 1e3,
                     "over_greedy": took / step_s(GREEDY, MIDDLE)})  # fmt: skip
    return Table("ways", "A decoding step of one sequence by way of decoding", rows)


def _drawn() -> Table:
    """Milliseconds of a step, as the figure takes them."""
    rows = [{"case": row["way"], "step": row["step_ms"]} for row in _ways().rows]
    return Table("steps", f"A decoding step of {MODEL}, one sequence (ms)", rows)


paper(
    "scmoe", "SCMoE: the time of contrastive decoding over greedy, two passes in one batch.", predictions,
    facts={"MODEL": MODEL, "SYSTEM": SYSTEM, "PROMPT": PROMPT, "ANSWER": ANSWER}, tables=(_ways,), drawn=_drawn, runs=len(WAYS),
)  # fmt: skip
