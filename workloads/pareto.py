"""Pareto front: the choices that no other choice beats in every cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def unbeaten(costs: npt.NDArray[np.float64], once: bool = False) -> list[int]:
    """Return the rows of costs, shape (n, objectives), that no other row beats, cheapest first.

    Equal rows are all returned, or only the first of them if `once`.

    Examples
    --------
    >>> unbeaten(np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 2.0]]))
    [1, 0]
    >>> equal = np.ones((2, 2))
    >>> unbeaten(equal), unbeaten(equal, once=True)
    ([0, 1], [0])
    """
    front: list[int] = []
    best = np.empty((0, costs.shape[1]))
    for i in np.lexsort(costs.T[::-1]):  # whatever beats a row comes before it in this order
        beaten = np.all(best <= costs[i], axis=1)
        if not once:
            beaten &= np.any(best < costs[i], axis=1)
        if not beaten.any():
            front.append(int(i))
            best = np.concatenate([best, costs[i : i + 1]])
    return front
