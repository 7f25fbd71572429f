"""Energy that devices draw beside that of their work, over the window of a run."""

from __future__ import annotations

import numpy as np

from ..batching.state import F8
from ..parts.two_pools.run import Boards
from .course import X_BUSY, X_EMITTED, X_JOULES, totals_at
from .steady import Window, half_width


def static_joules(boards: list[Boards], window: Window) -> float:
    """What devices draw in any case over the window, those that start or drain among them."""
    ends = (window.start_s, window.end_s)
    held = [(each.board, *own) for each in boards for own in each.held(ends)]
    return sum(board.idle_joules(devices * float(spans[0])) for board, devices, spans in held)


def busy_joules(each: Boards, ends: tuple[float, float], length_s: float) -> float:
    """What devices draw on top while they run kernels, between two times."""
    within = np.diff(totals_at(each.curves, ends), axis=0)[0]
    busy_s = min(float(within[X_BUSY]), each.devices * length_s)
    return each.board.busy_joules(busy_s)


def joules_half_width(boards: list[Boards], curves: list[tuple[F8, F8]], window: Window) -> float | None:
    """Half of the 95 % interval of energy per token, as a fraction, from the window's batches."""
    if not window.batches:
        return None
    made = np.diff(totals_at(curves, window.edges), axis=0)
    joules = made[:, X_JOULES].copy()
    for each in boards:
        busy_s = np.diff(totals_at(each.curves, window.edges), axis=0)[:, X_BUSY]
        idle = each.board.idle_joules(1.0)
        drawn = sum(idle * devices * spans for devices, spans in each.held(window.edges))
        joules = joules + each.board.busy_joules(1.0) * busy_s + drawn
    return half_width(joules, made[:, X_EMITTED]) if joules.sum() > 0 else None
