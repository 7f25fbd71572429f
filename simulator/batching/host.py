"""The host beside the devices: what it does for every step, and how it starts their kernels.

While the devices compute a step, a serving engine's processes schedule the next one, prepare its inputs, and hand out
tokens. With asynchronous scheduling only what takes longer than the devices is seen; otherwise the devices wait for all
of it. Without captured graphs kernels are started one by one, and a step takes at least as long as that.

A request also spends time outside all steps: connection and HTTP, tokens of its prompt, the queues between processes,
text of its tokens, and the way of each chunk back. It delays what the client sees, not the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...workloads.jit import compiled_part

LAUNCH_S = 26e-6
"""Seconds to start one op without a captured graph. Assumed to be everywhere what one published
pair says: a decode step of Llama-3.1-8B on an H100 of 8.4 ms started op by op, which is that of its
323 ops, and 5.1 ms as a graph (cloudai.pt, "CUDA Graphs + torch.compile", 2026)."""


PROMPTS_S = 61e-3
"""Seconds to start a step with prompts in vLLM where its compiled model is one flattened graph: 56 ms to launch the
model and 5 ms of checks before (profile of a mixed step, github.com/vllm-project/vllm/pull/20059, which does not say of
which model). `cudagraph_mode` FULL_DECODE_ONLY with `splitting_ops` [] runs such steps so."""


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
        To start one op of a step that is no captured graph.
    request_s : float
        What a request spends outside all steps, until its first token is seen and until its last.
    gap_s : float
        What the devices wait between two steps, whatever the scheduling hides.
    prompts_s : float
        To start a step with prompts, where that is no captured graph but decodes are.
    why : str
        What `step_s`, `sequence_s` and `gap_s` rest on, where an engine's version has them.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    launch_s: float = 0.0
    request_s: float = 0.0
    gap_s: float = 0.0
    prompts_s: float = 0.0
    why: str = ""


NO_HOST = Host()


class Pace(NamedTuple):
    """The same for one deployment and policy, for the compiled path."""

    step_s: float
    sequence_s: float
    launching_s: float  # all ops of a step; 0 where it is a captured graph
    hidden: bool  # behind the devices' work
    gap_s: float = 0.0
    prompting_s: float = 0.0  # all ops of a step with prompts, where only those are no graph


@compiled_part
def starting(pace: Pace, chunks: int) -> float:
    """Seconds to start all ops of a step with so many prompts."""
    return max(pace.launching_s, pace.prompting_s) if chunks > 0 else pace.launching_s


@compiled_part
def paced(pace: Pace, seconds: float, sequences: float, chunks: int) -> float:
    """Seconds of a step that takes the devices `seconds`, with `sequences` a rank on average.

    Of the sequences of all ranks `chunks` are prompts.
    """
    seconds = max(seconds, starting(pace, chunks))
    own = pace.step_s + pace.sequence_s * sequences
    return (max(seconds, own) if pace.hidden else seconds + own) + pace.gap_s
