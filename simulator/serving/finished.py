"""Requests that have finished, a row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..batching.state import F8, I8

COLUMNS = (
    "request_id", "arrival_s", "input_tokens", "output_tokens", "scheduled_s", "first_token_s",
    "last_token_s", "preemptions",
)  # fmt: skip
"""Columns of requests.csv."""
AT_ONCE = 1 << 16
"""Rows that are written at once."""

Blocks = Callable[[], Iterator[dict[str, npt.NDArray[np.generic]]]]
"""Gives a table's columns, block by block."""


@dataclass(frozen=True, slots=True)
class Requests:
    """One row per finished request, by request id; times from the first arrival [s]."""

    request_id: I8
    arrival_s: F8
    input_tokens: I8
    output_tokens: I8
    scheduled_s: F8
    first_token_s: F8
    last_token_s: F8
    preemptions: I8
    order: I8
    count: int = 0  # of which these are a sample; 0: they are all

    def __repr__(self) -> str:
        return f"<Requests: {len(self):,} rows; see columns()>"

    def __len__(self) -> int:
        """Requests that have finished."""
        return self.count or len(self.request_id)

    def part(self, which: npt.NDArray[np.bool_] | I8) -> Requests:
        """Some of the rows."""
        return _of(lambda name: getattr(self, name)[which])

    @staticmethod
    def joined(parts: Sequence[Requests]) -> Requests:
        """The rows of all."""
        return _of(lambda name: np.concatenate([getattr(part, name) for part in parts]))

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Columns of requests.csv."""
        return {name: getattr(self, name) for name in COLUMNS}


def _of(column: Callable[[str], Any]) -> Requests:
    return Requests(**{name: column(name) for name in (*COLUMNS, "order")})
