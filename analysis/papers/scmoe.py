"""SCMoE (arXiv 2405.14507): contrastive decoding with two passes of a MoE model in one batch.

A step at batch 1 is memory-bound, so a second pass costs only the experts that the first has not read. Times are kernel
times of a step; the paper's framework takes four times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from opbyte.extend import Deployment, Loads, Table, deploy, load_model, load_system
from opbyte.extend.systems import StageCost, explicit_stage

from .passes import Shares
from .published import Prediction, paper

MODEL, SYSTEM = "mixtral-8x7b", "a100-40gb-x4"
PROMPT, ANSWER = 32, 512
MIDDLE = PROMPT + ANSWER // 2
GREEDY, TOP3 = Shares.of_passes((2,)), Shares.of_passes((3,))
SELF_CONTRAST = Shares.of_passes((2, 1))
"""A strong pass of two experts and a weak one of the expert that the router ranks second."""


@dataclass(frozen=True, slots=True)
class SharedChoice:
    """What a deployment asks of a router, where tokens differ in how many experts they have."""

    shares: Shares
    experts: int

    def expected(self, layer: int, tokens: float, choices: float | None = None) -> Loads:
        """Loads of independent uniform choices, one a token; see `Router.expected`."""
        return self.shares.expected(tokens, self.experts)


@cache
def deployed(shares: Shares) -> Deployment:
    """Layers one device after another, as a framework that spreads a model over devices runs it."""
    d = deploy(load_model(MODEL), load_system(SYSTEM), tp=1, pp=4)
    routers = [SharedChoice(shares, part.spec.routed.experts) for part in d.experts]
    experts = tuple(
        replace(part, router=router)  # type: ignore[arg-type]  # it stands in for one
        for part, router in zip(d.experts, routers, strict=True)
    )
    return replace(d, experts=experts)


@cache
def _step(shares: Shares, context: int) -> StageCost:
    batch = shares.batch([context])
    return explicit_stage(deployed(shares), [batch], expected=True)


def step_s(shares: Shares, context: int) -> float:
    """A decoding step of one sequence, all passes in one batch [s]."""
    return _step(shares, context).seconds


def answer_s(shares: Shares) -> float:
    """Return the time of a prompt and its output [s]; steps are affine in the context, so the middle one is used for all."""
    first = explicit_stage(deployed(shares), [shares.batch((), [PROMPT])], expected=True)
    return first.seconds + (ANSWER - 1) * step_s(shares, MIDDLE)


def distinct(shares: Shares) -> float:
    """Experts of a layer that a step reads."""
    part = deployed(shares).experts[0]
    return part.router.expected(part.row, float(shares.passes)).active


def weight_bytes(shares: Shares) -> float:
    """Weights that a step reads [B]."""
    return sum(placed.op.weight_bytes * placed.count for placed in _step(shares, MIDDLE).ops)


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
    """Return the milliseconds of a step for the plot."""
    rows = [{"case": row["way"], "step": row["step_ms"]} for row in _ways().rows]
    return Table("steps", f"A decoding step of {MODEL}, one sequence (ms)", rows)


paper(
    "scmoe", "SCMoE: the time of contrastive decoding over greedy, two passes in one batch.", predictions,
    facts={"MODEL": MODEL, "SYSTEM": SYSTEM, "PROMPT": PROMPT, "ANSWER": ANSWER}, tables=(_ways,), drawn=_drawn, runs=len(WAYS),
)  # fmt: skip
