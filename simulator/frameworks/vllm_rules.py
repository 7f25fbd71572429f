"""What differs between versions of vLLM, and which of its settings are known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..deploy.deployment import Deployment
from ..engine.policies import Policy
from .settings import EngineSettings

LOGIT_BYTES = 40.4
"""What vLLM keeps free of its cache for each sequence that a step may have and entry of the vocabulary [B].

Memory per logit of the profiling run before the cache is allocated: logits of 16 and 32 bits, their sorted copies and
indices, probabilities. The mean of two engines that print their cache size: 0.19 on an RTX 4090 (256 sequences of
Llama-3.1-8B, 37.7 bytes) and 0.30 on an H100 (1,024 of Qwen3-8B, 43.1). Graphs and activations, 0.1 to 1 GB, are
included and not separated. Images of 0.8 sample with FlashInfer without a sort
(vllm/v1/sample/ops/topk_topp_sampler.py): logits of 16 and 32 bits and probabilities, 10 bytes instead of the 30 of a
sort with its copies.
"""
LARGE_SMALL = ((70.0, 8192, 1024), (0.0, 2048, 256))


@dataclass(frozen=True, slots=True)
class Rules:
    """What a version of vLLM does.

    Attributes
    ----------
    since : tuple of int
        First version (major, minor) with these rules.
    bare_first : bool
        Freed blocks without a content hash are handed out next, not last (``BlockPool.free_blocks``
        in vllm/v1/core/block_pool.py).
    memory_share : float
        Default of `gpu_memory_utilization` (vllm/config/cache.py).
    serial_stages : bool
        What asynchronous scheduling means with pipeline stages, see `Policy.serial_stages`: of the V1
        model runner. The V2 runner, which newer versions have for most models, gives a decode every
        `pp`-th batch (`next_decode_eligible_step` in vllm/v1/core/sched/async_scheduler.py), as
        synchronous scheduling does once the pipeline is full; that is what is simulated.
    ahead : bool
        Default of `async_scheduling`: on from 0.14 (its release notes).
    limits : tuple of (float, int, int)
        Defaults of a server: a device's least memory [GiB], tokens and sequences of a step; the first
        row that a device reaches (``get_batch_defaults`` in vllm/engine/arg_utils.py).
    small_a100 : bool
        Whether an A100 has the limits of the last row for any memory size.
    early : bool
        The V0 engine: whole prompts in separate steps, before decodes; no prefix caching; host work between the steps
        (``Scheduler._schedule_default`` in vllm/core/scheduler.py).
    logit_bytes : float
        See `LOGIT_BYTES`.
    lone, first_chunk : bool
        See `Policy`; the latter is `scheduler_reserve_full_isl` off, which is on since 0.19 (vllm/config/scheduler.py).
    """

    since: tuple[int, int]
    bare_first: bool
    memory_share: float
    serial_stages: bool
    ahead: bool = True
    limits: tuple[tuple[float, int, int], ...] = LARGE_SMALL
    small_a100: bool = True
    early: bool = False
    logit_bytes: float = LOGIT_BYTES
    lone: bool = False
    first_chunk: bool = False

    def limits_on(self, memory_bytes: float, device: str) -> tuple[int, int]:
        """Tokens and sequences of a step that a server has without being told."""
        small = self.small_a100 and "a100" in device.lower()
        reached = [row for row in self.limits if memory_bytes >= row[0] * 2**30 and not small]
        _, tokens, sequences = (reached or self.limits[-1:])[0]
        return tokens, sequences

    def applied(self, policy: Policy) -> Policy:
        """The batching of this version."""
        policy = replace(
            policy, bare_first=self.bare_first, serial_stages=self.serial_stages, ahead=self.ahead, lone=self.lone,
            first_chunk=self.first_chunk,
        )  # fmt: skip
        if not self.early:
            return policy
        return replace(policy, prompts_alone=True, chunked=False, lazy=False, caching=False, pieces=0)


RULES = (
    Rules((0, 0), False, 0.9, True, ahead=False, limits=((0.0, 8192, 256),), early=True),
    Rules((0, 8), False, 0.9, True, ahead=False, small_a100=False, logit_bytes=20.0, first_chunk=True),
    Rules((0, 9), False, 0.9, True, ahead=False, first_chunk=True),
    Rules((0, 14), False, 0.9, True, first_chunk=True),
    Rules((0, 19), False, 0.9, True),
    Rules((0, 25), True, 0.92, False),
    Rules((0, 28), True, 0.92, False, limits=((160.0, 16384, 1024), *LARGE_SMALL)),
    Rules((0, 33), True, 0.92, False, limits=((160.0, 16384, 1024), *LARGE_SMALL), lone=True),
)
"""From the wheels 0.19.0 and 0.25.0, limits from 0.8.5, 0.9.0, 0.26.0 to 0.28.0, 0.30.0 and 0.33.0. Versions before
0.19 schedule as it does here, those between 0.19 and 0.25 too: 0.21.0 still hands blocks out in the old order.

