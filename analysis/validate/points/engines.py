"""How the serving engines schedule and what they may use, by framework: their own defaults.

Every rule is a named setting of the engine, its value the engine's default (source files named
below, versions as in the runs). The public benchmark changes some: `scripts`.
"""

from __future__ import annotations

from collections.abc import Callable

from ....simulator.batching.kv import CacheSettings
from ....simulator.batching.policies import Policy, make_policy
from ....simulator.deploy.deployment import Deployment
from ....simulator.frameworks.settings import EngineSettings
from ....workloads.registry import Registry
from .scripts import SCRIPTS, Script
from .table import Point

Limits = Callable[[Deployment, Script], EngineSettings]
ENGINES: Registry[Limits] = Registry("serving framework")

REQUEST_S = {"SGLang": 0.135, "TensorRT-LLM": 0.115, "vLLM": 0.065}
"""The one fitted constant of a framework [s]: what a request spends outside the engine's steps
until its first token is seen (network, tokenisation, queues between processes, detokenisation,
streaming), added to TTFT. Fitted to the rows of ../shared/serving_points with the framework in
deployments that are not split: the value with the least median error of TTFT, which `opbyte
validate points` prints anew."""
OTHER_S = 0.115
"""The same of any other framework: the median of the three."""
MIB = 2.0**20


def settings(point: Point, deployment: Deployment) -> EngineSettings:
    """Engine settings of a run.

    Split deployments have the engine's defaults: their launch scripts were not read.

    Raises
    ------
    InputError
        A framework that is not known.
    """
    engine = ENGINES[point.framework]
    script = Script()
    if point.scripted and point.prefill is None and point.framework in SCRIPTS:
        script = SCRIPTS[point.framework](point, deployment)
    return engine(deployment, script)


@ENGINES.register("vLLM")
def vllm(deployment: Deployment, script: Script) -> EngineSettings:
    """Chunked prefill beside decodes, asynchronous scheduling (V1 engine).

    Defaults on GPUs of 70 GiB and more (vllm/engine/arg_utils.py): 8,192 tokens a step, 1,024
    sequences, 0.9 of memory.
    """
    policy = make_policy("vllm", script.tokens, script.sequences)
    total = deployment.system.device.memory.capacity_bytes
    return EngineSettings(policy, CacheSettings(memory_bytes=(script.memory or 0.9) * total))


@ENGINES.register("TensorRT-LLM")
def tensorrt_llm(deployment: Deployment, script: Script) -> EngineSettings:
    """Whole prompts beside decodes, the cache of finished requests reserved, overlapped scheduling.

    Defaults (tensorrt_llm/llmapi/llm_args.py): 8,192 tokens (max_num_tokens), 2,048 sequences
    (max_batch_size), chunked prefill off, capacity policy GUARANTEED_NO_EVICT, KV 0.9 of the
    memory that weights leave, no waiting to batch prompts. What a step may let wait
    (PyExecutor._waiting_requests and _balance_adp_requests): prompts until there are
    batch_wait_max_tokens_ratio x max_num_tokens tokens or batch_wait_timeout_iters steps have
    passed; with attention_dp_config.enable_balance until every rank has one or timeout_iters
    steps have passed.
    """
    policy = Policy(
        "tensorrt-llm", script.tokens or 8192, script.sequences or 2048, chunked=False,
        reserve=True, ahead=True, gather_steps=script.gather_steps,
        gather_tokens=script.gather_tokens, even_steps=script.even_steps,
    )  # fmt: skip
    total = deployment.system.device.memory.capacity_bytes
    weights = deployment.memory(total).weights
    share = script.memory or 0.9
    return EngineSettings(policy, CacheSettings(memory_bytes=weights + share * (total - weights)))


@ENGINES.register("SGLang")
def sglang(deployment: Deployment, script: Script) -> EngineSettings:
    """Steps of prompts or of decodes, prompts first (no enable_mixed_chunk), overlapped scheduling.

    Defaults (sglang/srt/server_args.py): chunks of 8,192 tokens, 16,384 on devices of 160 GiB and
    more; arrivals are received at every step (scheduler_recv_interval 1); of memory, all but 0.5
    GiB, 1.5 MiB for each token of a chunk, 2 MiB for each sequence of the largest CUDA graph
    (256, from four devices on 512) and 1 GiB for each eight devices.
    """
    total = deployment.system.device.memory.capacity_bytes
    devices = deployment.layout.devices
    tokens = script.tokens or (16_384 if total >= 160 * 1024 * MIB else 8192)
    policy = Policy(
        "sglang", tokens, script.sequences or 2048, chunked=True, reserve=False, ahead=True,
        prompts_alone=True, poll_steps=script.poll_steps,
    )  # fmt: skip
    if script.memory:
        return EngineSettings(policy, CacheSettings(memory_bytes=script.memory * total))
    graphs = 512 if devices >= 4 else 256
    left = total - MIB * (512 + 1.5 * tokens + 2 * graphs + 1024 * devices / 8)
    return EngineSettings(policy, CacheSettings(memory_bytes=left))
