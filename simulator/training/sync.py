"""Exchanges of gradients and weights beside the passes: what of them a step waits for.

The links are a second resource: layer by layer, in the order of the pass, an exchange starts when its
layer's work and the exchange before are done. Nothing else uses the links meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence


def pass_seconds(work: Sequence[float], gathers: Sequence[float] = (), scatters: Sequence[float] = ()) -> float:
    """Seconds of a pass with its exchanges.

    Parameters
    ----------
    work : sequence of float
        Of each layer, in the order of the pass [s].
    gathers : sequence of float, optional
        Before each layer's work, fetched while the layer before computes [s].
    scatters : sequence of float, optional
        After each layer's work [s].

    Examples
    --------
    >>> pass_seconds([1.0, 1.0], scatters=[0.5, 0.5])
    2.5
    >>> pass_seconds([1.0, 1.0], gathers=[0.5, 2.0])
    3.5
    """
    if not work:
        return 0.0
    gathers = gathers or [0.0] * len(work)
    scatters = scatters or [0.0] * len(work)
    link = ready = gathers[0]
    compute = 0.0
    for i, took in enumerate(work):
        start = max(compute, ready)
        compute = start + took
        if i + 1 < len(work):
            link = ready = max(link, start) + gathers[i + 1]
        if scatters[i]:
            link = max(link, compute) + scatters[i]
    return max(compute, link)
