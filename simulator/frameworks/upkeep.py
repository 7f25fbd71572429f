"""Host time of steps and requests, by engine and version: data and their sources.

A host with asynchronous or overlapped scheduling adds nothing to steps longer than its work; older hosts let the
devices wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..batching.host import TOKEN_S, FrontEnd, Host

TOKENS = FrontEnd(token_s=TOKEN_S)
"""What a front end does unless its version does more."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Host time added to a step, from a version on.

    Attributes
    ----------
    since : tuple of int
        First version (major, minor).
    why : str
        Source of the numbers.
    gap_s, workers_s, sequence_s : float
        Of every step; in addition of a rank of several devices, each with a process that is sent its
        inputs; of every sequence.
    hidden : bool
        Whether the devices' work hides it (overlapped scheduling), so that a step takes the longer of both.
    front : FrontEnd
        What prepares requests.
    """

    since: tuple[int, int]
    why: str = ""
    gap_s: float = 0.0
    workers_s: float = 0.0
    sequence_s: float = 0.0
    hidden: bool = False
    front: FrontEnd = TOKENS

    def on(self, host: Host, devices: int) -> Host:
        """Return a host whose steps take this time more, for ranks of `devices` devices."""
        host = replace(host, front=self.front)
        if not self.why:
            return host
        gap = self.gap_s + (self.workers_s if devices > 1 else 0.0)
        return replace(host, gap_s=host.gap_s + gap, sequence_s=host.sequence_s + self.sequence_s, why=self.why)


EARLY_GAP_S = 1e-3
"""Host time added to a step of vLLM 0.8 to 0.10 [s]; most likely inputs are prepared and tokens are read while the
devices wait: overlapping them was to save 5 to 10 % of a step with asynchronous scheduling
(github.com/vllm-project/vllm/pull/23569), which does not hide it in 0.10.2. A round number between the values with
the least mean TPOT error: 0.75 ms for 120 rows of vLLM 0.10.2 in $OPBYTE_DATA/serving_points (8.5 % without, 6.0
with 1 ms), 1.2 ms for 22 runs of 0.8.5 in $OPBYTE_DATA/real_runs (13.7, 8.9). Runs of 0.15 and 0.19 show no such
gap; that it ended with 0.11 is assumed."""
STATIC = "fitted to static batches of 2024 on A100 and H100 (argonne-lcf/LLM-Inference-Bench), no experts, "
OVERLAPPED = "read off deployments of TensorRT-LLM 1.0 and 1.1 without pipelines"
SEQUENCE_S = 50e-6
"""Host time of a sequence in a step of TensorRT-LLM's PyTorch backend [s]: the mean error of the nine points of
$OPBYTE_DATA/serving_points that it changes by 2 % is 19 %, without it 25, with 62 us 17. The published rates of a
B200 and a GB200 with 3,584 sequences have errors of 2 and 3 % with 50, 11 and 12 with 70. 30 rates of two, four and
eight stages, not in the fit, have 6.8 %, without it 21."""
TEMPLATE_S = 20e-3
"""Time in which a server of vLLM 0.11.0 parses the chat template of a request [s]: ``resolve_chat_template_kwargs`` looks
for variables in the template's syntax tree (vllm/entrypoints/chat_utils.py); later versions store the result. 1,000
prompts of 128 tokens at once (gpustack in $OPBYTE_DATA/real_runs_2026_11) pass at 44 to 48 a second with three models, at
57 to 161 with the shorter template of a fourth, under 0.10.2 at 130 to 239. One parse takes 6 to 8 ms with Llama's
template (github.com/vllm-project/vllm/pull/20065)."""
TEMPLATES = "from 1,000 chats at once with three models; prompts of /v1/completions have no template"
UPKEEP: Mapping[str, tuple[Upkeep, ...]] = {
    "vllm": (
        Upkeep((0, 0), f"{STATIC}vLLM 0.4 and 0.5", 1.07e-3, 1.24e-3, 68e-6),
        Upkeep(
            (0, 8), f"{EARLY_GAP_S * 1e3:g} ms between steps before vLLM 0.11, fitted to measured "
            "deployments of 0.10.2", EARLY_GAP_S,
        ),
        Upkeep((0, 11), front=FrontEnd(TEMPLATE_S, TOKEN_S, TEMPLATES)),
        Upkeep((0, 12)),
    ),
    "trtllm": (
        Upkeep((0, 0), f"{STATIC}TensorRT-LLM 0.9 to 0.11", 0.49e-3, 0.72e-3, 36e-6),
        Upkeep((0, 17), OVERLAPPED, sequence_s=SEQUENCE_S, hidden=True),
    ),
    "sglang": (Upkeep((0, 0)),),
}  # fmt: skip
"""The static batches ($OPBYTE_DATA/real_runs/anl_static.csv, 218 and 230 of dense models): least mean of
|log(simulated / measured)|. Mean error 8.2 and 10.9 % (25.5 and 19.2 without); of each model under a fit to the
others 8.5 and 11.4 %, of each device under one to the other 13.8 and 10.9 %. vLLM 0.6 and 0.7 take the nearest, 0.5."""


def upkeep_of(framework: str, version: tuple[int, int]) -> Upkeep:
    """Return the host time of a version: from the last row that is not newer."""
    return max((u for u in UPKEEP[framework] if u.since <= version), key=lambda u: u.since)
