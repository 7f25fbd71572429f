"""Settings of a serving engine, from options, an engine's file or a framework's defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ...devices.hosts.catalog import host_of
from ...workloads.ops import Loads
from ...workloads.sampling import NONE
from ...workloads.speculators import DraftChoice
from ..deploy.deployment import Deployment
from ..engine.kv import CacheSettings
from ..engine.policies import Policy
from .sharing import NOTHING, Sharing


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Batching and memory settings of an engine, and the layout of the model on its devices.

    Attributes
    ----------
    tp, dp, pp : int or None
        Tensor- and data-parallel degrees and pipeline stages; None = the system's default.
    ep : int or None
        Expert groups.
    max_model_len : int or None
        Longest prompt plus output [tokens].
    dtype, kv_dtype : str or None
        Formats of linear weights and of the KV cache; None = the model's own.
    exchange : str
        How data-parallel ranks share experts; see `deployment.deploy`.
    sharing : Sharing
        Other settings of experts.
    sampling : str
        How logits become tokens; see `workloads.sampling`.
    memory_share : float or None
        Fraction of a device's memory for weights and cache, where `cache` does not say how much.
    logit_bytes : float
        What it keeps of its share for each sequence of a step and entry of the vocabulary [B].
    left_share : float or None
        Fraction of what weights leave of a device's memory for the cache, where that is how it is said.
    memory_bytes : float or None
        Memory of one device as the engine saw it [B].
    device_name : str
        GPU as its driver names it; empty if nobody says.
    given : bool
        Whether an engine's file says all this.
    engine : str
        Whose settings they are.
    speculative : DraftChoice, optional
        Who drafts how much.
    framework : str, optional
        Whose kernels run, where no option says so; a key of this project's own.
    limits : RunningLimits, optional
        What may run at once where the deployment decides it, see `on`.
    version : str
        Version of the engine, where a file names it.
    library_sums : bool, optional
        Whether the communication library makes all all-reduces; None = what the version does.
    doubts : tuple of str
        Keys that were not read and are almost spelt like one that would be.
    """

    policy: Policy
    cache: CacheSettings = field(default_factory=CacheSettings)
    tp: int | None = None
    dp: int | None = None
    pp: int | None = None
    ep: int | None = None
    max_model_len: int | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    exchange: str = "all_to_all"
    sharing: Sharing = NOTHING
    sampling: str = NONE
    memory_share: float | None = None
    logit_bytes: float = 0.0
    left_share: float | None = None
    memory_bytes: float | None = None
    device_name: str = ""
    given: bool = False
    engine: str = "vllm"
    speculative: DraftChoice | None = None
    framework: str | None = None
    limits: RunningLimits | None = None
    version: str = ""
    library_sums: bool | None = None
    doubts: tuple[str, ...] = ()

    def on(self, deployment: Deployment) -> EngineSettings:
        """Return these settings with the limits, memory split and host waits that an engine derives from a deployment."""
        limited = self if self.limits is None else self.limits.applied(self, deployment)
        host = host_of(deployment.system)
        if host is None or not host.gap_s:
            return limited
        host_own = limited.policy.host
        waits = replace(host_own, gap_s=host_own.gap_s + host.gap_s)  # of the version, and of the host
        return replace(limited, policy=replace(limited.policy, host=waits))

    def cache_for(self, deployment: Deployment) -> CacheSettings:
        """Return the cache settings for a deployment; without a given number of blocks, as many as fit."""
        total = self.memory_bytes or deployment.system.device.memory.capacity_bytes
        if self.cache.blocks is not None:
            return self.cache
        if self.left_share is not None:
            weights = deployment.memory(total).weights
            left = total - weights - gathered_bytes(deployment, self.policy.token_budget)
            used = weights + self.left_share * max(left, 0.0)
        elif self.memory_share is not None:
            logits = deployment.model.vocab * min(self.policy.max_sequences, self.policy.token_budget)
            used = max(self.memory_share * total - self.logit_bytes * logits, 1.0)
        else:
            return self.cache
        return replace(self.cache, memory_bytes=used)


class RunningLimits(Protocol):
    """Interface of an engine's limits of concurrent requests that depend on the deployment."""

    def asked(self, sequences: int | None, tokens: int | None) -> RunningLimits:
        """Return these limits with limits from options replacing them."""
        ...

    def applied(self, settings: EngineSettings, deployment: Deployment) -> EngineSettings:
        """Return engine settings with the limits and the memory split for a deployment."""
        ...


def gathered_bytes(deployment: Deployment, tokens: int) -> float:
    """What experts need in the largest step of an engine whose ranks gather everybody's tokens [B].

    Kernels that permute tokens have two buffers of 16-bit values with a slot for every choice of every token that the
    device sees, for any number of local experts: permuted inputs and the second product's outputs, the first one's
    outputs and the sums (``getWorkspaceDeviceBufferSizes`` of TensorRT-LLM's CUTLASS experts); tokens are there before
    and after.
    """
    seen, most = tokens * (deployment.layout.dp if deployment.layout.gather else 1), 0.0
    for part in deployment.experts:
        if not part.spec.routed.by_request:
            shape = part.spec.expert_op(Loads(np.ones(1), np.ones(1)), deployment.run).shape
            outputs = max((shape["matrices"] - 1.0) * shape["inter"], shape["hidden"])
            most = max(most, shape["top_k"] * (shape["hidden"] + outputs) + 2.0 * shape["hidden"])
    return 2.0 * seen * most
