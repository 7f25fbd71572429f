"""Agents: calls of a task that wait for other calls and for tools, a directed acyclic graph.

In a trace, `after` has the `request_id` of every earlier row that must end before this one is sent: a list in JSON
lines, names separated by spaces or semicolons in a CSV. `wait_s` (or `think_s`) is the time from the end of the last of
them until then: a tool's [s]. `session` names the task of a call; default: the task of its predecessors. `predecessor`
(or `parent`) must also end, and the prompt starts with its prompt and output. Several calls may follow one; only the
first continues its content, and others share content by `hash_ids`.

Columns of requests: lengths and times, with the exact line of the first bad cell.

Cells of the columns that say which requests follow which.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers
from .block import Turns
from .options import MAX_SIZE
from .rows import Rows

MAX_THINK_S = 1e12

Find = Callable[[str], Column]
"""Function that returns a column by name."""


def text_of(cell: object) -> str:
    """Return a cell's text without blanks around it; empty if the cell is empty."""
    return "" if cell is None else str(cell).strip()


def register(at: dict[str, int], ids: Column, i: int, row: int) -> None:
    """Record the row of a request's name; refuse empty and repeated names."""
    name = text_of(ids.cells[i])
    if not name or name in at:
        raise ids.error(i, "must not be empty" if not name else "appears twice; use each name once")
    at[name] = row


def think_times(column: Column) -> npt.NDArray[np.float64]:
    """Parse think times between requests [s]; an empty cell is 0."""
    cells = ["0" if text_of(cell) == "" else cell for cell in column.cells]
    values = numbers(replace(column, cells=cells))
    good = (values >= 0) & (values <= MAX_THINK_S)
    if not good.all():
        raise column.error(int(np.argmin(good)), f"must be seconds from 0 to {MAX_THINK_S:g}")
    return values


def check_prompt(column: Column, i: int, prompt: int, said: int) -> None:
    """Refuse a prompt that is shorter than the history that it starts with."""
    if prompt < said:
        raise column.error(
            i,
            f"has a prompt of {prompt} tokens, but must contain the prompt and output of an earlier call: {said} tokens",
        )


MAX_TIME = 2.0**53
"""Largest accepted timestamp, in the file's unit: float64 is exact for integers up to it."""


def tokens(column: Column) -> npt.NDArray[np.int64]:
    """Parse token counts: whole numbers from 1 to 2**31 - 1."""
    values = numbers(column)
    good = (values >= 1) & (values <= MAX_SIZE) & (values == np.floor(values))
    if not good.all():
        reason = f"must be a whole number of tokens from 1 to {MAX_SIZE}"
        raise column.error(int(np.argmin(good)), reason)
    return values.astype(np.int64)


def times(column: Column) -> npt.NDArray[np.float64]:
    """Parse timestamps in the file's unit; refuse negative and infinite ones."""
    values = numbers(column)
    good = (values >= 0) & (values <= MAX_TIME)
    if not good.all():
        raise column.error(int(np.argmin(good)), "must be a finite time, not negative")
    return values


def chances(column: Column) -> npt.NDArray[np.float64]:
    """Parse probabilities from 0 to 1; an empty cell is NaN."""
    empty = np.array([cell is None or not str(cell).strip() for cell in column.cells], bool)
    cells = ["0" if none else cell for none, cell in zip(empty, column.cells, strict=True)]
    values = numbers(replace(column, cells=cells))
    good = (values >= 0) & (values <= 1)
    if not good.all():
        raise column.error(int(np.argmin(good)), "must be a probability from 0 to 1, or empty")
    values[empty] = np.nan
    return values


def check_order(column: Column, values: npt.NDArray[np.float64], before: float) -> float:
    """Refuse a timestamp earlier than the one before it; return the last one.

    `before` is the last timestamp of the rows that precede this chunk (-inf at the start).
    """
    late = np.diff(values, prepend=before) < 0
    if late.any():
        raise column.error(int(np.argmax(late)), "is earlier than the row before it; sort the rows by time")
    return float(values[-1])


