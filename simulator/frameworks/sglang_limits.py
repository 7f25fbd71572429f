"""What SGLang lets run at once on a deployment, and how it splits a device's memory, by version.

From sglang/srt/server_args.py, model_executor/model_runner.py and model_runner_kv_cache_mixin.py, since 0.5.19 arg_groups/memory_hook.py
and mem_cache/kv_cache_configurator.py, of the releases 0.4.0 to 0.5.23. A rule holds from the first release in which it was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...devices.calibrated.libraries import BLACKWELL, generation
from ...workloads.errors import CapacityError
from ...workloads.layers.mla import LatentAttention
from ..deploy.deployment import Deployment
from ..engine.kv import CacheSettings, kv_rules
from ..parts.sglang.state import SglangRules
from .settings import EngineSettings

MIB, GIB = 2.0**20, 1024
Version = tuple[int, ...]
READ: Version = (0, 5, 9)
"""Version that is assumed if a file names none."""

CHUNKS = (
    ((0, 0), ((24.4, 8192), (0.0, 2048))),
    ((0, 4, 9), ((160.0, 16_384), (35.0, 8192), (0.0, 2048))),
    ((0, 5, 3), ((160.0, 16_384), (60.0, 8192), (35.0, 4096), (0.0, 2048))),
    ((0, 5, 20), ((160.0, 16_384), (60.0, 8192), (20.0, 4096), (0.0, 2048))),
)
"""Defaults of `chunked_prefill_size` by version: least device memory [GiB] and chunk [tokens]."""
GRAPHS = (
    ((0, 0), ((24.4, 160, 160), (0.0, 8, 8))),
    ((0, 4, 9), ((35.0, 160, 160), (0.0, 8, 80))),
    ((0, 5, 3), ((160.0, 512, 512), (60.0, 256, 512), (35.0, 32, 160), (20.0, 16, 80), (0.0, 8, 8))),
    ((0, 5, 6), ((160.0, 512, 512), (60.0, 256, 512), (35.0, 32, 160), (20.0, 24, 80), (0.0, 8, 8))),
    ((0, 5, 20), ((160.0, 512, 512), (60.0, 256, 512), (35.0, 32, 160), (20.0, 48, 160), (0.0, 8, 8))),
)
"""Largest batch with a captured graph by version: least device memory [GiB], batch below and from four devices on."""
EARLY_SHARES = ((16, 0.79), (8, 0.81), (4, 0.85), (2, 0.87), (1, 0.88))
"""Defaults of `mem_fraction_static` before 0.4.10: number of devices, and the share of memory."""

WINDOWS: Mapping[str, Version] = {
    **dict.fromkeys(("Llama4ForConditionalGeneration", "GptOssForCausalLM", "MiMoV2FlashForCausalLM", "Step3p5ForCausalLM"), READ),
    **dict.fromkeys(("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM", "LagunaForCausalLM"), (0, 5, 12)),
    "Step3p7ForConditionalGeneration": (0, 5, 19),
}  # fmt: skip
"""Architectures whose window layers have a separate pool (``is_hybrid_swa_model`` in configs/model_config.py), since
0.5.9."""
FULL_BEFORE = ("Gemma2", "Gemma3", "Olmo2", "GptOss", "Llama4")
"""Architectures with attention windows but without a separate pool before 0.5.9; all others with windows had one."""
V4, SPARSE = "DeepseekV4ForCausalLM", ("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
V4_RUNNING, DRAFT_RUNNING = 256, 48
"""Defaults of `max_running_requests`: for DeepSeek-V4 since 0.5.12, and for all models with drafts."""
PAGES: Mapping[str, int] = {
    V4: 256,
    **dict.fromkeys(
        ("MiniMaxM3ForCausalLM", "MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"), 128
    ),
    **dict.fromkeys(SPARSE, 64),
}
"""Page sizes that an architecture's attention needs [tokens]."""
STRATEGIES = ("auto", "no_buffer", "extra_buffer", "extra_buffer_lazy")
"""Values of `mamba_radix_cache_strategy`."""


def since(rows: tuple[tuple[Version, tuple[tuple[float, ...], ...]], ...], version: Version, gib: float) -> list[int]:
    """Return the row of a table for a version and a device memory [GiB]."""
    table_found = next(table for first, table in reversed(rows) if first <= version)
    return [int(x) for x in next(row for row in table_found if gib >= row[0])[1:]]


