"""Interface of workloads for a simulator: blocks of requests, streamed in time order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from .classes import RequestClass
from .labels import Labels

MAX_BLOCK = 65_536
"""Most requests in one block."""

PREFIX_BLOCK_TOKENS = 512
"""Prompt tokens behind one hash id unless a block says otherwise (Mooncake's block size)."""

HashIds = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Turns:
    """How requests follow each other in sessions; each session is a chain.

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
        Of such requests: the first one of the task that each belongs to.
    """

    follows: npt.NDArray[np.int64]
    session: npt.NDArray[np.int64]
    think_s: npt.NDArray[np.float64]
    after: tuple[tuple[int, ...], ...] | None = None
    task: npt.NDArray[np.int64] | None = None

    def take(self, which: slice | npt.NDArray[np.bool_]) -> Turns:
        """Return some of the requests."""
        follows = self.follows[which], self.session[which], self.think_s[which]
        if self.after is None or self.task is None:
            return Turns(*follows)
        places = np.arange(len(self.task))[which].tolist()
        return Turns(*follows, tuple(self.after[i] for i in places), self.task[which])

    def waits(self) -> Iterator[tuple[int, ...]]:
        """Return the predecessors of each request; empty for independent ones."""
        if self.after is not None:
            return iter(self.after)
        return ((one,) if one >= 0 else () for one in self.follows.tolist())

    @classmethod
    def joined(cls, parts: Sequence[Turns | None]) -> Turns | None:
        """Join the columns of several blocks; None unless all have some."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or not known:
            return None
        names = ("follows", "session", "think_s")
        follows, session, think_s = (np.concatenate([getattr(part, name) for part in known]) for name in names)
        task = joined([part.task for part in known if part.task is not None])
        if task is None or len(task) < len(follows):
            return cls(follows, session, think_s)
        after = tuple(one for part in known for one in part.after or ())
        return cls(follows, session, think_s, after, task)


def joined(parts: Sequence[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
    """A column of several blocks; None unless all have it."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and len(known) == len(parts) else None


@dataclass(frozen=True, slots=True)
class RequestBlock:
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

    def __len__(self) -> int:
        return len(self.request_id)

    def part(self, which: slice | npt.NDArray[np.bool_]) -> RequestBlock:
        """Some of the requests."""
        columns: list[Any] = [self.adapters, self.acceptance, self.images]
        adapters, acceptance, images = (None if column is None else column[which] for column in columns)
        hashes, turns, labels = self.hash_ids, self.turns, self.labels
        if hashes is not None:
            hashes = hashes[which] if isinstance(which, slice) else tuple(compress(hashes, which))
        return RequestBlock(
            self.request_id[which], self.arrival_s[which], self.input_tokens[which], self.output_tokens[which],
            hashes, None if turns is None else turns.take(which), self.hash_tokens, adapters, acceptance, images,
            None if labels is None else labels.take(which),
        )  # fmt: skip


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
        the next one at a completion. None for an open loop.
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
        hashed = [b.hash_ids for b in blocks if b.hash_ids is not None]
        return RequestBlock(
            np.concatenate([b.request_id for b in blocks]),
            np.concatenate([b.arrival_s for b in blocks]),
            np.concatenate([b.input_tokens for b in blocks]),
            np.concatenate([b.output_tokens for b in blocks]),
            tuple(ids for block in hashed for ids in block) if hashed else None,
            Turns.joined([b.turns for b in blocks]),
            blocks[0].hash_tokens,
            joined([b.adapters for b in blocks]),
            joined_acceptance([(b.acceptance, len(b)) for b in blocks]),
            joined([b.images for b in blocks]),
            Labels.joined([b.labels for b in blocks]),
        )


def joined_acceptance(parts: Sequence[tuple[npt.NDArray[np.float64] | None, int]]) -> npt.NDArray[np.float64] | None:
    """Join the acceptance rates of several blocks; None if none has any."""
    if all(rate is None for rate, _ in parts):
        return None
    return np.concatenate([np.full(n, np.nan) if rate is None else rate for rate, n in parts])
