"""What the hosts of early engines add to every step, by version: data, with what it was fitted to.

An engine whose host works beside the devices (asynchronous or overlapped scheduling) adds nothing to
steps that take longer than its work. Older ones let the devices wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..batching.host import Host


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a step takes beside its devices' work, from a version on.

    Attributes
    ----------
    since : tuple of int
        First version (major, minor).
    why : str
        What the numbers rest on.
    gap_s, workers_s, sequence_s : float
        Of every step; in addition of a rank of several devices, each with a process that is sent its
        inputs; of every sequence.
    hidden : bool
        Whether the devices' work hides it (overlapped scheduling), so that a step takes the longer of both.
    """

    since: tuple[int, int]
    why: str = ""
    gap_s: float = 0.0
    workers_s: float = 0.0
    sequence_s: float = 0.0
    hidden: bool = False

    def on(self, host: Host, devices: int) -> Host:
        """A host with this beside its own, for ranks of so many devices."""
        if not self.why:
            return host
        gap = self.gap_s + (self.workers_s if devices > 1 else 0.0)
        return replace(host, gap_s=host.gap_s + gap, sequence_s=host.sequence_s + self.sequence_s, why=self.why)


EARLY_GAP_S = 1e-3
"""What a step of vLLM 0.8 to 0.10 takes beside its devices' work [s]; most likely its inputs are prepared, and its
tokens read, while the devices wait: overlapping that was to save 5 to 10 % of a step with asynchronous
scheduling (github.com/vllm-project/vllm/pull/23569), which these runs asked for and which hides none of it in 0.10.2. A round number between those with the
least mean error of TPOT of 120 rows of vLLM 0.10.2 in $OPBYTE_DATA/serving_points (0.75 ms; 8.5 % without, 6.0 with 1 ms) and of
22 runs of 0.8.5 in $OPBYTE_DATA/real_runs (1.2 ms; 13.7, 8.9). Runs of 0.15 and 0.19 show no such gap; that it ended with 0.11 is assumed."""
STATIC = "fitted to static batches of 2024 on A100 and H100 (argonne-lcf/LLM-Inference-Bench), no experts, "
OVERLAPPED = "read off deployments of TensorRT-LLM 1.0 and 1.1 without pipelines"
SEQUENCE_S = 50e-6
"""A sequence's share of a step of TensorRT-LLM's PyTorch backend on the host [s]: the nine points of $OPBYTE_DATA/serving_points
that it changes by 2 % are 19 % off (mean |error|), without it 25, with 62 us 17; a B200's and a GB200's published rate of 3,584 sequences
2 and 3 % with 50, 11 and 12 with 70. No pipeline was among these; 30 rates of two, four and eight stages are then 6.8 % off, none 21."""
UPKEEP: Mapping[str, tuple[Upkeep, ...]] = {
    "vllm": (
        Upkeep((0, 0), f"{STATIC}vLLM 0.4 and 0.5", 1.07e-3, 1.24e-3, 68e-6),
        Upkeep(
            (0, 8), f"{EARLY_GAP_S * 1e3:g} ms between steps before vLLM 0.11, fitted to measured "
            "deployments of 0.10.2", EARLY_GAP_S,
        ),
        Upkeep((0, 11)),
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
    """What a version's host adds to a step: that of the last row that is no newer."""
    return max((u for u in UPKEEP[framework] if u.since <= version), key=lambda u: u.since)
