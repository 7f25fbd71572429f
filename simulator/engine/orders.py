"""Order in which waiting requests are admitted: named rules that give each request a key.

A key is computed once, when a request reaches an engine. The queue is sorted by key, smallest first; equal keys are in
order of arrival. Some orders use separate queues, and the engine chooses a queue for every admission (`LANED`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, reason_of
from ...workloads.registry import Registry
from ...workloads.requests import RequestBlock

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class Waiting(NamedTuple):
    """Requests that reach an engine, as columns.

    Attributes
    ----------
    request_id : int64 array
        Number in the workload.
    arrival_s : float64 array
        Arrival times [s]; 0 in a closed loop, whose clients send the next request after each response.
    input_tokens, output_tokens : int64 array
        Tokens of prompt and output. A real engine does not know the output length.
    priority, tenant : int64 array
        Priority (smallest first) and tenant of each request; 0 by default.
    """

    request_id: I8
    arrival_s: F8
    input_tokens: I8
    output_tokens: I8
    priority: I8
    tenant: I8

    @classmethod
    def of(cls, block: RequestBlock) -> Waiting:
        """Return the columns of a block of requests that orders use."""
        columns = block.request_id, block.arrival_s, block.input_tokens, block.output_tokens
        if block.labels is not None:
            return cls(*columns, block.labels.priority, block.labels.tenant)
        none = np.zeros(len(block), dtype=np.int64)
        return cls(*columns, none, none)


Order = Callable[[Waiting], npt.NDArray[np.float64 | np.int64]]
"""A function from waiting requests to one key each; the smallest key is admitted first."""


def keys_of(order: Order, requests: Waiting) -> F8:
    """Return the sort keys of requests under an order, after checking them.

    Raises
    ------
    InputError
        If the order does not return one finite number per request.
    """
    keys = np.asarray(order(requests), dtype=np.float64)
    if keys.shape != requests.arrival_s.shape or not np.isfinite(keys).all():
        raise InputError("its keys", "must be one finite number for each request")
    return keys


def _sorts(order: Order) -> None:
    """Refuse a rule that does not return one finite key for each of three test requests."""
    lengths = np.array([7, 1, 300])
    came = np.array([0.0, 0.5, 0.5])
    keys_of(order, Waiting(np.arange(3), came, lengths, lengths[::-1].copy(), lengths, lengths))


ORDERS: Registry[Order] = Registry("order", described=True, check=_sorts)


@ORDERS.register("shortest-prompt")
def shortest_prompt(requests: Waiting) -> I8:
    """Shortest prompt first."""
    return requests.input_tokens


@ORDERS.register("shortest-answer")
def shortest_answer(requests: Waiting) -> I8:
    """Shortest output first, as if its length were known: a bound for length predictors."""
    return requests.output_tokens


@ORDERS.register("priority")
def priority(requests: Waiting) -> I8:
    """Smallest priority first, and last preempted, as vLLM's priority scheduling."""
    return requests.priority


@ORDERS.register("vtc")
def vtc(requests: Waiting) -> I8:
    """Requests of the tenant that was served least first, by virtual token counters (Sheng et al., OSDI 2024)."""
    return requests.tenant


LANED = ("priority", "vtc")
"""Orders with one queue per priority or tenant (`parts.classes.class_queues`); with a single one they have no effect."""


def queue_keys(name: str, requests: Waiting) -> F8:
    """Return the queue keys of requests under a policy's order; without an order, all keys are 0.

    Raises
    ------
    InputError
        An order that fails on these requests.
    """
    if not name:
        return np.zeros(len(requests.arrival_s))
    try:
        return keys_of(ORDERS[name], requests)
    except Exception as error:
        raise InputError(f"order {name!r}", f"cannot be used: {reason_of(error)}") from error
