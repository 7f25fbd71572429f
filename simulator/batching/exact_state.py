"""What `exact` keeps of the step that is planned and of the one that runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.jit_held import held
from ...workloads.records import named, records

I8 = npt.NDArray[np.int64]

STEP = named("planned flying ran tries", "prompts decodes used first_end")
"""Whether a step is planned, has results to be processed, and ran since arrivals were looked at; plans of nothing in a
row; prompt tokens and decodes of the planned one, KV bytes in use; when the first one ended."""


@held
class Exact(NamedTuple):
    """What engines keep whose results come a step late."""

    overlap: bool
    step: npt.NDArray[Any]  # [1] of `STEP`


def new_exact(overlap: bool) -> Exact:
    """Return the state before the first step."""
    return Exact(overlap, records(1, STEP))


@compiled_part
def copy_lists(source: I8, target: I8, running: int, flight: int) -> None:
    """Copy lists of a rank (`State.running`): of those that run, and both of those whose results are waited for."""
    first = source.size // 3
    for j in range(running):
        target[j] = source[j]
    for j in range(flight):
        target[first + j], target[2 * first + j] = source[first + j], source[2 * first + j]
