"""The explicit path: build every op of one step, place it, cost it, add up.

This is the readable definition of a step's time and energy; the compiled path (`lowering`, `compiled`) agrees to 1e-9
relative, as a property test with sampled batches shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ..deploy.deployment import Deployment
from ..parts.overlap.chunked import Overlapped
from ..parts.overlap.explicit import Uncut
from ..parts.overlap.gates import gate_of, halved
from ..parts.overlap.tracks import ways_of
from ..parts.overlap.ways import NONE
from ..streams.scheduler import Timeline
from .costing import PlacedOp, Stage, StageCost

if TYPE_CHECKING:
    from ..parts.expert_cache.fetched import StepCaches

__all__ = ["PlacedOp", "StageCost", "dealt", "explicit_stage", "timelines_of"]


def dealt(deployment: Deployment, decodes: int, context: int, chunks: Sequence[tuple[int, int]] = ()) -> list[Batch]:
    """Distribute a step's work to the ranks of one engine, one batch each; the first ranks get the remainder.

    Decodes of a deployment that speculates bring all their drafts.

    Parameters
    ----------
    decodes, context : int
        Decoding sequences, and the cached tokens of each.
    chunks : sequence of (int, int)
        New and earlier tokens of each prompt.
    """
    ranks = deployment.ranks
    return [
        Batch.of([context] * len(range(rank, decodes, ranks)), chunks[rank::ranks], deployment.several)
        for rank in range(ranks)
    ]


def explicit_stage(
    deployment: Deployment,
    batches: Sequence[Batch],
    step: int = 0,
    replica: int = 0,
    expected: bool = False,
    captured: int = 0,
    caches: StepCaches | None = None,
) -> StageCost:
    """Cost one step by building all of its ops.

    Parameters
    ----------
    batches : sequence of Batch
        One per rank of the engine (`Deployment.ranks`); may be empty batches.
    step, replica : int
        Counters of the expert samples.
    expected : bool
        Use the router's expected loads instead of a sample.
    captured : int
        Largest batch with a captured graph (`Policy.captured`): smaller ones run padded to the
        next that has one. Attention, experts and the head know the padding and remove it.
    caches : StepCaches, optional
        The engine's expert caches, which remember earlier steps. By default the caches of a deployment with a `store`
        have seen `fetched.WARM_STEPS` steps of this batch; with `expected` the step is the mean of as many more.

    Returns
    -------
    StageCost
        ``seconds`` is the sum over regions of the slowest track, over layers of the slowest
        rank and expert group, plus collectives.
    """
    if len(batches) != deployment.ranks:
        raise ValueError(f"needs {deployment.ranks} batches (one a rank), not {len(batches)}")
    given = deployment, batches, step, replica, expected, captured
    plain: Uncut | None = None
    found: list[StageCost] = []
    chosen, gate = ways_of(deployment), gate_of(deployment.parts.get("overlap", "none"))
    if gate is not None and len(chosen) > 1:
        moments = np.array([m.values for m in Stage(*given).moments])
        chosen = chosen[1:] if halved(*gate.row, len(deployment.shard.windows), moments) else chosen[:1]
    for way in chosen:
        if way == NONE:
            stage = Stage(*given)
            found.append(stage.total(caches))
            plain = _uncut(found[0], stage.experts_s)
            continue
        cost = Overlapped(*given).in_chunks(way, plain)
        found += [] if cost is None else [cost]
    return min(found, key=lambda cost: cost.seconds)


def timelines_of(
    deployment: Deployment,
    batches: Sequence[Batch],
    step: int = 0,
    replica: int = 0,
    expected: bool = False,
    captured: int = 0,
) -> tuple[Timeline, ...]:
    """When each op of a step runs on what, a timeline a pipeline stage, also where nothing overlaps.

    Parameters as of `explicit_stage`; the makespans add up to its ``seconds``.

    Raises
    ------
    InputError
        A deployment whose layers wait for experts: when in the step they do is not known.
    """
    if deployment.parts.get("resident-experts") is not None:
        raise InputError("--timeline", "cannot show steps that fetch experts; remove --experts-resident")
    given = deployment, batches, step, replica, expected, captured
    found = explicit_stage(*given).timelines
    if found:
        return found
    whole = Overlapped(*given).in_chunks(NONE, None)
    assert whole is not None  # it is held against nothing
    return whole.timelines


def _uncut(cost: StageCost, experts_s: Sequence[float]) -> Uncut:
    """Return the serial step as the reference for other ways."""
    exchange = sum(p.cost.seconds * p.count for p in cost.ops if p.critical and p.op.exchange)
    return Uncut(cost.seconds - exchange - sum(experts_s), exchange, experts_s)
