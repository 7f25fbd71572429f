"""Interface between workloads and simulators: blocks of requests in order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .classes import RequestClass

ColumnArrays = dict[str, npt.NDArray[np.generic]]
"""Columns of a table of requests, by name."""

I8 = npt.NDArray[np.int64]

MAX_BLOCK = 65_536
"""Maximum number of requests in a block."""

PREFIX_BLOCK_TOKENS = 512
"""Number of prompt tokens per hash id unless a block sets another (Mooncake's block size)."""

HashIds = tuple[tuple[int, ...], ...]


class RequestColumns:
    """Base of columns of requests: arrays, tuples with an entry per request, or nested columns.

    Lists and numbers are of all requests; None where nobody says.
    """

    __slots__ = ()

    def take(self, which: slice | npt.NDArray[Any]) -> Self:
        """Return the selected requests."""

        def cut(column: Any) -> Any:
            if isinstance(column, tuple):
                return column[which] if isinstance(which, slice) else tuple(compress(column, which))
            if isinstance(column, RequestColumns):
                return column.take(which)
            return column[which] if isinstance(column, np.ndarray) else column

        spec: Any = self
        taken: Self = replace(spec, **{f.name: cut(getattr(self, f.name)) for f in fields(spec)})
        return taken

    @classmethod
    def joined(cls, parts: Sequence[Self | None]) -> Self | None:
        """Join several blocks of a pass; return None if one of them is None.

        An optional column stays where all have it; chances of acceptance are NaN where one has none.
        """
        known: list[Any] = [part for part in parts if part is not None]
        if len(known) < len(parts) or not known:
            return None

        def column(name: str) -> Any:
            values = [getattr(part, name) for part in known]
            last = values[-1]
            if name == "acceptance":
                return joined_acceptance([(rate, len(part)) for rate, part in zip(values, known, strict=True)])
            if any(value is None for value in values):
                return None
            if isinstance(last, tuple):
                return tuple(one for value in values for one in value)
            if isinstance(last, RequestColumns):
                return type(last).joined(values)
            return np.concatenate(values) if isinstance(last, np.ndarray) else last

        spec: Any = cls
        return cls(**{f.name: column(f.name) for f in fields(spec)})


@dataclass(frozen=True, slots=True)
class Turns(RequestColumns):
    """Order of requests in sessions; each session is a chain.

    Attributes
    ----------
    follows : int64 array, shape (n,)
        Request that each one follows; -1 for the first of a session. It arrives `think_s` after that one's end, but not
        before its own `arrival_s`, and its prompt starts with that one's prompt and output.
    session : int64 array, shape (n,)
        First request of the session.
    think_s : float64 array, shape (n,)
        Time from the end of the one before, or of the last of several [s].
    after : tuple of tuple of int, or None
        Where requests may wait for several: all that each one waits for, `follows` among them;
        `session` then is the first request of what its prompt continues.
    task : int64 array, shape (n,), or None
        First request of the task that each such request belongs to.
    """

    follows: npt.NDArray[np.int64]
    session: npt.NDArray[np.int64]
    think_s: npt.NDArray[np.float64]
    after: tuple[tuple[int, ...], ...] | None = None
    task: npt.NDArray[np.int64] | None = None

    def waits(self) -> Iterator[tuple[int, ...]]:
        """Return the requests for which each request waits; empty for independent requests."""
        if self.after is not None:
            return iter(self.after)
        return ((one,) if one >= 0 else () for one in self.follows.tolist())


@dataclass(frozen=True, slots=True)
class Labels(RequestColumns):
    """Class, priority and tenant of each request.

    Attributes
    ----------
    kind : int64 array, shape (n,)
        Number of each request's class in `kinds`.
    priority : int64 array, shape (n,)
        The smaller, the sooner.
    tenant : int64 array, shape (n,)
        Number of each request's tenant in `tenants`.
    kinds, tenants : list of str
        Names, shared by all blocks of a pass over a stream, which finds more of them as it goes on.
    """

    kind: I8
    priority: I8
    tenant: I8
    kinds: list[str]
    tenants: list[str]

    def __len__(self) -> int:
        return len(self.kind)

    def columns(self) -> ColumnArrays:
        """Return the labels as columns of `requests.csv`."""
        kinds, tenants = np.array(self.kinds, dtype=object), np.array(self.tenants, dtype=object)
        return {"class": kinds[self.kind], "priority": self.priority, "tenant": tenants[self.tenant]}


@dataclass(frozen=True, slots=True)
class RequestBlock(RequestColumns):
    """Consecutive requests of a stream.

    Attributes
    ----------
    request_id : int64 array, shape (n,)
        Position of the request in its stream, from 0.
    arrival_s : float64 array, shape (n,)
        Arrival, from the stream's first request [s]; 0 in a closed loop. Never decreases.
    input_tokens, output_tokens : int64 array, shape (n,)
        Prompt and output length [tokens], 1 to 2**31 - 1.
    hash_ids : tuple of tuple of int, or None
        Per request, one id per `hash_tokens` prompt tokens; equal ids mean the same
        prefix block. Never more ids than ``ceil(input_tokens / hash_tokens)``.
    turns : Turns or None
        Where requests follow each other.
    hash_tokens : int
        Prompt tokens behind one hash id.
    adapters : int64 array, shape (n,), or None
        Number of the adapter that each request names.
    acceptance : float64 array, shape (n,), or None
        Chance that a draft of a request is accepted once those before it are; NaN where nobody says.
    images : int64 array, shape (n,), or None
        Images of each request.
    labels : Labels or None
        Class, priority and tenant of each request.
    shared_tokens : int or None
        Prompt tokens that the hash ids cover, where a piece is longer. A request of a session then has one more
        id, of its session's text behind them.
    """

    request_id: npt.NDArray[np.int64]
    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    hash_ids: HashIds | None = None
    turns: Turns | None = None
    hash_tokens: int = PREFIX_BLOCK_TOKENS
    adapters: npt.NDArray[np.int64] | None = None
    acceptance: npt.NDArray[np.float64] | None = None
    images: npt.NDArray[np.int64] | None = None
    labels: Labels | None = None
    shared_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.request_id)


