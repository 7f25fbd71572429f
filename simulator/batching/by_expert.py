"""Batches formed by expert: which waiting tokens a step takes, when each has one expert.

For models whose router names one expert for all layers before the model runs (Read-ME, arXiv
2410.19123): tokens then wait in queues by expert.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

B1 = npt.NDArray[np.bool_]


def first_come(experts: Sequence[int], limit: int) -> list[int]:
    """The tokens that have waited longest."""
    return list(range(min(limit, len(experts))))


def longest_queues(experts: Sequence[int], limit: int) -> list[int]:
    """The longest queue whole, then the next, until the batch is full (Read-ME, algorithm 1).

    Parameters
    ----------
    experts : sequence of int
        Expert of each waiting token, the one that has waited longest first.
    limit : int
        Most tokens of a batch.

    Returns
    -------
    list of int
        Positions of the tokens taken; of equally long queues, that of the token that has waited
        longest comes first.

    Examples
    --------
    >>> longest_queues([2, 0, 1, 0, 1, 0], 4)
    [1, 3, 5, 2]
    """
    queues: dict[int, list[int]] = {}
    for i, expert in enumerate(experts):
        queues.setdefault(expert, []).append(i)
    order = sorted(queues.values(), key=lambda queue: (-len(queue), queue[0]))
    return [i for queue in order for i in queue][:limit]


def regrouped(routes: B1, rounds: int = 10) -> B1:
    """Deal the tokens of two batches anew, by likeness of their routes (ExpertFlow, arXiv 2410.17954).

    Two centres by K-means on the Hamming distance of rows, groups of equal size; the batches stay as
    they came where that touches no fewer experts.

    Parameters
    ----------
    routes : bool array, shape (tokens, layers * experts)
        Experts of each token in every layer; the first half came as one batch.
    rounds : int
        Most rounds of K-means.

    Returns
    -------
    bool array, shape (tokens,)
        Which tokens are in the second batch; as many as not, or one less.
    """
    half = len(routes) - len(routes) // 2
    came = np.arange(len(routes)) >= half
    apart = (routes != routes[0]).sum(axis=1)
    centres = np.stack([routes[0], routes[int(apart.argmax())]]).astype(np.float64)
    second = came
    for _ in range(rounds):
        distance = np.abs(routes[None, :, :] - centres[:, None, :]).sum(axis=2)
        order = np.argsort(distance[0] - distance[1], kind="stable")
        now = np.ones(len(routes), dtype=np.bool_)
        now[order[:half]] = False
        if (now == second).all():
            break
        second = now
        centres = np.stack([routes[~now].mean(axis=0), routes[now].mean(axis=0)])
    return second if touched(routes, second) < touched(routes, came) else came


def touched(routes: B1, second: B1) -> int:
    """Distinct experts of both batches, summed over layers."""
    return int(routes[second].any(axis=0).sum() + routes[~second].any(axis=0).sum())
