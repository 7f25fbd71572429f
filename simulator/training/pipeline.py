"""Pipeline schedules: one forward, one backward, with one or several parts of the model on a stage.

Orders are those of Narayanan et al. (arXiv 2104.04473, section 2.2). A schedule is worked out task by
task; with equal stages it takes (m + (p - 1) / v) (F + B), which a test holds it to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class MicroBatchPass(NamedTuple):
    """One pass of a micro-batch through one part of a stage."""

    backward: bool
    micro: int
    part: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the stages of a pipeline end.

    Attributes
    ----------
    ends : tuple of float
        Seconds after which each stage has run all its passes [s].
    busy : tuple of float
        Seconds of passes of each stage [s].
    """

    ends: tuple[float, ...]
    busy: tuple[float, ...]


def order(stage: int, stages: int, micro: int, parts: int = 1) -> list[MicroBatchPass]:
    """Passes of one stage in their order.

    Parameters
    ----------
    micro : int
        Micro-batches; a multiple of `stages` where there are several parts.
    parts : int
        Of the model on each stage (interleaving).
    """
    return _interleaved(stage, stages, parts, *_numbered_passes(stages, micro, parts))


def in_flight(stages: int, micro: int, parts: int = 1) -> tuple[float, ...]:
    """Most micro-batches that each stage keeps activations of, in whole stages' worth."""
    passes = _numbered_passes(stages, micro, parts)
    return tuple(_peak(_interleaved(s, stages, parts, *passes)) / parts for s in range(stages))


def _numbered_passes(stages: int, micro: int, parts: int) -> tuple[list[MicroBatchPass], list[MicroBatchPass]]:
    """Forward and backward passes of any stage, each in the order it runs them."""
    numbers = range(micro * parts)
    forward = [_numbered(k, stages, parts, False) for k in numbers]
    return forward, [_numbered(k, stages, parts, True) for k in numbers]


def _interleaved(
    stage: int, stages: int, parts: int, forward: list[MicroBatchPass], backward: list[MicroBatchPass]
) -> list[MicroBatchPass]:
    """Some forward passes first, then one of each, then what is left."""
    total = len(forward)
    warm = stages - stage - 1
    warm = min(warm if parts == 1 else 2 * warm + (parts - 1) * stages, total)
    out = forward[:warm]
    for k in range(total - warm):
        out += [forward[warm + k], backward[k]]
    return out + backward[total - warm :]


def _numbered(k: int, stages: int, parts: int, backward: bool) -> MicroBatchPass:
    """The k-th forward or backward pass of a stage: `stages` micro-batches through each part."""
    if parts == 1:
        return MicroBatchPass(backward, k, 0)
    round_, place = divmod(k, stages * parts)
    part = place // stages
    return MicroBatchPass(backward, round_ * stages + place % stages, parts - 1 - part if backward else part)


def schedule(
    forward: Sequence[float],
    backward: Sequence[float],
    micro: int,
    *,
    parts: int = 1,
    send_s: float = 0.0,
    before: Sequence[float] = (),
) -> Schedule:
    """Run every pass as early as its order and what it waits for allow.

    Parameters
    ----------
    forward, backward : sequence of float
        Seconds of a micro-batch on each stage, all parts together [s].
    micro, parts : int
        See `order`.
    send_s : float
        From the end of a pass until the next stage has its output; the sender does not wait [s].
    before : sequence of float
        Seconds that each stage waits before its first pass [s].
    """
    stages = len(forward)
    passes = _numbered_passes(stages, micro, parts)
    orders = [_interleaved(s, stages, parts, *passes) for s in range(stages)]
    done: dict[tuple[int, MicroBatchPass], float] = {}
    clock = [before[s] if before else 0.0 for s in range(stages)]
    at = [0] * stages
    left = sum(map(len, orders))
    while left:
        moved = 0
        for s in range(stages):
            while at[s] < len(orders[s]):
                task = orders[s][at[s]]
                needed = _needed(s, task, stages, parts)
                if needed is not None and needed not in done:
                    break
                hop = send_s if needed is not None and needed[0] != s else 0.0
                ready = 0.0 if needed is None else done[needed] + hop
                took = (backward if task.backward else forward)[s] / parts
                clock[s] = max(clock[s], ready) + took
                done[s, task] = clock[s]
                at[s] += 1
                moved += 1
        assert moved, "the orders wait for each other"
        left -= moved
    busy = tuple(micro * (forward[s] + backward[s]) for s in range(stages))
    return Schedule(tuple(clock), busy)


def _needed(stage: int, task: MicroBatchPass, stages: int, parts: int) -> tuple[int, MicroBatchPass] | None:
    """The pass whose output a pass reads; None for a micro-batch's first."""
    last = stages - 1
    if not task.backward:
        if stage > 0:
            return stage - 1, task
        return (last, task._replace(part=task.part - 1)) if task.part else None
    if stage < last:
        return stage + 1, task
    if task.part < parts - 1:
        return 0, task._replace(part=task.part + 1)
    return stage, task._replace(backward=False)


def _peak(tasks: Sequence[MicroBatchPass]) -> int:
    """Most passes forward that have not yet come back."""
    most = now = 0
    for task in tasks:
        now += -1 if task.backward else 1
        most = max(most, now)
    return most
