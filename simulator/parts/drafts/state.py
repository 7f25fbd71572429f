"""State of a speculating engine: drafts, their acceptance, the draft model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...step.timed import Costs

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

DRAFTED = named("id came far", "")
"""A request's number in its stream; tokens that its latest step brought; tokens that the cache would hold had all drafts
of that step been accepted."""

COUNTS = named("verified drafted accepted emitted wasted", "")
"""Verifications of a sequence; drafts in them, and how many were accepted; tokens that they brought; verifications of
sequences that had ended, unknown to the plan."""

SECONDS = named("", "verify draft")
"""Total time of verification (including prompts) and of drafting, over all steps [s]."""


@by_address
class DraftState(NamedTuple):
    """Arrays of K drafts of every decode, for R ranks and M moments of a drafting batch."""

    tokens: int  # K
    lookahead: int  # slots of the cache that drafting fills
    captured: int  # largest batch with a captured graph
    seed: int
    each: bool  # whether every request has chances of its own
    reach: F8  # [1 or N, K] chance that so many drafts and one more are accepted
    rows: Records  # [N] of `DRAFTED`
    counts: Records  # [1] of `COUNTS`
    seconds: Records  # [1] of `SECONDS`
    first: F8  # [R, M] batch of the first pass that drafts
    later: F8  # [K - 1, R, M] of the others
    costs: Costs  # of what drafts; none where the host does


def reach_of(rates: F8) -> F8:
    """Return the probabilities that N drafts and one more are accepted, from the rate of each; shape (n, K)."""
    return np.asarray(np.cumprod(rates, axis=1), dtype=np.float64)


def new_spec(
    tokens: int, lookahead: int, captured: int, seed: int, rates: F8 | None, ranks: int, moments: int, costs: Costs
) -> DraftState:  # fmt: skip
    """Return the state before the first request.

    Parameters
    ----------
    rates : float64 array, shape (K,), optional
        Chances of acceptance by position, of all requests.
    moments : int
        Sums of a batch of what drafts; 0 where the host does.
    """
    given = np.zeros((0, tokens)) if rates is None else reach_of(rates[None, :])
    return DraftState(
        tokens, lookahead, captured, seed, rates is None, given,
        records(0, DRAFTED), records(1, COUNTS), records(1, SECONDS),
        np.zeros((ranks, moments)), np.zeros((max(tokens - 1, 0), ranks, moments)), costs,
    )  # fmt: skip


def roomier_drafts(drafts: DraftState, have: int, size: int) -> DraftState:
    """Return a copy with room for `size` requests; there are `have`."""
    if drafts.each:
        reach = np.zeros((size, drafts.tokens))
        reach[:have] = drafts.reach[:have]
        drafts = drafts._replace(reach=reach)
    return drafts._replace(rows=records(size, DRAFTED, drafts.rows[:have]))


def with_requests(drafts: DraftState, have: int, ids: I8, rates: F8 | None) -> DraftState:
    """Append requests to the first `have`; return the state, copied to twice the capacity if it was full.

    Parameters
    ----------
    have : int
        Requests in `drafts` so far.
    ids : int64 array, shape (n,)
        Numbers of the new requests.
    rates : float64 array, shape (n, K), optional
        Acceptance probability of each draft position, if requests have individual ones.
    """
    new = have + len(ids)
    if new > len(drafts.rows):
        drafts = roomier_drafts(drafts, have, max(new, 2 * len(drafts.rows), 1024))
    drafts.rows[have:new] = 0
    drafts.rows.id[have:new] = ids
    if rates is not None:
        drafts.reach[have:new] = reach_of(rates)
    return drafts
