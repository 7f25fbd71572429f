"""Linking a request into a queue."""

from __future__ import annotations

from ...workloads.jit import compiled_part
from .state import I8, I_NEXT, State


@compiled_part
def link_in(st: State, row: I8, head: int, tail: int, i: int, before: int, after: int) -> None:
    """Put a request into a queue between two, either of which may be none (-1).

    Parameters
    ----------
    row : int64 array
        What is known of the queue; its columns `head` and `tail` are the first and the last request.
    """
    st.ints[i, I_NEXT] = after
    if before >= 0:
        st.ints[before, I_NEXT] = i
    else:
        row[head] = i
    if after < 0:
        row[tail] = i
