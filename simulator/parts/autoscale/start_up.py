"""How long a replica takes to start: its weights are read, and its engine gets ready."""

from __future__ import annotations

import math

from ....workloads.errors import InputError
from ...deploy.deployment import Deployment
from ..experts_apart.holders import expert_bytes

ENGINE_START_S = 38.7
"""Time from the start of the process until it serves, without reading weights [s]: imports, compilation (cached),
profiling and graph capture. vLLM with Llama-2-7B on an A100 and graphs up to 512 sequences: 46.15 s in all, 7.42 s
of them loading weights (means of five runs, github.com/upb-cn/vllm-startup-profiler 9ef96f47,
experiments/A100/examples/batch_size; arXiv 2606.07362). Other models and hosts differ, and the first start, which
compiles."""


def start_up_s(deployment: Deployment) -> float:
    """Seconds from asking for a replica until it serves, as far as a description tells.

    All devices read their weights at once, from the disk and through the host's memory, whichever
    is slower; finding a machine and its container are left out.

    Raises
    ------
    InputError
        A device whose description gives neither a disk nor a host's memory.
    """
    took = _read_s(deployment, deployment.memory(math.inf).weights)
    if deployment.apart is not None:  # both groups at once
        holder = deployment.apart.holder
        took = max(took, _read_s(holder, max(expert_bytes(holder))))
    return took + ENGINE_START_S


def _read_s(deployment: Deployment, weights: float) -> float:
    """Seconds until every device has read its weights."""
    device = deployment.system.device
    rates = [tier.bandwidth_bytes_per_s for tier in (device.disk, device.host_memory) if tier is not None]
    if not rates:
        reason = f"{device.name} has neither disk nor host_memory to read weights from: give start=SECONDS"
        raise InputError("--autoscale", reason)
    return weights / min(rates)
