"""How the serving engines schedule and what they may use, by framework: their own defaults.

Every rule is a named setting of the engine, its value the engine's default (source files named
below, versions as in the runs); a launch changes some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...devices.spec import DeviceSpec
from ...workloads.registry import Registry
from ..batching.kv import CacheSettings
from ..batching.policies import make_policy
from ..deploy.deployment import Deployment
from ..parts.sglang.rules import SGLANG, SglangRules
from ..parts.sglang.state import LEAVERS
from ..parts.tensorrt_llm.rules import TRTLLM, TrtllmRules, of_trtllm
from .keys import number_of, numbers_of
from .settings import EngineSettings
from .sglang_limits import READ, SglangLimits
from .upkeep import Upkeep, upkeep_of
from .vllm_rules import DEFAULT_VERSION, VllmLimits, rules_of


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Settings of an engine's start in addition to its defaults; None or the neutral value if not set.

    Attributes
    ----------
    tokens, sequences : int or None
        Of a step; running at once.
    memory : float or None
        Share of memory for weights and cache (SGLang, vLLM), or of what weights leave for the cache (TensorRT-LLM).
    prefill : int or None
        Prompt tokens of a step that are not cut (SGLang's max_prefill_tokens).
    reuse : bool
        Whether computed prompts can be found again.
    poll_steps, gather_steps, gather_tokens, even_steps, even_batches : int
        See `Policy` and `TrtllmRules`.
    pieces : bool
        Whether graphs in pieces hold steps with prompts where the engine's version has them.
    ahead : bool
        Whether vLLM is set to schedule asynchronously although its version does not by default.
    version : str
        Whose rules and host; the newest that was read, unless said.
    host_times : float
        What the version's host adds, as a multiple of what is known of it.
    """

    tokens: int | None = None
    sequences: int | None = None
    memory: float | None = None
    prefill: int | None = None
    reuse: bool = True
    poll_steps: int = 1
    gather_steps: int = 0
    gather_tokens: int = 0
    even_steps: int = 0
    even_batches: int = 10
    pieces: bool = True
    ahead: bool = False
    version: str = ""
    host_times: float = 1.0

    def upkeep(self, framework: str) -> Upkeep:
        """Return the host time that a version adds to a step; default: the newest version."""
        upkeep = upkeep_of(framework, number_of(self.version) or (99, 0))
        gap, workers, sequence_s = (self.host_times * s for s in (upkeep.gap_s, upkeep.workers_s, upkeep.sequence_s))
        return replace(upkeep, gap_s=gap, workers_s=workers, sequence_s=sequence_s)


Limits = Callable[[Deployment, LaunchSettings], EngineSettings]
ENGINES: Registry[Limits] = Registry("serving framework")


@ENGINES.register("vllm")
def vllm(deployment: Deployment, launch: LaunchSettings) -> EngineSettings:
    """Chunked prefill with decodes, asynchronous scheduling (V1 engine).

    Defaults follow the version and the device: on an H100 8,192 tokens a step, 1,024 sequences, 0.9 of memory.
    """
    version = number_of(launch.version) or number_of(DEFAULT_VERSION) or (0, 0)
    rules = rules_of(version)
    policy = rules.applied(make_policy("vllm", launch.tokens, launch.sequences))
    policy = replace(policy, ahead=policy.ahead or launch.ahead, pieces=policy.pieces if launch.pieces else 0)
    host = launch.upkeep("vllm").on(policy.host, deployment.layout.tp)
    settings = EngineSettings(
        replace(policy, host=host), memory_share=launch.memory or rules.memory_share, logit_bytes=rules.logit_bytes
    )
    limits = VllmLimits(version, launch.tokens is not None, launch.sequences is not None)
    settings = limits.applied(settings, deployment)
    return replace(settings, cache=settings.cache_for(deployment))


TRTLLM_SHARE, TRTLLM_BLOCK = 0.9, 32
"""Of what weights leave, the share that TensorRT-LLM's cache takes, and tokens of its blocks
(tensorrt_llm/llmapi/llm_args.py)."""