def sglang_chunk(version: Version, memory_bytes: float) -> int:
    """Return the default chunk size of SGLang on a device [tokens]."""
    return since(CHUNKS, version, memory_bytes / MIB / GIB)[0]


@dataclass(frozen=True, slots=True)
class SglangLimits:
    """SGLang's keys for limits of concurrent requests and memory; None if SGLang derives them from the deployment.

    Attributes
    ----------
    version : tuple of int
        Whose rules.
    sequences : int or None
        `max_running_requests`, of all ranks together.
    fraction : float or None
        `mem_fraction_static`.
    chunk : int or None
        `chunked_prefill_size`, of all ranks together; 0: prompts are not cut.
    page : int or None
        `page_size`.
    window_share : float or None
        `swa_full_tokens_ratio`.
    state_ratio, state_slots, strategy
        `mamba_full_memory_ratio`, `max_mamba_cache_size`, `mamba_radix_cache_strategy`.
    graphs : int or None
        `cuda_graph_max_bs`.
    context : int or None
        `context_length`.
    attention : str
        `attention_backend`; empty if SGLang chooses.
    """

    version: Version = READ
    sequences: int | None = None
    fraction: float | None = None
    chunk: int | None = None
    page: int | None = None
    window_share: float | None = None
    state_ratio: float = 0.9
    state_slots: int | None = None
    strategy: str = "auto"
    graphs: int | None = None
    context: int | None = None
    attention: str = ""

    def asked(self, sequences: int | None, tokens: int | None) -> SglangLimits:
        """Return these limits with limits from options replacing them."""
        return replace(self, sequences=sequences or self.sequences, chunk=tokens or self.chunk)

    def applied(self, settings: EngineSettings, deployment: Deployment) -> EngineSettings:
        """Return engine settings with the batching and the cache for a deployment.

        Raises
        ------
        CapacityError
            No state of a request fits.
        """
        rules, ranks = settings.policy.rules, deployment.layout.dp if deployment.lockstep else 1
        if not isinstance(rules, SglangRules):
            return settings
        total = settings.memory_bytes or deployment.system.device.memory.capacity_bytes
        chunk_all = sglang_chunk(self.version, total) if self.chunk is None else self.chunk
        page = self.page or self._page(deployment)
        chunk = chunk_all and max(chunk_all // ranks // page, 1) * page
        share = self.fraction or self._fraction(deployment, total, chunk_all, ranks)
        cache = replace(
            settings.cache, block_tokens=page, memory_bytes=share * total, window_share=self._window(deployment)
        )
        if settings.cache.blocks is not None and page != settings.cache.block_tokens:
            cache = replace(cache, blocks=max(settings.cache.blocks * settings.cache.block_tokens // page, 1))
        buffered = self._buffered(rules.overlap)
        states = max(stage.state_bytes_per_sequence for stage in deployment.stages)
        overlap = rules.overlap and not (
            states and deployment.model.architecture != V4 and rules.radix and not buffered
        )
        rules = replace(rules, chunked_prefill_size=chunk, overlap=overlap)
        most, why = self._asked(deployment, ranks)
        if states and deployment.model.architecture == V4:  # windows and compressors of as many as may run
            cache = replace(cache, state_slots=most or V4_RUNNING)
        elif states:
            state_bytes = self._states_each(rules, deployment)
            slots, stored = self._slots(deployment, cache, state_bytes, most, ranks)
            cache = replace(cache, state_slots=stored)
            if slots // state_bytes < 1:
                raise CapacityError(
                    "mamba_full_memory_ratio",
                    f"memory for {slots} states, but a request needs {state_bytes}; raise it or max_mamba_cache_size",
                )
            if most is None or slots // state_bytes < most:
                most, why = slots // state_bytes, f"state cache: {slots:,} states, {state_bytes} a request"
        if most is None or (0, 5, 12) <= self.version < (0, 5, 23):
            usual = self._usual(deployment, cache)
            most, why = (usual, "SGLang's default") if most is None or usual < most else (most, why)
        policy = replace(
            settings.policy, max_sequences=most, sequences_why=why, rules=rules, ahead=settings.policy.ahead and overlap,
            token_budget=chunk or rules.max_prefill_tokens, pieces=self._pieces(deployment, chunk, ranks), largest=self._top(deployment, total),
        )  # fmt: skip
        return replace(settings, policy=policy, cache=cache)

    def _page(self, deployment: Deployment) -> int:
        """Return the tokens of a page, as the architecture or TensorRT-LLM's kernels on data-centre Blackwell need."""
        usual = 64 if generation(deployment.system.device) == BLACKWELL and self.version >= (0, 5, 6) else 1
        return PAGES.get(deployment.model.architecture, usual)

    def _asked(self, deployment: Deployment, ranks: int) -> tuple[int | None, str]:
        """Return the request limit of a rank if a key or default sets one, and its source."""
        most, why = self.sequences, "max_running_requests"
        if most is None and deployment.model.architecture == V4 and self.version >= (0, 5, 12):
            most, why = V4_RUNNING, "SGLang's default for DeepSeek-V4"
        if most is None and deployment.parts.get("drafts") is not None and self.version >= (0, 4, 10):
            most, why = DRAFT_RUNNING, "SGLang's default with drafts"
        return None if most is None else max(most // ranks, 1), f"{why}, over {ranks} ranks" if ranks > 1 else why

    def _usual(self, deployment: Deployment, cache: CacheSettings) -> int:
        """Return the request limit that follows from the cache size and the context length."""
        rules = kv_rules(deployment, cache)
        tokens = rules.blocks * rules.block if rules.block_bytes.sum() else 1 << 40
        longest = min(self.context or 1 << 31, deployment.model.max_position or 1 << 31)
        return max(min(max(tokens * 512 // longest, 2048), 4096, tokens // 2), 1)

    def _window(self, deployment: Deployment) -> float:
        """Return the pages of window layers over the pages of other layers per token."""
        name, share = deployment.model.architecture, 0.8 if self.window_share is None else self.window_share
        if self.version < (0, 4, 10):
            return 1.0
        if self.version < READ:
            return 1.0 if name.startswith(FULL_BEFORE) else share
        first = WINDOWS.get(name)
        if name.startswith("GptOss") and generation(deployment.system.device) == BLACKWELL:
            first = (0, 5, 12)  # not with trtllm_mha before
        return 1.0 if first is None or self.version < first else share

    def _buffered(self, overlap: bool) -> bool:
        """Return whether the states of a running request are copied, so that steps can overlap."""
        if self.strategy == "auto":
            return self.version >= (0, 5, 15) and overlap
        return self.strategy != "no_buffer"

    def _states_each(self, rules: SglangRules, deployment: Deployment) -> int:
        """Return the state slots that SGLang reserves for a running request (``mamba_cache_ratio``)."""
        if not rules.radix:
            return 1
        if self.version < READ or not self._buffered(rules.overlap):
            return 3
        if self.version < (0, 5, 12):
            return 4 if deployment.parts.get("drafts") is not None else 5
        return 5 if rules.overlap and self.strategy != "extra_buffer_lazy" else 4

    def _slots(
        self, deployment: Deployment, cache: CacheSettings, each: int, most: int | None, ranks: int
    ) -> tuple[int, float]:
        """Return the state slots of a device and the states' memory that they take, including drafts."""
        speculation = deployment.parts.get("drafts")
        drafts = 0 if speculation is None else 1 + speculation.tokens
        beside = 1 + drafts / each  # a running request has one for every token that is verified
        if self.state_slots is not None:
            slots = self.state_slots // ranks
        elif each == 1 and most is not None:
            slots = most
        else:
            share = self.state_ratio / (1 + self.state_ratio)
            rooms = zip(deployment.memories(cache.memory_bytes), deployment.stages, strict=True)
            room = min(m.kv / held.state_bytes_per_sequence for m, held in rooms if held.state_bytes_per_sequence)
            if self.version < (0, 5, 12):  # those of drafts first
                room, beside = max(room - (most or DRAFT_RUNNING) * drafts, 0.0), 1.0
            slots = int(room * share / beside)
            if self.version < (0, 5, 12):
                return slots, slots + (most or DRAFT_RUNNING) * drafts
        return slots, slots * beside

    def _fraction(self, deployment: Deployment, total: float, chunk: int, ranks: int) -> float:
        """Return the share of device memory for weights and cache that SGLang chooses (`mem_fraction_static`)."""
        memory, devices = total / MIB, deployment.layout.all_devices
        if self.version < (0, 4, 10):
            share = next(x for least, x in EARLY_SHARES if devices >= least)
        else:
            early = self.version < (0, 5, 3)
            reserved = (
                self._reserved_early(deployment, memory, ranks)
                if early
                else self._reserved(deployment, memory, chunk, ranks)
            )
            share = round((memory - reserved) / memory, 3)
        share *= self._tower_share(deployment)
        longest = self.context or deployment.model.max_position or 0
        if not generation(deployment.system.device) and self.attention in ("", "aiter") and longest > 8192:
            share *= 0.85 if self.version >= (0, 4, 10) else 1.0
        return share

    def _reserved_early(self, deployment: Deployment, memory: float, ranks: int) -> float:
        """Return the memory that SGLang 0.4.10 to 0.5.2 keeps free [MiB]."""
        devices = deployment.layout.all_devices
        rows = ((160, 32.0), (90, 12 + devices / 2), (35, 9.5 + devices / 2), (0, 2.8 + devices / 10))
        reserved = GIB * next(gib for least, gib in rows if memory >= least * GIB)
        return reserved + 2048 * (deployment.parts.get("drafts") is not None) + 4096 * (ranks > 1)

    def _reserved(self, deployment: Deployment, memory: float, chunk: int, ranks: int) -> float:
        """Return the memory that SGLang keeps free since 0.5.3 [MiB]: activations, graphs, and a part per device."""
        devices = deployment.layout.all_devices
        top = self._top(deployment, memory * MIB)
        reserved = 512 + 1.5 * max(chunk, 2048) + 2 * top + GIB * devices / 8
        if ranks > 1:
            reserved += (4.5 if top > 300 else 3.0) * top * ranks
        elif (
            self.version >= (0, 5, 12)
            and generation(deployment.system.device)
            and deployment.layout.pp == 1
            and not self._sees(deployment)
        ):
            reserved += self._prompt_graphs(deployment, chunk)
        if memory > 60 * GIB:
            reserved = max(reserved, 10 * GIB)
        speculation = deployment.parts.get("drafts")
        if speculation is not None and not speculation.on_host and self.version < (0, 5, 15):
            reserved += 2048 if self.version < (0, 5, 12) else 4096
        return reserved

    def _top(self, deployment: Deployment, total: float) -> int:
        """Return the largest batch of decodes with a captured graph."""
        return self.graphs or since(GRAPHS, self.version, total / MIB / GIB)[deployment.layout.all_devices >= 4]

    def _pieces(self, deployment: Deployment, chunk: int, ranks: int) -> int:
        """Most tokens of a step of prompts that replays a graph in pieces (``_handle_piecewise_cuda_graph``, ``can_run_graph``)."""
        name, version = deployment.model.architecture, self.version
        later = (0, 5, 19) if ranks > 1 else (0, 5, 12)
        if (
            version < later
            or deployment.layout.pp > 1
            or name == V4
            or not generation(deployment.system.device)
            or self._sees(deployment)
        ):
            return 0
        if not any(isinstance(layer.mixer, LatentAttention) for layer in deployment.model.layers):
            return chunk
        if (0, 5, 15) <= version < (0, 5, 19) or (name in SPARSE and version < (0, 5, 15)):
            return 0
        return min(2048 if version < (0, 5, 23) else 8192, chunk)

    def _prompt_graphs(self, deployment: Deployment, chunk: int) -> float:
        """Return the memory of prompt graphs [MiB]: 8 per captured size, or a constant with latent attention."""
        if any(isinstance(layer.mixer, LatentAttention) for layer in deployment.model.layers):
            return (
                0.0
                if (0, 5, 15) <= self.version < (0, 5, 19) or deployment.model.architecture in (V4, *SPARSE)
                else 1536.0
            )
        steps = ((4, 4, 32), (48, 16, 256), (288, 32, 512), (576, 64, 1024), (1280, 256, 4096), (4608, 512, 1 << 20))
        return 8.0 * sum(max((min(last, chunk) - first) // step + 1, 0) for first, step, last in steps)

    @staticmethod
    def _sees(deployment: Deployment) -> bool:
        """Return whether a checkpoint has an image tower, judged by its architecture's class."""
        return deployment.model.tower is not None or deployment.model.architecture.endswith("ForConditionalGeneration")

    def _tower_share(self, deployment: Deployment) -> float:
        """Memory share that remains next to an image tower: smaller for a large tower (``adjust_mem_fraction_for_vlm``).

        SGLang knows two keys (`Tower.stated`); a file with others, as Qwen's ``depth``, counts as 24 layers or 1,024 wide.
        """
        if not self._sees(deployment):
            return 1.0
        tower = deployment.model.tower
        layers, width = (0, 0) if tower is None else tower.stated
        work = (layers or 24) * (width or 1024) ** 2 / (24 * 1024**2)
        return 0.95 * max(0.8, min(1.05, 1 - 0.1 * (work - 1)))