What 0.30.0 and 0.33.0 schedule otherwise than 0.25 is in docs/engine-files.md, under "Newer than 0.25"; what of it is
not simulated bears on no run without drafts, preemptions or adapters."""

DEFAULT_VERSION = "0.19"
V4, V4_BLOCK = "DeepseekV4ForCausalLM", 256
"""Tokens of a block of DeepSeek-V4 (vllm/models/deepseek_v4/attention.py)."""
STATES_FOUND, STATES_USUAL = (0, 14), (0, 27)
"""First versions that can cache prefixes of models with states, and that do it by default
(``is_prefix_caching_supported``)."""
BATCHED, BATCHED_TOKENS = ("deepep_low_latency", "nixl_ep"), 256
"""Exchanges with a fixed number of places, and tokens of a step with them, from 0.20 on (`DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP`)."""
MODES = ("balanced", "throughput", "interactivity")
"""Values of `performance_mode`; the second doubles both limits."""


LEX_S = 14e-6
"""Time in which vLLM 0.11.0 parses one token of a request's chat template [s]: ``resolve_chat_template_kwargs`` looks for variables in
the template's syntax tree (vllm/entrypoints/chat_utils.py, pull request 25794); later versions store the result. Measured with jinja2
3.1.6 on a Xeon's core: 15 to 18 us for templates of 530 to 2,857 tokens. 1,000 chats at once on four servers (gpustack in
$OPBYTE_DATA/real_runs_2026_11) show 12 (Qwen3-14B 13.5 ms a chat, GLM-4.5-Air 11 to 12, Qwen3-235B-2507 5 to 7.5)."""
LEXED: Mapping[str, int] = {
    "": 975, "qwen3": 1158, "qwen3-235b-a22b-2507": 585, "qwen3-30b-a3b-2507": 585, "qwen3-next": 585, "qwen2": 530,
    "gemma-2": 197, "gemma-3": 434, "llama-2": 265, "llama-3-": 147, "mistral-7b": 242, "kimi-k2": 291, "gpt-oss": 0,
}  # fmt: skip
"""Tokens of published chat templates, as Jinja's lexer counts them, by the start of a model's name; of others those of Llama 3.1 (tools;
GLM-4.5 has 930). Harmony's encoder has no template (gpt-oss). The templates of 2507's Instruct models: as Qwen3's without reasoning."""
TEMPLATES = "Jinja's time to parse it, by the length of the model's template; prompts of /v1/completions have none"


def template_s(model: str) -> float:
    """Return the time in which the chat template of a model is parsed [s]."""
    return LEX_S * LEXED[max((name for name in LEXED if model.startswith(name)), key=len)]


@dataclass(frozen=True, slots=True)
class VllmLimits:
    """Limits of vLLM where a file does not say them: of its version on a device, and of a model's caches.

    Attributes
    ----------
    version : tuple of int
        Whose rules.
    tokens, sequences : bool
        Whether the engine's settings say them.
    times : int
        What both defaults are multiplied with.
    places : int or None
        Default of tokens by the exchange of experts.
    block : bool
        Whether the settings say how long a block is.
    caching : bool
        Whether they ask for prefix caching.
    """

    version: tuple[int, int]
    tokens: bool = False
    sequences: bool = False
    times: int = 1
    places: int | None = None
    block: bool = False
    caching: bool = False

    def asked(self, sequences: int | None, tokens: int | None) -> VllmLimits:
        """Return these limits with those that options give in their place."""
        return replace(
            self, sequences=self.sequences or sequences is not None, tokens=self.tokens or tokens is not None
        )

    def applied(self, settings: EngineSettings, deployment: Deployment) -> EngineSettings:
        """Settings with the limits and blocks of a deployment."""
        device, policy, rules = deployment.system.device, settings.policy, rules_of(self.version)
        name = settings.device_name or device.name
        tokens, sequences = rules.limits_on(settings.memory_bytes or device.memory.capacity_bytes, name)
        if policy.host.front.why:  # by a template that the settings do not give
            front = policy.host.front._replace(request_s=template_s(deployment.model.name))
            policy = replace(policy, host=replace(policy.host, front=front))
        if not self.tokens:
            tokens = self.places or tokens * self.times
            longest = 0 if policy.chunked else settings.max_model_len or 0
            policy = replace(policy, token_budget=max(tokens, longest))
        if not self.sequences:
            why = f"vLLM's default on {name}"
            policy = replace(policy, max_sequences=sequences * self.times, sequences_why=why)
        cache, block = settings.cache, self._block(deployment, settings.cache.block_tokens)
        v4 = deployment.model.architecture == V4
        if self.version < (0, 9):  # window layers keep all tokens (`unify_hybrid_kv_cache_specs`)
            cache = replace(cache, window_share=1.0)
        elif v4 or not deployment.shard.state_bytes_per_sequence:
            cache = replace(cache, found_again=True)
        elif policy.caching and self.version >= (STATES_FOUND if self.caching else STATES_USUAL):
            cache = replace(cache, found_again=True, states_each=2, resume_tokens=block)
        else:
            policy = replace(policy, caching=False)
        if not self.block and not cache.resume_tokens:
            cache = replace(cache, block_tokens=block)
        return replace(settings, policy=policy, cache=cache)

    @staticmethod
    def _block(deployment: Deployment, usual: int) -> int:
        """Return the tokens of a block; with states, the number whose KV in one layer equals a state (`_align_hybrid_block_size`)."""
        if deployment.model.architecture == V4:
            return V4_BLOCK
        parts = [part.state() for layer in deployment.shard.layers for part in layer.parts]
        numerics = deployment.shard.numerics
        states = max((sum(f.bytes(numerics) for f in state.fixed) for state in parts), default=0.0)
        tokens = max((sum(k.token_bytes(numerics) for k in state.keeps) for state in parts), default=0.0)
        return usual if not states or not tokens else max(usual, -(-int(states / tokens) // usual) * usual)


def rules_of(number: tuple[int, int]) -> Rules:
    """Return the rules of a version: of the last known one that is not newer."""
    return max((rules for rules in RULES if rules.since <= number), key=lambda r: r.since)
