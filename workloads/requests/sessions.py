"""Sessions: requests that follow each other, each prompt holding all that was said before.

In a trace, optional columns (or keys) say so: `session`, the same text for all requests of one
session, in order; or `predecessor`, the `request_id` of the row before it in its session. With
either, `think_s` may give the time from the end of the one to the arrival of the next [s].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers
from ..errors import InputError
from .block import Turns
from .options import MAX_SIZE
from .rows import Rows

COLUMNS = ("session", "predecessor", "request_id", "think_s")
"""Optional columns of a trace; `request_id` counts with `predecessor` only."""

MAX_THINK_S = 1e12

Find = Callable[[str], Column]


def session_columns(known: Iterable[str], where: str) -> tuple[str, ...]:
    """Which of `COLUMNS` a file has that bear on its requests; none where it has no sessions.

    Raises
    ------
    InputError
        Columns that contradict or lack each other.
    """
    found = [name for name in COLUMNS if name in known]
    if "session" in found and "predecessor" in found:
        raise InputError(where, "has session and predecessor; give one of them")
    if "predecessor" in found and "request_id" not in found:
        raise InputError(where, "has predecessor but no request_id, which it refers to")
    if "session" in found:
        return tuple(name for name in found if name != "request_id")
    if "predecessor" in found:
        return tuple(found)
    if "think_s" in found:
        raise InputError(where, "has think_s but neither session nor predecessor")
    return ()


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
        """Rows of one chunk with their turns; `find` gives a column by name.

        Raises
        ------
        InputError
            Names the line: a predecessor that is no earlier row or has been followed already, a
            prompt that cannot hold what was said before, a time that is none.
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
            row, name = self._count, _text(cell)
            before = self._before(column, i, name, key)
            if ids is not None:
                self._register(ids, i, row)
            elif name:
                self._at[name] = row
            if before >= 0:
                self._check_prompt(column, i, int(rows.input_tokens[i]), before)
                self._followed[before] = row
            follows[i] = before
            session[i] = self._root[before] if before >= 0 else row
            self._root.append(int(session[i]))
            self._tokens.append(size[i])
            self._count += 1
        think = _think(find("think_s")) if "think_s" in self.names else np.zeros(len(rows))
        return replace(rows, turns=Turns(follows, session, think))

    def _before(self, column: Column, i: int, name: str, key: str) -> int:
        """Row that the i-th of a chunk follows; -1 for none."""
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

    def _register(self, ids: Column, i: int, row: int) -> None:
        name = _text(ids.cells[i])
        if not name or name in self._at:
            raise ids.error(i, "must be there" if not name else "appears twice")
        self._at[name] = row

    def _check_prompt(self, column: Column, i: int, prompt: int, before: int) -> None:
        if prompt < self._tokens[before]:
            raise column.error(
                i, f"has a prompt of {prompt} tokens, fewer than the {self._tokens[before]} of the "
                "prompt and output that it starts with",
            )  # fmt: skip


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def _think(column: Column) -> npt.NDArray[np.float64]:
    """Parse think times [s]; an empty cell is 0."""
    cells = ["0" if _text(cell) == "" else cell for cell in column.cells]
    values = numbers(replace(column, cells=cells))
    good = (values >= 0) & (values <= MAX_THINK_S)
    if not good.all():
        raise column.error(int(np.argmin(good)), f"must be seconds from 0 to {MAX_THINK_S:g}")
    return values


def with_turns(
    batches: Iterable[Rows],
    turns: float,
    think_s: float,
    draw_turns: np.random.Generator,
    draw_think: np.random.Generator,
) -> Iterator[Rows]:
    """Join generated requests to sessions, one after another.

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
            raise InputError("--turns", f"lets prompts grow beyond {MAX_SIZE} tokens")
        done, root = done + n, int(session[-1])
        said = int(total[-1] - base[-1])
        follows = np.where(goes_on, position - 1, -1)
        own = Turns(follows, session, np.where(goes_on, think, 0.0))
        yield replace(rows, input_tokens=prompts, turns=own)
