"""How the serving engines schedule and what they may use, by framework: their own defaults.

Every rule is a named setting of the engine, its value the engine's default (source files named
below, versions as in the runs); a launch changes some.

Host time of steps and requests, by engine and version: data and their sources.

A host with asynchronous or overlapped scheduling adds nothing to steps longer than its work; older hosts let the
devices wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ...devices.spec import DeviceSpec
from ...workloads.registry import Registry
from ..deploy.deployment import Deployment
from ..engine.host import HTTP_S, SYNC_GAP_S, TOKEN_S, FrontEnd, Host
from ..engine.kv import CacheSettings
from ..engine.policies import make_policy
from ..parts.sglang.state import LEAVERS, SGLANG, SglangRules
from ..parts.tensorrt_llm.rules import TRTLLM, TrtllmRules, of_trtllm
from .keys import number_of, numbers_of
from .settings import EngineSettings
from .sglang_limits import READ, SglangLimits
from .vllm_rules import DEFAULT_VERSION, TEMPLATES, VllmLimits, rules_of, template_s

TOKENS = FrontEnd(token_s=TOKEN_S, http_s=HTTP_S)
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
    gap_s, workers_s, sequence_s, sync_s : float
        Of every step; in addition of a rank of several devices, each with a process that is sent its
        inputs; of every sequence; of every step without asynchronous scheduling.
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
    sync_s: float = 0.0
    hidden: bool = False
    front: FrontEnd = TOKENS

    def on(self, host: Host, devices: int) -> Host:
        """Return a host with this time added to each step, for ranks of `devices` devices."""
        gap = self.gap_s + (self.workers_s if devices > 1 else 0.0)
        return replace(
            host, front=self.front, request_s=host.request_s - self.front.http_s, gap_s=host.gap_s + gap,
            sequence_s=host.sequence_s + self.sequence_s, sync_s=host.sync_s + self.sync_s, why=self.why,
        )  # fmt: skip


EARLY_GAP_S = 1e-3
"""Host time added to a step of vLLM 0.8 to 0.10 [s]; most likely inputs are prepared and tokens are read while the
devices wait: overlapping them was to save 5 to 10 % of a step with asynchronous scheduling
(github.com/vllm-project/vllm/pull/23569), which does not hide it in 0.10.2. A round number between the values with
the least mean TPOT error: 0.75 ms for 120 rows of vLLM 0.10.2 in $OPBYTE_DATA/serving_points (8.5 % without, 6.0
with 1 ms), 1.2 ms for 22 runs of 0.8.5 in $OPBYTE_DATA/real_runs (13.7, 8.9). Runs of 0.15 and 0.19 show no such
gap."""
STATIC = "fitted to static batches of 2024 on A100 and H100 (argonne-lcf/LLM-Inference-Bench), no experts, "
OVERLAPPED = "read off deployments of TensorRT-LLM 1.0 and 1.1 without pipelines"
SEQUENCE_S = 50e-6
"""Host time of a sequence in a step of TensorRT-LLM's PyTorch backend [s]: the mean error of the nine points of
$OPBYTE_DATA/serving_points that it changes by 2 % is 19 %, without it 25, with 62 us 17. The published rates of a
B200 and a GB200 with 3,584 sequences have errors of 2 and 3 % with 50, 11 and 12 with 70. 30 rates of two, four and
eight stages, not in the fit, have 6.8 %, without it 21."""
UPKEEP: Mapping[str, tuple[Upkeep, ...]] = {
    "vllm": (
        Upkeep((0, 0), f"{STATIC}vLLM 0.4 and 0.5", 1.07e-3, 1.24e-3, 68e-6),
        Upkeep(
            (0, 8), f"{EARLY_GAP_S * 1e3:g} ms between steps before vLLM 0.11, fitted to measured "
            "deployments of 0.10.2", EARLY_GAP_S,
        ),
        Upkeep((0, 11), sync_s=SYNC_GAP_S, front=FrontEnd(template_s(""), TOKEN_S, TEMPLATES, HTTP_S)),
        Upkeep((0, 12), sync_s=SYNC_GAP_S),
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
    """Return the host time of a version: that of the last row that is not newer than it."""
    return max((u for u in UPKEEP[framework] if u.since <= version), key=lambda u: u.since)


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
    """Return the patch number whose rules apply (`SglangRules`): the first for 0.4, the last beyond 0.5."""
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
