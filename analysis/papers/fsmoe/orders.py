"""A MoE layer cut into chunks, with its tasks on streams by a named order.

Chunk i passes five tasks: ``dispatch`` (all-to-all between nodes), ``gather`` (all-gather within one),
``experts``, ``scatter`` (reduce-scatter within a node) and ``return`` (all-to-all back), as in FSMoE
(arXiv 2501.10714, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

from opbyte.extend import InputError, nearest
from opbyte.extend.streams import COMPUTE, DEVICE_LINK, NODE_LINK, Builder

COMMUNICATION = "communication"
"""One stream of all exchanges, within nodes and between them."""

ORDERS = {
    "serial": (COMPUTE, COMPUTE),
    "pipelined": (COMMUNICATION, COMMUNICATION),
    "three-stream": (NODE_LINK, DEVICE_LINK),
}
"""Name -> streams of the exchanges between nodes and of those within one."""

DISPATCH, GATHER, EXPERTS, SCATTER, RETURN, GRADIENT = (
    "dispatch", "gather", "experts", "scatter", "return", "gradient",
)  # fmt: skip


def streams_of_order(order: str) -> tuple[str, str]:
    """Streams of the exchanges between nodes and of those within one.

    Raises
    ------
    InputError
        An unknown order.
    """
    if order not in ORDERS:
        raise InputError(f"order {order!r}", f"unknown order{nearest(order, ORDERS)}")
    return ORDERS[order]


def add_chunks(
    builder: Builder, order: str, chunks: int, after: Sequence[int] = (), gradient: bool = False
) -> list[int]:
    """Add the tasks of a layer's chunks, without their seconds; returns those that end it.

    Streams take all dispatches (each with its gather, where one stream has both) before what comes
    back. With a `gradient` its all-reduce runs between them on the stream between nodes.

    Parameters
    ----------
    after : sequence of int
        What comes before the layer.

    Raises
    ------
    InputError
        An unknown order.
    """
    between, within = streams_of_order(order)
    gathered, ends = [], []
    for i in range(chunks):
        sent = builder.add(DISPATCH, between, 0.0, after, chunk=i)
        gathered.append(builder.add(GATHER, within, 0.0, [sent], chunk=i))
    done = [builder.add(EXPERTS, COMPUTE, 0.0, [gathered[i]], chunk=i) for i in range(chunks)]
    if gradient:
        builder.add(GRADIENT, between, 0.0, after)
    for i in range(chunks):
        summed = builder.add(SCATTER, within, 0.0, [done[i]], chunk=i)
        ends.append(builder.add(RETURN, between, 0.0, [summed], chunk=i))
    return ends
