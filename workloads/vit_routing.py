"""Experts of every token of an image, in order of importance: sequences, not sums.

A design that serves tokens in order (an expert cache) depends on the sequence; one that serves expert by expert only on
its counts. Both use the same sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .routing import make_router

I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageRouter:
    """Samples each token's experts, task by task and layer by layer.

    Attributes
    ----------
    prob : float64 array, shape (tasks, layers, experts)
        Probability of each expert for a token's first choice.
    top_k : int
        Distinct experts of a token.
    seed : int
        First counter of every sample.
    """

    prob: npt.NDArray[np.float64]
    top_k: int
    seed: int

    def sequence(self, image: int, task: int, layer: int, tokens: int) -> I8:
        """Experts of every token, shape (tokens, top_k), the token's first choice first.

        Without replacement in proportion to `prob` (Plackett-Luce): the `top_k` largest of log probability plus Gumbel
        noise. Equal counters give equal samples.
        """
        if tokens < 1:
            raise InputError("tokens", f"must be at least 1, not {tokens}")
        rng = np.random.default_rng([self.seed, image, task, layer])
        p = self.prob[task, layer]
        noise = rng.gumbel(size=(tokens, len(p)))
        with np.errstate(divide="ignore"):
            score = np.log(p) + noise
        return np.argsort(-score, axis=1, kind="stable")[:, : self.top_k].astype(np.int64)


def make_image_router(routing: str, *, tasks: int, layers: int, experts: int, top_k: int, seed: int) -> ImageRouter:
    """Build the router of an encoder; every task's gate has its own popular experts.

    Raises
    ------
    InputError
        See :func:`workloads.routing.make_router`.
    """
    router = make_router(routing, layers=tasks * layers, experts=experts, top_k=top_k, seed=seed)
    return ImageRouter(router.prob.reshape(tasks, layers, experts), top_k, seed)


def queue_lengths(sequence: I8, experts: int) -> I8:
    """Tokens of every expert's queue, shape (experts,)."""
    return np.bincount(sequence.ravel(), minlength=experts).astype(np.int64)
