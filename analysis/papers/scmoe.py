"""SCMoE (arXiv 2405.14507): contrastive decoding with two passes of a MoE model in one batch.

A step at batch 1 is memory-bound, so a second pass costs only the experts that the first has not read. Times are kernel
times of a step; the paper's framework takes four times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from opbyte.extend import Batch, Deployment, InputError, Loads, Table, deploy, load_model, load_system
from opbyte.extend.systems import StageCost, explicit_stage

from .published import Prediction, paper


@dataclass(frozen=True, slots=True)
class Shares:
    """Distribution of the number of experts per token: `top_k[i]` for a share `weights[i]` of the tokens.

    Attributes
    ----------
    weights : tuple of float
        Add up to 1.
    passes : int
        Rows of a token in one batch. With one, each token's number is sampled from the shares (dynamic routing); with
        more, the shares are exact counts of a token's passes.

    Examples
    --------
    A strong pass of two experts and a weak one of one, for every token:

    >>> both = Shares.of_passes((2, 1))
    >>> both.mean, both.passes
    (1.5, 2)
    >>> both.expected(2, 8).active
    2.75
    """

    top_k: tuple[int, ...]
    weights: tuple[float, ...]
    passes: int = 1

    def __post_init__(self) -> None:
        if len(self.top_k) != len(self.weights) or min(self.top_k, default=0) < 1:
            raise InputError("experts of a token", f"must be 1 or more, not {self.top_k}")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise InputError("shares of tokens", f"must add up to 1, not {self.weights}")

    @classmethod
    def of_passes(cls, top_k: Sequence[int]) -> Shares:
        """Return the passes of a decoder, each over all tokens, with the given experts each."""
        return cls(tuple(top_k), (1 / len(top_k),) * len(top_k), len(top_k))

    @property
    def mean(self) -> float:
        """Mean number of experts per row of the batch."""
        return sum(k * w for k, w in zip(self.top_k, self.weights, strict=True))

    def batch(self, decodes: Sequence[int] = (), prompts: Sequence[int] = ()) -> Batch:
        """Return a step's batch in which every sequence has one row for each pass.

        Parameters
        ----------
        decodes, prompts : sequence of int
            Contexts of decoding sequences, and tokens of whole prompts.
        """
        return Batch.of(
            [context for context in decodes for _ in range(self.passes)],
            [(tokens, 0) for tokens in prompts for _ in range(self.passes)],
        )

    def expected(self, rows: float, experts: int) -> Loads:
        """Return the expected loads of independent uniform choices of `rows` rows.

        A row of k experts leaves one out with probability ``1 - k / E``.

        Raises
        ------
        InputError
            More experts of a token than there are.
        """
        most = max(self.top_k)
        if most > experts:
            raise InputError("experts of a token", f"must be at most {experts}, not {most}")
        if rows <= 0:
            return Loads(np.zeros(1), np.zeros(1))
        if self.passes == 1:
            idle = (1.0 - self.mean / experts) ** rows
        else:
            idle = float(np.prod([
                (1.0 - k / experts) ** (rows * share)
                for k, share in zip(self.top_k, self.weights, strict=True)
            ]))  # fmt: skip
        active = experts * (1.0 - idle)
        return Loads(np.array([rows * self.mean / active]), np.array([active]))


MODEL, SYSTEM = "mixtral-8x7b", "a100-40gb-x4"
PROMPT, ANSWER = 32, 512
MIDDLE = PROMPT + ANSWER // 2
GREEDY, TOP3 = Shares.of_passes((2,)), Shares.of_passes((3,))
SELF_CONTRAST = Shares.of_passes((2, 1))
"""Self-contrast: a strong pass with two experts, and a weak pass with the expert that the router ranks second."""


@dataclass(frozen=True, slots=True)
class SharedChoice:
    """A router with different numbers of experts for different tokens."""

    shares: Shares
    experts: int

    def expected(self, layer: int, tokens: float, choices: float | None = None) -> Loads:
        """Loads of independent uniform choices, one a token; see `Router.expected`."""
        return self.shares.expected(tokens, self.experts)


@cache
def deployed(shares: Shares) -> Deployment:
    """Deploy the model as a pipeline over four devices, as frameworks that split a model by layers do."""
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
    """Return the time of a decoding step of one sequence with all passes in one batch [s]."""
    return _step(shares, context).seconds


def answer_s(shares: Shares) -> float:
    """Return the time of a prompt and its output [s]; steps are affine in the context, so the middle one is used for all."""
    first = explicit_stage(deployed(shares), [shares.batch((), [PROMPT])], expected=True)
    return first.seconds + (ANSWER - 1) * step_s(shares, MIDDLE)


def distinct(shares: Shares) -> float:
    """Return the expected number of distinct experts that a step reads in one layer."""
    part = deployed(shares).experts[0]
    return part.router.expected(part.row, float(shares.passes)).active


def weight_bytes(shares: Shares) -> float:
    """Return the bytes of weights that a step reads [B]."""
    return sum(placed.op.weight_bytes * placed.count for placed in _step(shares, MIDDLE).ops)


WELL_BELOW = 1.7
"""Limit of the time over greedy decoding's time, below which two passes clearly share one batch."""
WAYS = {
    "greedy, top-2": GREEDY, "top-3": TOP3, "self-contrast, 2 and 1": SELF_CONTRAST,
    "two strong passes": Shares.of_passes((2, 2)),
    "dynamic, half with 1 and half with 2": Shares((1, 2), (0.5, 0.5)),
    "dynamic, half with 2 and half with 3": Shares((2, 3), (0.5, 0.5)),
}  # fmt: skip


def predictions() -> Iterator[Prediction]:
    """Predict all rows from simulated steps of the model."""
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
    tables=(_ways,), drawn={"steps": _drawn}, runs=len(WAYS),
)  # fmt: skip
