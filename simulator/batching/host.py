"""The host of the devices: what it does for every step, and how it starts their kernels.

While the devices compute a step, a serving engine's processes schedule the next one, prepare its inputs, and hand out
tokens. With asynchronous scheduling only what takes longer than the devices is seen; otherwise the devices wait for all
of it. Kernels that no CUDA graph holds are launched one by one from Python, while those before them run: such a step ends when
the slower of host and devices has finished. docs/engine-files.md#host has the rules, with their sources.

A request also spends time outside all steps: connection and HTTP, tokens of its prompt, the queues between processes,
text of its tokens, and the way of each chunk back. It delays what the client sees, not the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.batch import TOKENS
from ...workloads.jit import compiled_part

LAUNCH_S = 35e-6
"""Seconds of one launch (`step.launches`), of all engines: see docs/engine-files.md#host for what it was fitted to."""

OUTSIDE_S = 7.4e-3
"""Seconds that a request spends outside the steps: the median of what the mean TTFT of dense models
lacks in $OPBYTE_DATA/serving_h100 (vLLM 0.15.1, Poisson arrivals). One client's 95th percentiles under vLLM 0.30 (silybench) lack 6.4 of 128
tokens, 8.6 of 1,024. Assumed of other frameworks too, whose servers do the same work."""


@dataclass(frozen=True, slots=True)
class Host:
    """Seconds of the host; none by default.

    Both measured runs of docs/measured-servers.md, with steps of 16 ms and more under asynchronous
    scheduling, show none.

    Attributes
    ----------
    step_s, sequence_s : float
        For every step, and for every sequence in it.
    launch_s : float
        Of one launch from Python; see `step.launches` for how many a step has.
    request_s : float
        What a request spends outside all steps, until its first token is seen and until its last.
    gap_s : float
        Time that the devices wait between two steps, even with asynchronous scheduling.
    why : str
        Source of `step_s`, `sequence_s` and `gap_s`, if an engine's version sets them.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    launch_s: float = 0.0
    request_s: float = 0.0
    gap_s: float = 0.0
    why: str = ""


NO_HOST = Host()


class Pace(NamedTuple):
    """The same for one deployment and policy, for the compiled path."""

    step_s: float
    sequence_s: float
    decoding_s: float  # all launches of a decode step that is no captured graph
    hidden: bool  # behind the devices' work
    gap_s: float = 0.0
    prompting_s: float = 0.0  # all launches of a step with prompts
    pieces_s: float = 0.0  # those of one that replays a graph in pieces
    pieces: int = 0  # most tokens of a rank in such a step
    captured: int = 0  # most tokens of a rank in a decode step that is a captured graph


@compiled_part
def most_tokens(moments: npt.NDArray[np.float64]) -> float:
    """Tokens of the rank that has most of them in a step."""
    most = 0.0
    for r in range(moments.shape[0]):
        most = max(most, moments[r, TOKENS])
    return most


@compiled_part
def starting(pace: Pace, tokens: float, chunks: int) -> float:
    """Return the seconds to launch a step with at most `tokens` tokens on a rank and `chunks` prompts in all."""
    if chunks == 0:
        return pace.decoding_s if tokens > pace.captured else 0.0
    return pace.pieces_s if tokens <= pace.pieces else pace.prompting_s


@compiled_part
def paced(pace: Pace, seconds: float, tokens: float, sequences: float, chunks: int) -> float:
    """Seconds of a step that takes the devices `seconds`, with at most `tokens` on a rank, before padding.

    A rank has `sequences` in the mean; all have `chunks` prompts.
    """
    seconds = max(seconds, starting(pace, tokens, chunks))
    own = pace.step_s + pace.sequence_s * sequences
    return float((max(seconds, own) if pace.hidden else seconds + own) + pace.gap_s)
