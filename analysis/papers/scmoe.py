"""SCMoE (arXiv 2405.14507): contrastive decoding with two passes of a MoE model in one batch.

A step at batch 1 is read from memory, so what a second pass costs is the experts that the first has not
read. Times are those of a step's kernels; the paper's take four times as long in its framework.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from opbyte.extend import EXPERIMENTS, Reproduction, Table
from opbyte.extend.answers import Told
from opbyte.extend.models import Shares

from .published import Prediction, rows_of, with_figures
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
ASSUMPTIONS = (
    (
        f"{MODEL} on {SYSTEM}, its layers on one device after another; one sequence of {PROMPT} + {ANSWER} "
        "tokens; experts chosen independently and evenly, the weak pass's own as its states part from the "
        "strong one's"
    ),
    (
        "kernels of a serving engine: the paper's greedy step takes 98 ms in its framework, whose overheads "
        "make more experts cost less than here"
    ),
)


@EXPERIMENTS.register("scmoe")
def scmoe(seeds: Sequence[int], routing: str, told: Told | None, figures: bool = False) -> Reproduction:
    """SCMoE: the time of contrastive decoding over greedy, two passes in one batch."""
    began = time.perf_counter()
    found = list(predictions())
    result = Reproduction(
        "scmoe", rows_of("scmoe", found), len(WAYS), time.perf_counter() - began,
        tables=(_ways(),), assumptions=ASSUMPTIONS,
    )  # fmt: skip
    return with_figures(result, _drawn()) if figures else result


def predictions() -> Iterator[Prediction]:
    """All rows, from steps of the model."""
    greedy = answer_s(GREEDY)
    yield Prediction("scmoe.top3_over_greedy", "time with three experts a token over two", "1",
                     answer_s(TOP3) / greedy, "25 %",
                     f"weights read: {weight_bytes(TOP3) / weight_bytes(GREEDY):.2f} times")  # fmt: skip
    ours = answer_s(SELF_CONTRAST) / greedy
    yield Prediction("scmoe.scmoe_over_greedy", "time of self-contrast over greedy", "1", ours,
                     note=f"{distinct(SELF_CONTRAST):.2f} experts a layer for two")  # fmt: skip
    yield Prediction("scmoe.passes_share_a_batch", f"two passes take less than {WELL_BELOW} of one", "1",
                     float(ours < WELL_BELOW), "0")  # fmt: skip


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