@ENGINES.register("trtllm")
def tensorrt_llm(deployment: Deployment, launch: LaunchSettings) -> EngineSettings:
    """Whole prompts with decodes, reserved cache of finished requests, overlapped scheduling.

    Defaults (tensorrt_llm/llmapi/llm_args.py): 8,192 tokens (max_num_tokens), 2,048 sequences (max_batch_size), chunked
    prefill off, capacity policy GUARANTEED_NO_EVICT, KV 0.9 of the memory that weights leave, no waiting to batch
    prompts. What a step may let wait (PyExecutor._waiting_requests and _balance_adp_requests): prompts until there are
    batch_wait_max_tokens_ratio x max_num_tokens tokens or batch_wait_timeout_iters steps have passed; with
    attention_dp_config.enable_balance until every rank has one or timeout_iters steps have passed.
    """
    layout, tokens = deployment.layout, launch.tokens or TRTLLM.token_budget
    upkeep = launch.upkeep("trtllm")
    host = upkeep.on(TRTLLM.host, layout.tp)
    rules = TrtllmRules(
        max_num_tokens=tokens, reuse=launch.reuse, wait_steps=launch.gather_steps,
        wait_tokens=launch.gather_tokens, even=launch.even_steps > 0 and layout.dp > 1,
        even_steps=launch.even_steps, even_batches=launch.even_batches,
        overlap=upkeep.hidden,
        serial=upkeep.hidden and (number_of(launch.version) or (99, 0)) < (1, 2),
    )  # fmt: skip
    policy = of_trtllm(rules, launch.sequences or TRTLLM.max_sequences, host)
    settings = EngineSettings(
        policy, CacheSettings(TRTLLM_BLOCK), left_share=launch.memory or TRTLLM_SHARE, engine="tensorrt-llm"
    )
    return replace(settings, cache=settings.cache_for(deployment))


def sglang_patch(version: str) -> int:
    """Whose rules a version has, see `SglangRules`: of 0.4 the first ones, beyond 0.5 the last ones."""
    *two, patch = sglang_version(version)
    return patch if two == [0, 5] else 0 if two < [0, 5] else LEAVERS


def sglang_version(version: str) -> tuple[int, ...]:
    """Return the three numbers of a version; the default patch is the one that was read."""
    return number if len(number := numbers_of(version)) > 2 else READ


@ENGINES.register("sglang")
def sglang(deployment: Deployment, launch: LaunchSettings) -> EngineSettings:
    """Steps of prompts or of decodes, prompts first (no enable_mixed_chunk), overlapped scheduling.

    Defaults (sglang/srt/server_args.py): limits of `SglangLimits`; 16,384 prompt tokens a step; arrivals are received at every
    step. Data-parallel attention shares chunks among its ranks and counts tokens to come with 0.3 of the usual care.
    """
    layout = deployment.layout
    rules = SglangRules(
        max_prefill_tokens=launch.prefill or SglangRules().max_prefill_tokens,
        radix=launch.reuse,
        conservativeness=0.3 if layout.dp > 1 else 1.0,
        patch=sglang_patch(launch.version),
    )
    host = launch.upkeep("sglang").on(SGLANG.host, layout.tp)
    policy = replace(SGLANG, poll_steps=launch.poll_steps, rules=rules, host=host)
    limits = SglangLimits(sglang_version(launch.version), launch.sequences, launch.memory, launch.tokens)
    return limits.applied(EngineSettings(policy, CacheSettings(1), engine="sglang"), deployment)


HGX = 8
"""Devices of a node whose NVLink ends there. Ranks gather within one: there each token has about as
many experts as there are groups of them."""


def exchange_of(framework: str, device: DeviceSpec, dp: int, ep: int) -> str:
    """How data-parallel ranks share experts, see `deploy`: the frameworks' defaults.

    Devices of one rank gather their logits under all three. vLLM gathers (all2all_backend allgather_reducescatter),
    SGLang too (moe_a2a_backend none; recipes for more than a node set deepep). TensorRT-LLM gathers unless devices of
    all nodes share one NVLink (MnnvlMemory.supports_mnnvl in select_alltoall_method_type, tensorrt_llm/_torch/modules/
    fused_moe), or, with DeepEP, for no more groups than experts of a token.
    """
    if framework == "trtllm" and device.node_size > HGX:
        return "all_to_all"
    return "gather" if dp == 1 or ep <= HGX else "all_to_all"
