"""What the serving engines were started with, by framework: from launch scripts and defaults.

Sources: "launch scripts" are those of the public benchmark as read in the README of
../shared/serving_points (October 2025 for dense models, April 2026 for DeepSeek). Where a run
recorded nothing, the scripts' values stand for it (assumed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...simulator.deployment import Deployment
from ...simulator.kv import CacheSettings
from ...simulator.policies import Policy
from ...workloads.registry import Registry
from .table import Point

Engine = Callable[[Point, Deployment], "Settings"]
ENGINES: Registry[Engine] = Registry("serving framework")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine batches, and how much of a device's memory it may use."""

    policy: Policy
    cache: CacheSettings


def settings(point: Point, deployment: Deployment) -> Settings:
    """Engine settings of a run."""
    return ENGINES[point.framework](point, deployment)


@ENGINES.register("vLLM")
def vllm(point: Point, deployment: Deployment) -> Settings:
    """Launch scripts: 512 sequences, 8,192 tokens a step, 0.9 of memory, asynchronous scheduling."""
    policy = Policy("vllm", 8192, 512, chunked=True, reserve=False, lazy=True, ahead=True,
                    waiting_load=4)  # fmt: skip
    return Settings(policy, _static(deployment, 0.9))


@ENGINES.register("TensorRT-LLM")
def tensorrt_llm(point: Point, deployment: Deployment) -> Settings:
    """Whole prompts beside decodes, finished requests' cache reserved, overlapped scheduling.

    Launch scripts: max(8192, clients + prompt + 64) tokens a step for mixture-of-experts models,
    16,384 for dense ones; KV 0.75 to 0.8 of the memory that weights leave. 2,048 sequences is the
    engine's default.
    """
    tokens = max(8192, point.clients + point.isl + 64) if deployment.experts else 16_384
    policy = Policy("tensorrt-llm", tokens, 2048, chunked=False, reserve=True, ahead=True)
    total = deployment.system.device.memory.capacity_bytes
    weights = deployment.memory(total).weights
    return Settings(policy, CacheSettings(memory_bytes=weights + 0.8 * (total - weights)))


@ENGINES.register("SGLang")
def sglang(point: Point, deployment: Deployment) -> Settings:
    """Launch scripts: chunks of 16,384 to 32,768 tokens, 256 to 512 running, 0.82 of memory."""
    policy = Policy("sglang", 16_384, 512, chunked=True, reserve=False, lazy=True, ahead=True)
    return Settings(policy, _static(deployment, 0.85))


def _static(deployment: Deployment, share: float) -> CacheSettings:
    """A share of the whole memory for weights and cache together."""
    total = deployment.system.device.memory.capacity_bytes
    return CacheSettings(memory_bytes=share * total)
