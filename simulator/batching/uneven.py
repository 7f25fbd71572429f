"""What unequal contexts of a step's decodes add, kept among the moments of an engine's batch."""

from __future__ import annotations

from ...workloads.batch import DECODES, PREFILLS
from ...workloads.jit import compiled_code, compiled_part, int64
from ..step.books import B_DECODES, B_SECONDS, B_STEP, Books
from ..step.timed import Lowered
from ..step.unequal import uneven_seconds
from .counting import is_chunk
from .policies import Limits
from .state import C_STEPS, I_CACHED, R_RUNNING, State

RENEWED, FEWER = 64, 8
"""See `set_uneven`."""


@compiled_code
def set_uneven(model: Lowered, state: State, limits: Limits, rank: int, done: int) -> None:
    """Add the effect of a rank's unequal contexts to its moments, `done` steps into a fast-forward.

    Only where the kernel of the decodes tells. It changes slowly while all decode: one value serves `RENEWED` steps, or until a `FEWER`th of the
    decodes has come or gone.
    """
    plan, books = model.plan, model.books
    m, last, step = state.moments[rank], books.spread[rank], state.counters[C_STEPS]
    at = m.size - 1  # behind the sums of the batch
    m[at] = 0.0
    if m[DECODES] < 2.0:
        return
    mixed = m[PREFILLS] > 0.0
    changed = abs(m[DECODES] - last[B_DECODES]) * FEWER >= m[DECODES]
    if not (mixed or changed or step - last[B_STEP] >= RENEWED):
        m[at] = last[B_SECONDS]
        return
    count, chunks = gather(state, books, rank, done)
    m[at] = uneven_seconds(plan.uneven, books.contexts, count, books.prompts, chunks, limits.captured, books.places)
    if not mixed:
        last[B_DECODES], last[B_STEP], last[B_SECONDS] = m[DECODES], step, m[at]


@compiled_part
def gather(state: State, books: Books, rank: int, done: int) -> tuple[int, int]:
    """Note the keys of a rank's decodes and the tokens of its prompt chunks; how many of each."""
    count, chunks = int64(0), int64(0)
    for j in range(state.ranks[rank, R_RUNNING]):
        i, new = state.running[rank, j], state.fresh[rank, j]
        request = state.ints[i]
        if is_chunk(state, i, new):
            books.prompts[0, chunks], books.prompts[1, chunks] = new, request[I_CACHED]
            chunks += 1
        elif new > 0:
            books.contexts[count] = request[I_CACHED] + done + 1
            count += 1
    return count, chunks


HOOKS = {"on_sums": set_uneven}