def _numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class CallReader:
    """Turns the columns of a file's chunks into `Turns` with calls that wait for several.

    Attributes
    ----------
    names : tuple of str
        From `sessions.session_columns`, `after` among them.
    """

    names: tuple[str, ...]
    _at: dict[str, int] = field(default_factory=dict)  # row of a request_id
    _named: dict[str, int] = field(default_factory=dict)  # first row of a task
    _task: array[int] = field(default_factory=_numbers)  # first row of each row's task
    _content: array[int] = field(default_factory=_numbers)  # first row of what it continues
    _tokens: array[int] = field(default_factory=_numbers)  # prompt and output of each row
    _followed: set[int] = field(default_factory=set)

    def read(self, find: Find, rows: Rows) -> Rows:
        """Return a chunk's rows with their turns; `find` returns a column by name.

        Raises
        ------
        InputError
            Names the line: a call that waits for no earlier row or for one of another task, a prompt that
            cannot hold what was said before, a time that is none.
        """
        ids, after = find("request_id"), find("after")
        session, before = find("session"), find("predecessor")
        count = len(rows)
        first = len(self._task)
        follows = np.full(count, -1, dtype=np.int64)
        waits: list[tuple[int, ...]] = []
        size = (rows.input_tokens + rows.output_tokens).tolist()
        for i in range(count):
            row = first + i
            row_own = self._rows(after, i, _names(after, i))
            if name := text_of(before.cells[i]):
                (follows[i],) = self._rows(before, i, [name])
                check_prompt(before, i, int(rows.input_tokens[i]), self._tokens[follows[i]])
            if follows[i] >= 0 and follows[i] not in row_own:
                row_own = (int(follows[i]), *row_own)
            register(self._at, ids, i, row)
            self._task.append(self._task_of(after, session, i, row, row_own))
            self._content.append(self._continues(int(follows[i]), row))
            self._tokens.append(size[i])
            waits.append(row_own)
        think = think_times(find("think_s"))
        task, content = (np.array(column[first:]) for column in (self._task, self._content))
        return replace(rows, turns=Turns(follows, content, think, tuple(waits), task))

    def _rows(self, column: Column, i: int, names: list[str]) -> tuple[int, ...]:
        """Return the earlier rows with the given names, each once."""
        rows = [self._at.get(name, -1) for name in names]
        if -1 in rows:
            name = names[rows.index(-1)]
            raise column.error(i, f"names {name!r}, the request_id of no earlier row: unknown, or a cycle")
        return tuple(dict.fromkeys(rows))

    def _task_of(self, after: Column, session: Column, i: int, row: int, waits: tuple[int, ...]) -> int:
        """Return the first row of a call's task."""
        name = text_of(session.cells[i])
        tasks = {self._task[other] for other in waits}
        if name:
            tasks.add(self._named.setdefault(name, row))
        if len(tasks) > 1:
            raise after.error(i, "names a call of another session; name calls of one session only")
        return tasks.pop() if tasks else row

    def _continues(self, follows: int, row: int) -> int:
        """Return the first row of the text that a call's prompt continues; the call itself if it continues none."""
        if follows < 0 or follows in self._followed:
            return row
        self._followed.add(follows)
        return self._content[follows]


def _names(column: Column, i: int) -> list[str]:
    """Return the names in a cell: a list, one name, or several separated by spaces or semicolons."""
    cell = column.cells[i]
    if isinstance(cell, list):
        names = [text_of(value) for value in cell]
        if not all(names) or any(isinstance(value, (list, dict, bool)) for value in cell):
            raise column.error(i, "must be a list of request_ids")
        return names
    if isinstance(cell, (dict, bool)):
        raise column.error(i, "must be a list of request_ids")
    return text_of(cell).replace(";", " ").split()
