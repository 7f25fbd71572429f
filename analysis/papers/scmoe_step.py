"""SCMoE by simulation: decoding steps of Mixtral in which every token has one or several passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from opbyte.extend import Deployment, Loads, deploy, load_model, load_system
from opbyte.extend.systems import StageCost, explicit_stage

from .passes import Shares

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
    """A prompt and its answer [s]; steps are affine in the context, so the middle one stands for all."""
    first = explicit_stage(deployed(shares), [shares.batch((), [PROMPT])], expected=True)
    return first.seconds + (ANSWER - 1) * step_s(shares, MIDDLE)


def distinct(shares: Shares) -> float:
    """Experts of a layer that a step reads."""
    part = deployed(shares).experts[0]
    return part.router.expected(part.row, float(shares.passes)).active


def weight_bytes(shares: Shares) -> float:
    """Weights that a step reads [B]."""
    return sum(placed.op.weight_bytes * placed.count for placed in _step(shares, MIDDLE).ops)
