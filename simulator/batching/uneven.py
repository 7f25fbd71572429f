"""What unequal contexts of a step's decodes add, kept among the moments of an engine's batch."""

from __future__ import annotations

from ...workloads.batch import DECODES, PREFILLS
from ...workloads.jit import compiled_code, compiled_part, int64
from ..step.books import Books
from ..step.timed import Lowered
from ..step.unequal import uneven_seconds
from .counting import is_chunk
from .policies import Limits
from .state import State

RENEWED, FEWER = 64, 8
"""See `set_uneven`."""


@compiled_code
def set_uneven(model: Lowered, state: State, limits: Limits, rank: int, done: int) -> None:
    """Add the effect of a rank's unequal contexts to its moments, `done` steps into a fast-forward.

    Only where the kernel of the decodes tells. It changes slowly while all decode: one value serves `RENEWED` steps, or until a `FEWER`th of the
    decodes has come or gone.
    """
    plan, books = model.plan, model.books
    m, last, step = state.moments[rank], books.spread[rank], state.counters[0].steps
    at = m.size - 1  # behind the sums of the batch
    m[at] = 0.0
    if m[DECODES] < 2.0:
        return
    mixed = m[PREFILLS] > 0.0
    changed = abs(m[DECODES] - last.decodes) * FEWER >= m[DECODES]
    if not (mixed or changed or step - last.step >= RENEWED):
        m[at] = last.seconds
        return
    count, chunks = gather(state, books, rank, done)
    m[at] = uneven_seconds(plan.uneven, books.contexts, count, books.prompts, chunks, limits.captured, books.places)
    if not mixed:
        last.decodes, last.step, last.seconds = m[DECODES], step, m[at]


@compiled_part
def gather(state: State, books: Books, rank: int, done: int) -> tuple[int, int]:
    """Note the keys of a rank's decodes and the tokens of its prompt chunks; how many of each."""
    count, chunks = int64(0), int64(0)
    for j in range(state.ranks[rank].running):
        i, new = state.running[rank, j], state.fresh[rank, j]
        request = state.requests[i]
        if is_chunk(state, i, new):
            books.prompts[0, chunks], books.prompts[1, chunks] = new, request.cached
            chunks += 1
        elif new > 0:
            books.contexts[count] = request.cached + done + 1
            count += 1
    return count, chunks


HOOKS = {"on_sums": set_uneven}
