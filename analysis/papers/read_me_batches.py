"""Batches formed by expert: which waiting tokens a step takes, when each has one expert.

For models whose router names one expert for all layers before the model runs (Read-ME, arXiv
2410.19123): tokens then wait in queues by expert.
"""

from __future__ import annotations

from collections.abc import Sequence


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
        Positions of the tokens taken; of equally long queues, that of the token that has waited longest comes first.

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
