"""Sessions: requests that follow each other; each prompt contains all earlier turns of its session.

A trace marks sessions with optional columns (or keys): `session`, the same text for all requests of one session, in
order; or `predecessor`, the `request_id` of the row before it in its session. With either, `think_s` may give the time
from the end of a request to the arrival of the next [s]. If calls wait for several others, `after` names them, see
`agents`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..csvfile import Column
from ..errors import InputError
from .agents import CallReader, Find, check_prompt, register, text_of, think_times
from .block import Turns
from .options import MAX_SIZE
from .rows import Rows

COLUMNS = ("session", "predecessor", "after", "request_id", "think_s")
"""Optional columns of a trace; `request_id` is used only with `predecessor` or `after`."""
OTHERWISE = {"parent": "predecessor", "wait_s": "think_s"}
"""Alternative names of columns in traces with `after`."""


def meant(known: Iterable[str], where: str) -> dict[str, str]:
    """Return the session columns of a file: the usual name of each, and its name in the file.

    Raises
    ------
    InputError
        One under two names.
    """
    as_named: dict[str, str] = {}
    names = list(known)
    for name in names:
        usual = OTHERWISE.get(name, name) if "after" in names else name
        if usual in as_named and usual in COLUMNS:
            raise InputError(
                where, f"has the columns {as_named[usual]} and {name}, which mean the same; keep one of them"
            )
        if usual in COLUMNS:
            as_named[usual] = name
    return as_named


def session_columns(known: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the columns of `COLUMNS` that a file's sessions use; an empty tuple if it has no sessions.

    With `after` all of them are returned, because any line may have any column.

    Raises
    ------
    InputError
        Columns that contradict or lack each other.
    """
    names = [name for name in COLUMNS if name in known]
    if "after" in names:
        if "request_id" not in names:
            raise InputError(where, "has the column after, but not request_id, which it refers to")
        return COLUMNS
    if "session" in names and "predecessor" in names:
        raise InputError(where, "has the columns session and predecessor; keep one of them")
    if "predecessor" in names and "request_id" not in names:
        raise InputError(where, "has the column predecessor, but not request_id, which it refers to")
    if "session" in names:
        return tuple(name for name in names if name != "request_id")
    if "predecessor" in names:
        return tuple(names)
    if "think_s" in names:
        raise InputError(where, "has the column think_s, which needs the column session or predecessor")
    return ()


def turns_reader(names: tuple[str, ...]) -> SessionReader | CallReader:
    """Return a reader of the columns that `session_columns` found."""
    return CallReader(names) if "after" in names else SessionReader(names)


@dataclass(slots=True)
class SessionReader:
    """Turns the session columns of a file's chunks into `Turns`.

    Attributes
    ----------
    names : tuple of str
        From `session_columns`.
    """

    names: tuple[str, ...]
    _count: int = 0
    _at: dict[str, int] = field(default_factory=dict)  # row of a request_id, or a session's last
    _root: list[int] = field(default_factory=list)  # first row of each row's session
    _tokens: list[int] = field(default_factory=list)  # prompt and output of each row
    _followed: dict[int, int] = field(default_factory=dict)

    def read(self, find: Find, rows: Rows) -> Rows:
        """Return a chunk's rows with their turns; `find` returns a column by name.

        Raises
        ------
        InputError
            Names the line: a predecessor is not an earlier row or already has a successor, a prompt is shorter than its
            history, or a time is invalid.
        """
        if not self.names:
            return rows
        key = self.names[0]
        column = find(key)
        ids = find("request_id") if key == "predecessor" else None
        follows = np.full(len(rows), -1, dtype=np.int64)
        session = np.empty(len(rows), dtype=np.int64)
        size = (rows.input_tokens + rows.output_tokens).tolist()
        for i, cell in enumerate(column.cells):
            row, name = self._count, text_of(cell)
            before = self._before(column, i, name, key)
            if ids is not None:
                register(self._at, ids, i, row)
            elif name:
                self._at[name] = row
            if before >= 0:
                check_prompt(column, i, int(rows.input_tokens[i]), self._tokens[before])
                self._followed[before] = row
            follows[i] = before
            session[i] = self._root[before] if before >= 0 else row
            self._root.append(int(session[i]))
            self._tokens.append(size[i])
            self._count += 1
        think = think_times(find("think_s")) if "think_s" in self.names else np.zeros(len(rows))
        return replace(rows, turns=Turns(follows, session, think))

    def _before(self, column: Column, i: int, name: str, key: str) -> int:
        """Return the row that the i-th row of a chunk follows; -1 if none."""
        if not name:
            return -1
        before = self._at.get(name, -1)
        if key == "session":
            return before
        if before < 0:
            raise column.error(i, "is the request_id of no earlier row: unknown, or a cycle")
        if before in self._followed:
            raise column.error(i, "is followed by another request already; a session is a chain")
        return before


def with_turns(
    batches: Iterable[Rows],
    turns: float,
    think_s: float,
    draw_turns: np.random.Generator,
    draw_think: np.random.Generator,
) -> Iterator[Rows]:
    """Combine generated requests into sessions, one after another.

    The lengths of the rows are what each turn adds; prompts grow by all that was said before. A
    session goes on after each turn with probability ``1 - 1 / turns``, so turns are geometric with
    that mean; think times are exponential (both assumed).

    Parameters
    ----------
    turns : float
        Mean requests of a session, at least 1.
    think_s : float
        Mean time from the end of a turn to the arrival of the next [s].

    Raises
    ------
    InputError
        A prompt that grows beyond 2**31 - 1 tokens.
    """
    done, root, said = 0, 0, 0
    for rows in batches:
        n = len(rows)
        goes_on = draw_turns.random(n) < 1.0 - 1.0 / turns
        if done == 0:
            goes_on[0] = False
        think = draw_think.standard_exponential(n) * think_s
        position = np.arange(done, done + n)
        starts = np.maximum.accumulate(np.where(goes_on, -1, position))
        session = np.where(starts < 0, root, starts)
        total = np.cumsum(rows.input_tokens + rows.output_tokens)
        before = np.concatenate([[0], total[:-1]])  # said in this batch before each row
        base = np.where(starts < 0, -said, before[np.maximum(starts - done, 0)])
        prompts = rows.input_tokens + before - base
        if (prompts > MAX_SIZE).any():
            raise InputError("--turns", f"makes prompts longer than {MAX_SIZE} tokens; use a smaller value")
        done, root = done + n, int(session[-1])
        said = int(total[-1] - base[-1])
        follows = np.where(goes_on, position - 1, -1)
        turns_own = Turns(follows, session, np.where(goes_on, think, 0.0))
        yield replace(rows, input_tokens=prompts, turns=turns_own)
