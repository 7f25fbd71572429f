"""The engine and the kernels of a point: its framework as its launch script starts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ....devices.calibrated.kernel_sets import LABELS
from ....devices.calibrated.libraries import BLACKWELL, generation
from ....devices.device import build_device
from ....simulator.deploy.deployment import Deployment
from ....simulator.frameworks.engines import ENGINES, LaunchSettings
from ....simulator.frameworks.kernels import expert_kernels
from ....simulator.frameworks.settings import EngineSettings
from ....workloads.errors import InputError, nearest
from ....workloads.registry import Registry
from .table import ServingPoint

# Settings of the public benchmark's launch scripts, by framework.


Rule = Callable[[ServingPoint, Deployment], LaunchSettings]
SCRIPTS: Registry[Rule] = Registry("serving framework")
"""Of the public benchmark; launch scripts of other sources are not known."""


@SCRIPTS.register("vLLM")
def vllm(point: ServingPoint, deployment: Deployment) -> LaunchSettings:
    """512 sequences and asynchronous scheduling; the rest are the engine's defaults.

    The scripts of dense models for Blackwell (70b_fp8_b200_docker.sh, 70b_fp4_b200_docker.sh) set
    cudagraph_mode FULL_DECODE_ONLY and no splitting_ops: steps with prompts are started op by op.
    """
    flat = blackwell(deployment) and not deployment.experts
    return LaunchSettings(sequences=512, pieces=not flat, ahead=True)


@SCRIPTS.register("TensorRT-LLM")
def tensorrt_llm(point: ServingPoint, deployment: Deployment) -> LaunchSettings:
    """Dense models gather prompts at 1024/1024 on less than 8 devices, others balance ranks.

    Scripts of MoE models set the step to one prompt and one token of every client, scripts of 2026 (versions from 1.2
    on) at least 8,192 tokens; on Blackwell these let fp8 models on one rank gather prompts too, at 1024/1024 with 64
    clients and more. KV takes 0.9 of the memory left by weights for dense models, else 0.8, without reuse
    (enable_block_reuse). gpt-oss has 20,000 tokens, 0.85, and the default 50 steps of balance.
    """
    short = point.isl == point.osl == 1024
    if point.model.startswith("gpt-oss"):
        return LaunchSettings(20_000, memory=0.85, reuse=False, even_steps=50 if point.workers.dp > 1 else 0)
    if not deployment.experts:
        tokens = 16_384
        if short and point.workers.tp < 8:
            return LaunchSettings(tokens, reuse=False, gather_steps=20, gather_tokens=int(0.9 * tokens))
        return LaunchSettings(tokens, reuse=False)
    tokens = -(-(point.clients + point.isl + 64) // 64) * 64
    early = () < point.version < (1, 2)
    if not early:
        tokens = max(8192, tokens)
    if point.workers.dp > 1:
        return LaunchSettings(tokens, memory=0.8, reuse=False, even_steps=60, even_batches=0)
    gathers = not early and blackwell(deployment) and point.weight_dtype == "fp8"
    if short and gathers and point.clients >= 64:
        return LaunchSettings(tokens, memory=0.8, reuse=False, gather_steps=40, gather_tokens=int(0.8 * tokens))
    return LaunchSettings(tokens, memory=0.8, reuse=False)


@SCRIPTS.register("SGLang")
def sglang(point: ServingPoint, deployment: Deployment) -> LaunchSettings:
    """On Blackwell arrivals are received every 10 steps, every 30 from 16 clients on.

    Chunks, running requests and share of memory by device and number format; on Hopper the
    engine receives at every step. Nothing is found again (disable-radix-cache).
    """
    if not blackwell(deployment):
        running = 512 if point.isl == point.osl == 1024 else 256
        return LaunchSettings(32_768, running, 0.82, 32_768, reuse=False)
    many = 30 if point.clients >= 16 else 10
    if point.workers.dp > 1:  # refused by the engine with data-parallel attention
        many = 1
    if point.weight_dtype != "fp8":
        return LaunchSettings(16_384, 256, 0.85, reuse=False, poll_steps=many)
    if deployment.layout.devices == 4:
        return LaunchSettings(8192, 32, 0.95, 8192, reuse=False, poll_steps=min(many, 10))
    return LaunchSettings(32_768, 128, 0.82, 32_768, reuse=False, poll_steps=many)


def blackwell(deployment: Deployment) -> bool:
    """Whether the devices are of that generation, of data centres or of workstations."""
    return generation(deployment.system.device) >= BLACKWELL


NAMES = {"vLLM": "vllm", "SGLang": "sglang", "TensorRT-LLM": "trtllm"}
"""Frameworks as tables of points name them."""


def settings(point: ServingPoint, deployment: Deployment, host_times: float = 1.0) -> EngineSettings:
    """Engine settings of a run.

    Split deployments have the engine's defaults: their launch scripts were not read.

    Raises
    ------
    InputError
        A framework that is not known.
    """
    if point.framework not in NAMES:
        close = nearest(point.framework, NAMES)
        raise InputError(repr(point.framework), f"unknown serving framework{close}")
    launch = LaunchSettings()
    if point.prefill is None and point.scripted and point.framework in SCRIPTS:
        launch = SCRIPTS[point.framework](point, deployment)
    version = ".".join(map(str, (*point.version, 0)[:2])) if point.version else ""
    return ENGINES[NAMES[point.framework]](deployment, replace(launch, version=version, host_times=host_times))


def with_experts(point: ServingPoint, deployment: Deployment) -> Deployment:
    """One side of a run, its experts costed by the kernels it calls.

    Unknown frameworks and devices of makers other than NVIDIA keep the default's.
    """
    spec, framework = deployment.system.device, NAMES.get(point.framework)
    if framework is None or not generation(spec):
        return deployment
    label = LABELS[expert_kernels(framework, spec, apart=deployment.layout.dp > 1, stored=point.weight_dtype)]
    device = build_device(spec, calibrated=True, frameworks={"experts": label})
    return replace(deployment, device=device)
