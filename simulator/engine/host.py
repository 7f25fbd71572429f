"""The host of the devices: what it does for every step, and how it starts their kernels.

A serving engine's processes schedule each step, prepare its inputs, and return its tokens. With asynchronous scheduling
they do this while the devices compute, and a step takes the longer of the two times. Otherwise the devices wait for the host.
Kernels outside CUDA graphs are launched one by one from Python, while earlier kernels run: such a step ends when
the slower of host and devices has finished. docs/engine-files.md#host has the rules, with their sources.

A request also spends time outside all steps: connection and HTTP, the queues between processes, detokenisation, and the transfer of
each chunk to the client. This time delays what the client sees, not the engine. A prompt first passes the server's front end, which prepares
one request after another (`FrontEnd`): requests that arrive together queue there, and reach the engine one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.batch import TOKENS
from ...workloads.jit import compiled, compiled_part
from ...workloads.records import named, records

LAUNCH_S = 35e-6
"""Time of one kernel launch from Python (`step.launches`) [s], for all engines; docs/engine-files.md#host names its fit."""

SYNC_GAP_S = 0.5e-3
"""Host time [s] added to each step of vLLM from 0.11 on with synchronous scheduling: a step is scheduled after the tokens of the last step were read.

It is the default up to 0.13 (github.com/vllm-project/vllm/pull/27614). Later versions use it with `async_scheduling` off, and
with drafts that the host proposes. Two sources, each left out in turn: 0.5 ms has the smallest median error for 35 gaps between tokens
of vLLM 0.11.1 (ML.ENERGY). Four runs of 0.11.0 with 1 to 8 sequences (gpustack) need 0.6 to 0.8 ms.
"""

OUTSIDE_S = 6.0e-3
"""Time that a request spends outside the steps and the front end [s].

Without it, predicted mean TTFTs of dense models are too short by 7.4 ms (median; $OPBYTE_DATA/serving_h100, vLLM 0.15.1, Poisson arrivals).
Tokenizing the 600 prompt tokens (`TOKEN_S`) explains 1.4 ms of this. One client's 95th percentiles of TTFT under vLLM 0.30 (silybench) are too short by
6.4 ms for prompts of 128 tokens and by 8.6 ms for 1,024 tokens; without tokenizing, 6.1 and 6.2 ms remain. Other frameworks are assumed to
have the same value, because their servers do the same work.
"""


TOKEN_S = 2.3e-6
"""Time to tokenize one token of a random prompt [s]; English text takes 0.8 us per token.

Measured on one core of an AMD EPYC with the tokenizer call of transformers and the 128,000 byte pairs of mistral-common's tekken: 2.2 ms for 920
tokens and 19 ms for 7,400 tokens, of which ``encode`` takes 1.4 and 14.5 ms. The text "hi ", 10,000 times, takes 10.2 ms; a DGX
H100 needs 10.7 ms (github.com/vllm-project/vllm/issues/19012).
"""


HTTP_S = 0.85e-3
"""Time of a request in the HTTP stacks of the client and the server [s], a part of `OUTSIDE_S`.

Client: 0.51 ms (0.48 to 0.57) of aiohttp with one session per request, as in ``vllm bench serve`` and ``sglang.bench_serving``. Server: 0.34
ms (0.33 to 0.36) of uvicorn, FastAPI and pydantic. Measured as CPU time of both processes on a Xeon, without an engine, in five runs of
1,000 concurrent streamed chats.
"""


class FrontEnd(NamedTuple):
    """Time of a server's front end [s]: one thread prepares requests, one after another.

    vLLM: the event loop of the API server and one thread of ``AsyncMicrobatchTokenizer`` (vllm/utils/async_utils.py), later of the renderer.
    SGLang: ``_tokenize_one_request`` (tokenizer_manager.py). TensorRT-LLM: ``generate_async`` (llmapi/llm.py).
    """

    request_s: float = 0.0  # of each request: its chat template
    token_s: float = 0.0  # of each token of its prompt
    why: str = ""  # source of `request_s`
    http_s: float = 0.0  # of each request: HTTP, and parsing its body

    @property
    def round_s(self) -> float:
        """Return the time of the event loop for one request [s]."""
        return self.request_s + self.http_s


NO_FRONT = FrontEnd()
FRONT = named("members", "begin_s loop_s before_s idle_s request_s token_s")
"""Record of a front end for compiled code, with its latest round of requests: the `members` of the round, its begin
and end in the event loop, and the times at which the tokens of the earlier rounds and of this round are ready [s].
"""


def idle_front(front: FrontEnd) -> npt.NDArray[Any]:
    """Return a front end without requests."""
    state: npt.NDArray[Any] = records(1, FRONT)
    state[0].request_s, state[0].token_s = front.round_s, front.token_s
    return state


@compiled_part
def _delay(requests: npt.NDArray[Any], stop: int, members: int, times: tuple[float, float, float]) -> None:
    """Delay the arrival of the last `members` requests before row `stop`; `times` is (first arrival, last arrival, delay) [s].

    Rows of requests that do not pass the front end may be between those of a round; their arrivals are not changed.
    """
    row, (least, most, later_s) = stop - 1, times
    while members > 0 and row >= 0:
        if least <= requests[row].arrival <= most:
            requests[row].arrival += later_s
            members -= 1
        row -= 1


