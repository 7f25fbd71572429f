"""Energy that devices draw beside that of their work, over the window of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..batching.state import F8
from .course import X_BUSY, X_EMITTED, X_JOULES, totals_at
from .pool_runs import Boards
from .replicas import Scaling
from .steady import Window, half_width


def static_joules(boards: list[Boards], window: Window, scaling: Scaling | None) -> float:
    """What devices draw in any case over the window, those that start or drain among them."""
    ends = (window.start_s, window.end_s)
    held = [(each.board, *_held(each, ends, scaling)) for each in boards]
    return sum(board.idle_joules(devices * float(spans[0])) for board, devices, spans in held)


def _held(each: Boards, edges: Sequence[float], scaling: Scaling | None) -> tuple[int, F8]:
    """Devices, and the seconds that they are held from each of some times to the next.

    Of replicas that come and go the devices are those of one, the seconds those of all together.
    """
    if scaling is None:
        return each.devices, np.diff(edges)
    held = [scaling.held_s(None, a, b) for a, b in pairwise(edges)]
    return scaling.devices, np.array(held)


def busy_joules(each: Boards, ends: tuple[float, float], length_s: float) -> float:
    """What devices draw on top while they run kernels, between two times."""
    within = np.diff(totals_at(each.curves, ends), axis=0)[0]
    busy_s = min(float(within[X_BUSY]), each.devices * length_s)
    return each.board.busy_joules(busy_s)


def joules_half_width(
    boards: list[Boards], curves: list[tuple[F8, F8]], window: Window, scaling: Scaling | None
) -> float | None:
    """Half of the 95 % interval of energy per token, as a fraction, from the window's batches."""
    if not window.batches:
        return None
    made = np.diff(totals_at(curves, window.edges), axis=0)
    joules = made[:, X_JOULES].copy()
    for each in boards:
        busy_s = np.diff(totals_at(each.curves, window.edges), axis=0)[:, X_BUSY]
        devices, spans = _held(each, window.edges, scaling)
        drawn = each.board.idle_joules(1.0) * devices * spans
        joules = joules + each.board.busy_joules(1.0) * busy_s + drawn
    return half_width(joules, made[:, X_EMITTED]) if joules.sum() > 0 else None
