"""How often a model runs for one result, where that is not once a token.

A *denoising* policy runs whole passes over a fixed set of tokens, one a noise step, and keeps no cache. A
*contrastive* decoder runs every token several times in one batch, each pass with its own number of
experts: k is then a distribution over the tokens of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opbyte.extend import Batch, InputError, Loads


@dataclass(frozen=True, slots=True)
class Denoising:
    """Passes over the same tokens, no token loop.

    Attributes
    ----------
    steps : int
        Noise steps, a pass each.
    tokens : int
        Tokens of one sample: noisy actions with what they are conditioned on.
    """

    steps: int
    tokens: int

    def batch(self, samples: int) -> Batch:
        """Return one pass over `samples` samples: each a whole sequence without a cache."""
        if samples < 1:
            raise InputError("samples", f"must be at least 1, not {samples}")
        return Batch.of(chunks=[(self.tokens, 0)] * samples)


@dataclass(frozen=True, slots=True)
class Shares:
    """Numbers of experts of a step's tokens: `top_k[i]` for a share `weights[i]` of them.

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
        """Experts of a row."""
        return sum(k * w for k, w in zip(self.top_k, self.weights, strict=True))

    def batch(self, decodes: Sequence[int] = (), prompts: Sequence[int] = ()) -> Batch:
        """A step in which every sequence has a row for each pass.

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
