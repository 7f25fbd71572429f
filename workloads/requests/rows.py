"""Batches of request rows between a source and the numbered blocks, and the steps that change them.

Each step is a generator over `Rows`, so memory is bounded by one batch of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .block import MAX_BLOCK, PREFIX_BLOCK_TOKENS, HashIds, Labels, RequestBlock, RequestColumns, Turns
from .options import MAX_SIZE


@dataclass(frozen=True, slots=True)
class Rows(RequestColumns):
    """Requests without ids: arrivals [s] (any origin), lengths [tokens], and optional columns."""

    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    hash_ids: HashIds | None = None
    turns: Turns | None = None
    adapters: npt.NDArray[np.int64] | None = None
    acceptance: npt.NDArray[np.float64] | None = None
    images: npt.NDArray[np.int64] | None = None
    labels: Labels | None = None
    shared_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.input_tokens)

    def part(self, start: int, stop: int) -> Rows:
        """Return rows `start` to `stop`."""
        return self.take(slice(start, stop))


def checked(batches: Iterable[Rows], subject: object) -> Iterator[Rows]:
    """Refuse rows that no engine could serve, because a format's reader may be user code.

    Raises
    ------
    InputError
        RequestColumns of unequal length, arrivals out of order, or lengths below one token.
    """
    last = -np.inf
    for rows in batches:
        arrival, lengths = rows.arrival_s, (rows.input_tokens, rows.output_tokens)
        if any(len(column) != len(arrival) for column in lengths):
            raise InputError(subject, "the reader of this format returned columns of unequal length")
        if not len(arrival):
            continue
        if not (np.isfinite(arrival).all() and (np.diff(arrival, prepend=last) >= 0).all()):
            raise InputError(subject, "the reader of this format returned arrivals that are not sorted by time")
        if min(int(column.min()) for column in lengths) < 1:
            raise InputError(subject, "the reader of this format returned requests of less than one token")
        last = float(arrival[-1])
        yield rows


def from_zero(batches: Iterable[Rows]) -> Iterator[Rows]:
    """Shift arrivals so that the first request arrives at 0."""
    first: float | None = None
    for rows in batches:
        if first is None:
            first = float(rows.arrival_s[0])
        yield replace(rows, arrival_s=rows.arrival_s - first)


def compressed(batches: Iterable[Rows], rate_scale: float) -> Iterator[Rows]:
    """Divide arrival times by `rate_scale`; the pattern stays the same."""
    for rows in batches:
        yield replace(rows, arrival_s=rows.arrival_s / rate_scale)


def at_zero(batches: Iterable[Rows]) -> Iterator[Rows]:
    """Set all arrivals to 0, because the engine releases the requests of a closed loop."""
    for rows in batches:
        yield replace(rows, arrival_s=np.zeros(len(rows)))


def with_prefix(batches: Iterable[Rows], tokens: int, count: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Put one of `count` shared prefixes of `tokens` tokens before each prompt; a session's requests share one.

    Raises
    ------
    InputError
        A prompt beyond 2**31 - 1 tokens.
    """
    pieces = -(-tokens // PREFIX_BLOCK_TOKENS)
    names = [tuple(range(k * pieces, (k + 1) * pieces)) for k in range(count)]
    done, latest = 0, 0
    for rows in batches:
        prompts = rows.input_tokens + tokens
        if (prompts > MAX_SIZE).any():
            raise InputError("--prefix-len", f"makes prompts longer than {MAX_SIZE} tokens; use a smaller value")
        chosen = rng.integers(0, count, len(rows))
        if rows.turns is None:
            ids = tuple(names[k] for k in chosen.tolist())
        else:
            session = rows.turns.session
            chosen = np.where(session < done, latest, chosen[np.maximum(session - done, 0)])
            ids = tuple((*names[k], -1 - s) for k, s in zip(chosen.tolist(), session.tolist(), strict=True))
            done, latest = done + len(rows), int(chosen[-1])
        yield replace(rows, input_tokens=prompts, hash_ids=ids, shared_tokens=tokens)


def since(batches: Iterable[Rows], begin_s: float, subject: str) -> Iterator[Rows]:
    """Keep the requests that arrive at `begin_s` [s] or later, and count time from there.

    Raises
    ------
    InputError
        Requests that follow others, which may have been left out, or none that late.
    """
    empty = True
    for rows in batches:
        if rows.turns is not None:
            raise InputError("--since", f"cannot be used for {subject}, where requests depend on earlier requests")
        keep = int(np.searchsorted(rows.arrival_s, begin_s, side="left"))
        if keep < len(rows):
            empty = False
            late = rows.part(keep, len(rows))
            yield replace(late, arrival_s=late.arrival_s - begin_s)
    if empty:
        raise InputError("--since", f"{subject} has no arrival at {begin_s:g} s or later")


def until(batches: Iterable[Rows], duration_s: float) -> Iterator[Rows]:
    """Keep the requests that arrive before `duration_s` [s]."""
    for rows in batches:
        keep = int(np.searchsorted(rows.arrival_s, duration_s, side="left"))
        if keep:
            yield rows.part(0, keep)
        if keep < len(rows):
            return


def first(batches: Iterable[Rows], limit: int) -> Iterator[Rows]:
    """Keep the first `limit` requests; a shorter source is kept whole."""
    for rows in batches:
        yield rows.part(0, limit)
        limit -= len(rows)
        if limit <= 0:
            return


def bounded(batches: Iterable[Rows], most: int) -> Iterator[Rows]:
    """Refuse a workload of more than `most` requests when that number is exceeded."""
    count = 0
    for rows in batches:
        count += len(rows)
        if count > most:
            reason = f"is needed: the workload has more than {most:,} requests"
            raise InputError("--requests", reason)
        yield rows


def spread_stamps(batches: Iterable[Rows], bin_s: float, subject: str) -> Iterator[Rows]:
    """Space requests with one timestamp evenly inside their bin.

    The i-th of k requests with timestamp t moves to ``t + i / k * width``, where `width` is `bin_s` or the distance to
    the next timestamp, whichever is shorter, so the order never changes. The last timestamp of a batch waits for the
    next batch, which may continue it.
    """
    pending: Rows | None = None
    for batch in batches:
        rows = batch if pending is None else Rows.joined([pending, batch]) or batch
        times = rows.arrival_s
        last = int(np.searchsorted(times, times[-1], side="left"))
        if len(rows) - last > MAX_BLOCK:
            raise InputError(subject, f"more than {MAX_BLOCK} requests share one timestamp")
        if last:
            done = rows.part(0, last)
            yield replace(done, arrival_s=_spread(done.arrival_s, float(times[last]), bin_s))
        pending = rows.part(last, len(rows))
    if pending is not None:
        yield replace(pending, arrival_s=_spread(pending.arrival_s, np.inf, bin_s))


def _spread(times: npt.NDArray[np.float64], next_s: float, bin_s: float) -> npt.NDArray[np.float64]:
    stamps, start, count = np.unique(times, return_index=True, return_counts=True)
    width = np.minimum(np.diff(stamps, append=next_s), bin_s)
    rank = np.arange(len(times)) - np.repeat(start, count)
    return times + np.repeat(width / count, count) * rank


def numbered(batches: Iterable[Rows], block_size: int) -> Iterator[RequestBlock]:
    """Number the requests and cut them into blocks of at most `block_size`."""
    done = 0
    for rows in batches:
        for start in range(0, len(rows), block_size):
            part = rows.part(start, start + block_size)
            ids = np.arange(done, done + len(part), dtype=np.int64)
            done += len(part)
            columns = {f.name: getattr(part, f.name) for f in fields(part)}
            yield RequestBlock(request_id=ids, **columns)
