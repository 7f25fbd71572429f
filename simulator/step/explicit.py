"""The explicit path: build every op of one step, place and cost it, and sum the costs.

This is the readable definition of a step's time and energy; the compiled path (`lowering`, `compiled`) agrees to 1e-9
relative, as a property test with sampled batches shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...workloads.batch import Batch
from ..deploy.deployment import Deployment
from ..part import Combination
from ..registry import all_hooks, parts_of
from .costing import PlacedOp, Stage, StageCost

__all__ = ["PlacedOp", "StageCost", "dealt", "explicit_stage"]


def dealt(deployment: Deployment, decodes: int, context: int, chunks: Sequence[tuple[int, int]] = ()) -> list[Batch]:
    """Distribute a step's work to the ranks of one engine, one batch each; the first ranks get the remainder.

    With speculative decoding each decode includes its draft tokens.

    Parameters
    ----------
    decodes, context : int
        Decoding sequences, and the cached tokens of each.
    chunks : sequence of (int, int)
        New and cached tokens of each prompt.
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
    caches: Any = None,
) -> StageCost:
    """Cost one step by building all of its ops.

    Parameters
    ----------
    batches : sequence of Batch
        One for each rank of the engine (`Deployment.ranks`); a batch may be empty.
    step, replica : int
        Counters of the expert samples.
    expected : bool
        Use the router's expected loads instead of a sample.
    captured : int
        Largest batch with a captured CUDA graph (`Policy.captured`). Smaller batches are padded to the next captured
        size. Padding tokens add no work to attention, experts and the head.
    caches : expert_cache.fetched.StepCaches, optional
        State of the engine's expert caches after earlier steps. Default, for a deployment with a `store`: caches after
        `fetched.WARM_STEPS` steps of this batch; with `expected`, the cost is the mean of that number of further steps.

    Returns
    -------
    StageCost
        ``seconds`` is the sum over layers of the time of the slowest rank and of the slowest expert group, plus
        collectives. Within a rank, each region takes the time of its slowest track.

    Raises
    ------
    ValueError
        The number of batches is not the number of ranks.
    """
    if len(batches) != deployment.ranks:
        raise ValueError(f"needs {deployment.ranks} batches (one a rank), not {len(batches)}")
    given = deployment, batches, step, replica, expected, captured
    for hook in all_hooks("step_cost", parts_of(Combination(deployment))):
        return hook(given, caches)  # type: ignore[no-any-return]
    return Stage(*given).total(caches)