@compiled_part
def hand_over(front: npt.NDArray[Any], requests: npt.NDArray[Any], first: int, tokens: npt.NDArray[np.int64]) -> None:
    """Change the arrival of new requests from the time at which they were sent to the time at which the engine gets them.

    The new requests are the last rows, from `first` on, in the order in which they were sent; `tokens` are their prompt
    tokens.

    The server's event loop handles HTTP and chat templates in rounds. In each round it serves all pending requests, and
    then it polls for new ones. Requests that arrive during a round therefore form the next round. One thread then
    tokenizes the requests of a round, one after another.
    """
    f, row, stop = front[0], first, first + len(tokens)
    if f.request_s == 0.0 and f.token_s == 0.0:  # no front end: requests may be given out of order
        return
    while row < stop:
        members, from_s = f.members, max(f.before_s, f.loop_s)
        if requests[row].arrival > f.begin_s or f.request_s == 0.0:  # not in the latest round
            f.begin_s = f.loop_s = max(requests[row].arrival, f.loop_s)
            f.before_s, f.members, members = f.idle_s, 0, 0
        end = row + 1
        while end < stop and f.request_s > 0.0 and requests[end].arrival <= f.begin_s:
            end += 1
        f.members += end - row
        f.loop_s += (end - row) * f.request_s
        then = max(f.before_s, f.loop_s)
        if members > 0:
            _delay(requests, row, members, (from_s, f.idle_s, then - from_s))
            then += f.idle_s - from_s
        for i in range(row, end):
            then += f.token_s * tokens[i - first]
            requests[i].arrival = then
        f.idle_s, row = then, end


@compiled
def hand_over_all(front: npt.NDArray[Any], requests: npt.NDArray[Any], tokens: npt.NDArray[np.int64]) -> None:
    """Delay all new requests by the server's front end: `hand_over` for Python callers."""
    hand_over(front, requests, len(requests) - len(tokens), tokens)


@dataclass(frozen=True, slots=True)
class Host:
    """Times of the host [s]; 0 by default.

    Both measured runs of docs/measured-servers.md show no host time: they use asynchronous scheduling, and their steps take
    16 ms or more.

    Attributes
    ----------
    step_s, sequence_s : float
        Time for every step, and for every sequence of a rank in it.
    launch_s : float
        Time of one launch from Python; `step.launches` counts the launches of a step.
    request_s : float
        Time of a request outside all steps: the client sees the first and the last token this much later.
    gap_s : float
        Time that the devices wait between two steps, even with asynchronous scheduling.
    sync_s : float
        As `gap_s`, but only with synchronous scheduling: a step is scheduled after the tokens of the previous step were read.
    front : FrontEnd
        The server's front end, which prepares requests.
    why : str
        Source of `step_s`, `sequence_s` and `gap_s`, if an engine's version sets them.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    launch_s: float = 0.0
    request_s: float = 0.0
    gap_s: float = 0.0
    sync_s: float = 0.0
    front: FrontEnd = NO_FRONT
    why: str = ""


NO_HOST = Host()


class HostDelay(NamedTuple):
    """Host times of one deployment and policy, as data for compiled code.

    Examples
    --------
    >>> from opbyte.workloads.jit import plainly
    >>> exact = HostDelay(0.0, 0.0, 1.0, hidden=True, captured=128, exact=True)
    >>> [n for n in range(1, 300) if not plainly(starting)(exact, n, 0)] == [*range(1, 33), 64, 128]
    True
    """

    step_s: float
    sequence_s: float
    decoding_s: float  # all launches of a decode step without a captured graph
    hidden: bool  # whether the host works while the devices compute
    gap_s: float = 0.0
    prompting_s: float = 0.0  # all launches of a step with prompts
    pieces_s: float = 0.0  # all launches of a step with prompts that replays piecewise graphs
    pieces: int = 0  # most tokens of a rank in such a step
    captured: int = 0  # most tokens of a rank in a decode step with a captured graph
    mixed_s: float = 0.0  # device time that each decode adds to a step with prompts, see `step.launches.mixed_seconds`
    exact: bool = False  # whether only steps with one of the captured sizes run as a graph, see `Policy.exact`


@compiled_part
def most_tokens(moments: npt.NDArray[np.float64]) -> float:
    """Return the largest number of tokens that a rank has in a step."""
    most = 0.0
    for r in range(moments.shape[0]):
        most = max(most, moments[r, TOKENS])
    return most


EACH_SIZE = 32
"""Batch size up to which each size has a graph if batches are not padded; above, powers of two (`CudaGraphConfig._generate_cuda_graph_batch_sizes`
in tensorrt_llm/llmapi/llm_args.py, 1.0)."""


@compiled_part
def starting(host_delay: HostDelay, tokens: float, chunks: int) -> float:
    """Return the seconds to launch a step with at most `tokens` tokens on a rank and `chunks` prompts in all."""
    if chunks == 0:
        size = int(tokens)
        gap = host_delay.exact and size > EACH_SIZE and size & (size - 1)
        return host_delay.decoding_s if gap or size > host_delay.captured else 0.0
    return host_delay.pieces_s if tokens <= host_delay.pieces else host_delay.prompting_s


@compiled_part
def with_host_delay(host_delay: HostDelay, seconds: float, tokens: float, sequences: float, chunks: int) -> float:
    """Return the time of a step with the host's delay [s]; the devices need `seconds`.

    A rank has at most `tokens` tokens before padding, and `sequences` sequences in the mean; all ranks together have
    `chunks` prompts.
    """
    if chunks > 0:
        seconds += host_delay.mixed_s * max(sequences - chunks, 0.0)
    launch_s = starting(host_delay, tokens, chunks)
    host_s = host_delay.step_s + host_delay.sequence_s * sequences
    if host_delay.hidden:  # one thread launches a step, and then processes the tokens of the previous step
        return float(max(seconds, launch_s + host_s) + host_delay.gap_s)
    return float(max(seconds, launch_s) + host_s + host_delay.gap_s)
