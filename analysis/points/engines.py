"""What the serving engines were started with, by framework: from launch scripts and defaults.

"Launch scripts" are those of the public benchmark, as read in the README of
../shared/serving_points: October 2025 for dense models, April 2026 for DeepSeek. Runs of other
sources recorded no limits; they are given the engine's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...simulator.deployment import Deployment
from ...simulator.kv import CacheSettings
from ...simulator.policies import Policy
from ...workloads.registry import Registry
from .table import Point

Limits = Callable[[Point, Deployment], "Settings"]
ENGINES: Registry[Limits] = Registry("serving framework")

REQUEST_S = {"SGLang": 0.145, "TensorRT-LLM": 0.08, "vLLM": 0.06}
"""The one fitted constant of a framework [s]: what a request spends outside the engine's steps
until its first token is seen (network, tokenisation, queues between processes, detokenisation,
streaming), added to TTFT. Fitted to the rows of ../shared/serving_points with the framework: the
value with the least median error of TTFT, which `opbyte validate points` prints anew."""
OTHER_S = 0.08
"""The same of any other framework: the median of the three."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine batches, and how much of a device's memory it may use."""

    policy: Policy
    cache: CacheSettings


def settings(point: Point, deployment: Deployment) -> Settings:
    """Engine settings of a run.

    Raises
    ------
    InputError
        A framework that is not known.
    """
    return ENGINES[point.framework](point, deployment)


@ENGINES.register("vLLM")
def vllm(point: Point, deployment: Deployment) -> Settings:
    """512 sequences, 8,192 tokens a step, 0.9 of memory, asynchronous scheduling."""
    policy = Policy("vllm", 8192, 512, chunked=True, reserve=False, lazy=True, ahead=True,
                    waiting_load=4)  # fmt: skip
    return Settings(policy, _static(deployment, 0.9))


@ENGINES.register("TensorRT-LLM")
def tensorrt_llm(point: Point, deployment: Deployment) -> Settings:
    """Whole prompts beside decodes, the cache of finished requests reserved, overlapped scheduling.

    Tokens of a step in the launch scripts: 16,384 for dense models, max(8192, clients + prompt +
    64) for mixtures of experts. Defaults elsewhere: 8,192 tokens (max_num_tokens), 2,048 sequences
    (max_batch_size), chunked prefill off, KV 0.8 of the memory that weights leave.
    """
    tokens = 8192
    if point.scripted:
        dense = not deployment.experts
        tokens = 16_384 if dense else max(8192, point.clients + point.isl + 64)
    policy = Policy("tensorrt-llm", tokens, 2048, chunked=False, reserve=True, ahead=True)
    total = deployment.system.device.memory.capacity_bytes
    weights = deployment.memory(total).weights
    return Settings(policy, CacheSettings(memory_bytes=weights + 0.8 * (total - weights)))


@ENGINES.register("SGLang")
def sglang(point: Point, deployment: Deployment) -> Settings:
    """Chunks of 16,384 tokens, up to 512 running, 0.85 of memory; by default chunks of 8,192.

    The launch scripts have 8,192 to 32,768 tokens, 32 to 512 running and 0.82 to 0.95 of memory,
    by device and number format.
    """
    tokens = 16_384 if point.scripted else 8192
    policy = Policy("sglang", tokens, 512, chunked=True, reserve=False, lazy=True, ahead=True)
    share = 0.95 if deployment.layout.devices == 4 and deployment.experts else 0.85
    return Settings(policy, _static(deployment, share))


def _static(deployment: Deployment, share: float) -> CacheSettings:
    """A share of the whole memory for weights and cache together."""
    total = deployment.system.device.memory.capacity_bytes
    return CacheSettings(memory_bytes=share * total)
