"""What `exact` keeps of the step that is planned and of the one that runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit_held import held
from .sglang_state import Sglang
from .trtllm_state import Trtllm

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(X_PLANNED, X_FLYING, X_RAN) = range(3)
(X_PROMPTS, X_DECODES, X_USED, X_FIRST_END) = range(4)


@held
class Exact(NamedTuple):
    """An engine's own rules with what they keep; one of the last ones is given."""

    overlap: bool
    flags: I8  # [3] whether a step is planned, has results to be processed, and ran since arrivals were looked at
    step: F8  # [4] prompt tokens and decodes of the planned one, KV bytes in use; when the first one ended
    sglang: Sglang | Any  # None where the rules are another's
    trtllm: Trtllm | Any


def new_exact(overlap: bool, sglang: Sglang | None = None, trtllm: Trtllm | None = None) -> Exact:
    """Return the state before the first step."""
    return Exact(overlap, np.zeros(3, dtype=np.int64), np.zeros(4), sglang, trtllm)