@dataclass(frozen=True, slots=True)
class RequestStream:
    """A named workload; each iteration reads or samples the requests again, block by block.

    Two iterations give equal blocks, so one stream can drive several systems. Errors in a
    file surface as `InputError` while iterating, when the bad line is reached.

    Attributes
    ----------
    name : str
        File name, ``"sample"`` or a description of the generator.
    has_arrivals : bool
        False if the requests have lengths but no arrival times (a closed loop).
    closed_loop : int or None
        Clients of a closed loop: the engine keeps this many requests in flight and releases
        the next one at a completion, with `has_arrivals` not before it arrives. None for an open loop.
    blocks : callable
        Starts an iteration.
    classes : tuple of RequestClass
        What is known of its requests' classes, whose numbers are places here.
    limit : int or None
        Most requests that were asked for.
    """

    name: str
    has_arrivals: bool
    closed_loop: int | None
    blocks: Callable[[], Iterator[RequestBlock]]
    classes: tuple[RequestClass, ...] = ()
    limit: int | None = None

    def __iter__(self) -> Iterator[RequestBlock]:
        return self.blocks()

    def read(self) -> RequestBlock:
        """Return the whole stream as one block, however long (memory: one row a request)."""
        blocks = list(self)
        if not blocks:
            none = np.zeros(0, dtype=np.int64)
            return RequestBlock(none, none.astype(np.float64), none, none)
        whole = RequestBlock.joined(blocks)
        assert whole is not None
        return whole


def joined_acceptance(parts: Sequence[tuple[npt.NDArray[np.float64] | None, int]]) -> npt.NDArray[np.float64] | None:
    """Join the acceptance rates of several blocks; None if none has any."""
    if all(rate is None for rate, _ in parts):
        return None
    return np.concatenate([np.full(n, np.nan) if rate is None else rate for rate, n in parts])
