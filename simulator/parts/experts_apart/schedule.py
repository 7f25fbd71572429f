"""Micro-batches that alternate between attention devices and expert devices.

While one micro-batch is in attention, another is at the experts and others are in transfer: MegaScale-Infer's ping-pong
pipeline (arXiv 2504.02263, section 4.1), with one stream for each group of devices and one for each direction of the
link.
"""

from __future__ import annotations

ATTENTION, EXPERTS, OUT, BACK = "attention", "experts", "link to experts", "link back"
"""The streams."""


def step_seconds(attention_s: float, experts_s: float, link_s: float, batches: int, layers: int) -> float:
    """Seconds of a step of equal layers and micro-batches, where those are enough (`enough`).

    The first micro-batch's way through a layer, and the slower group's work on all others: MegaScale-Infer, equation 5.

    Parameters
    ----------
    attention_s, experts_s, link_s : float
        Of one micro-batch in one layer; of the link, one way [s].
    """
    slower = max(attention_s, experts_s)
    return attention_s + experts_s + 2.0 * link_s + slower * (batches * layers - 1)


def enough(attention_s: float, experts_s: float, link_s: float, batches: int) -> bool:
    """Return whether the slower group never waits: the link is no slower, and others fill a round trip.

    MegaScale-Infer asks for a little more (its equation 3: ``batches >= 2 (1 + link / slower)``), which
    is this where both groups take as long.
    """
    slower = max(attention_s, experts_s)
    round_trip = attention_s + experts_s + 2.0 * link_s
    return link_s <= slower and batches * slower >= round_trip
