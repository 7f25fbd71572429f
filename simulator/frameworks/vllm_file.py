"""Settings of a real serving engine, as its ``engine.json`` gives them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from ...workloads.errors import SpecError, nearest
from ...workloads.hf.json_file import read_json_object
from ...workloads.sampling import GREEDY, asked_sampling
from ..batching.host import Host
from ..batching.kv import BLOCK_TOKENS, CacheSettings
from ..batching.policies import POLICIES, Policy
from ..limits import MAX_SEQUENCES
from .settings import EngineSettings
from .vllm_rules import DEFAULT_VERSION, HARMLESS, ONLY, RULES, Rules, rules_of

DTYPES = {"auto": None, "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16",
          "fp16": "fp16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}  # fmt: skip
ENGINES = ("vllm",)
EXCHANGES = {"allgather_reducescatter": "gather", "naive": "gather"}
"""How vLLM's `all2all_backend` shares experts, where it is no all-to-all; the first is its default
(vllm/config/parallel.py; AgRsAll2AllManager in distributed/device_communicators/all2all.py)."""
KEYS = (
    "engine", "kv_cache", "hardware", "host", "tensor_parallel_size", "data_parallel_size",
    "pipeline_parallel_size", "enable_expert_parallel", "max_num_batched_tokens", "max_num_seqs",
    "max_model_len", "async_scheduling", "enforce_eager", "enable_prefix_caching", "dtype",
    "kv_cache_dtype", "all2all_backend", "num_gpu_blocks", "block_size", "gpu_memory_utilization",
    "device_total_memory_bytes", "device_name", "step_ms", "sequence_us", "launch_us", "request_ms", "version",
    "engine_version", "max_num_scheduled_tokens", "enable_chunked_prefill",
    "long_prefill_token_threshold", "scheduling_policy", "override_generation_config",
    "temperature", "top_p", "top_k", *ONLY,
)  # fmt: skip
"""Every key that is read, of the file and of its parts."""
D = TypeVar("D", int, None)
NULL_BLOCKS = 1
"""vLLM keeps one block of its pool as a placeholder (BlockPool.null_block)."""


def read_engine(path: str | Path) -> EngineSettings:
    """Read an ``engine.json`` (the form of LLMServingSim's validation runs).

    Keys that do not bear on time are ignored; those that do and are not simulated are refused.
    `EngineSettings.doubts` names those that look misspelt.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "engine.json"
    return engine_of(path, read_json_object(path))


def engine_of(path: Path, values: dict[str, Any]) -> EngineSettings:
    """The same from the object that the file holds."""
    keys = _Keys(path, values)
    engine = keys.text("engine", "vllm")
    if engine not in ENGINES:
        raise SpecError(path, f"engine: unknown engine {engine!r}{nearest(engine, ENGINES)}")
    rules = _rules(keys)
    keys.refuse_unsimulated()
    cache, hardware, host = map(keys.part, ("kv_cache", "hardware", "host"))
    tp = keys.count("tensor_parallel_size", 1)
    dp = keys.count("data_parallel_size", 1)
    blocks = cache.count("num_gpu_blocks", None)
    max_model_len = keys.count("max_model_len", None)
    return EngineSettings(
        policy=_policy(keys, cache, host, rules, max_model_len),
        cache=CacheSettings(
            cache.count("block_size", BLOCK_TOKENS),
            None if blocks is None else max(blocks - NULL_BLOCKS, 1),
        ),
        tp=tp,
        dp=dp,
        pp=keys.count("pipeline_parallel_size", 1),
        ep=tp * dp if keys.flag("enable_expert_parallel", False) else 1,
        max_model_len=max_model_len,
        dtype=keys.format("dtype"),
        kv_dtype=keys.format("kv_cache_dtype"),
        memory_share=cache.share("gpu_memory_utilization", rules.memory_share),
        memory_bytes=hardware.count("device_total_memory_bytes", None, 1 << 50),
        device_name=hardware.text("device_name", ""),
        given=True,
        exchange=EXCHANGES.get(
            keys.text("all2all_backend", "allgather_reducescatter"), "all_to_all"
        ),
        sampling=_sampling(keys),
        doubts=tuple(d for part in (keys, cache, hardware, host) for d in part.doubts()),
    )


def _sampling(keys: _Keys) -> str:
    """How requests are sampled: greedily unless the file says what its model's defaults become."""
    asked = keys.part("override_generation_config")
    if not asked.values:
        return GREEDY
    for key, low, high in (("temperature", 0.0, 1e3), ("top_p", 0.0, 1.0), ("top_k", -1.0, 1e9)):
        asked.number(key, low, high)
    return asked_sampling(asked.values)


def _rules(keys: _Keys) -> Rules:
    """What the version that the file names does."""
    key = "version" if "version" in keys.values else "engine_version"
    version = keys.text(key, DEFAULT_VERSION)
    rules = rules_of(version)
    if rules is None:
        newest = ".".join(map(str, RULES[-1].since))
        raise SpecError(
            keys.path, f"{key}: no version: {version!r}; needs one such as '0.19' or '{newest}'"
        )
    return rules


def _policy(
    keys: _Keys, cache: _Keys, host: _Keys, rules: Rules, max_model_len: int | None
) -> Policy:
    """The batching that the file asks for."""
    base = POLICIES["vllm"]
    order = keys.text("scheduling_policy", "fcfs")
    if order not in ("fcfs", "priority"):  # alike, as no request has a priority here
        known = nearest(order, ("fcfs", "priority"))
        raise SpecError(keys.path, f"scheduling_policy: unknown policy {order!r}{known}")
    tokens = keys.count("max_num_batched_tokens", base.token_budget)
    chunked = keys.flag("enable_chunked_prefill", base.chunked)
    if not chunked and max_model_len is not None and max_model_len > tokens:
        raise SpecError(
            keys.path, f"max_num_batched_tokens: must be at least max_model_len ({max_model_len}) "
            f"without enable_chunked_prefill, not {tokens}",
        )  # fmt: skip
    threshold = keys.count("long_prefill_token_threshold", 0, least=0)
    if threshold and not chunked:
        raise SpecError(keys.path, "long_prefill_token_threshold: needs enable_chunked_prefill")
    return replace(
        base,
        token_budget=keys.count("max_num_scheduled_tokens", tokens),
        max_sequences=keys.count("max_num_seqs", base.max_sequences, MAX_SEQUENCES),
        chunked=chunked,
        threshold=threshold,
        ahead=keys.flag("async_scheduling", base.ahead),
        graphs=not keys.flag("enforce_eager", not base.graphs),
        host=Host(
            host.seconds("step_ms", base.host.step_s, 1e-3),
            host.seconds("sequence_us", base.host.sequence_s, 1e-6),
            host.seconds("launch_us", base.host.launch_s, 1e-6),
            host.seconds("request_ms", base.host.request_s, 1e-3),
        ),
        caching=cache.flag("enable_prefix_caching", base.caching),
        bare_first=rules.bare_first,
        serial_stages=rules.serial_stages,
    )


@dataclass(frozen=True, slots=True)
class _Keys:
    """One object of the file, whose values are checked as they are read."""

    path: Path
    values: dict[str, Any]
    prefix: str = ""

    def doubts(self) -> list[str]:
        """Warnings about keys that are probably misspelt."""
        found = []
        for key in self.values:
            close = get_close_matches(key, KEYS, n=1, cutoff=0.85)
            if key not in KEYS and key not in HARMLESS and close:
                found.append(
                    f"{self.path}: {self.prefix}{key} is not read; did you mean {close[0]!r}?"
                )
        return found

    def _wrong(self, key: str, wanted: str) -> SpecError:
        return SpecError(
            self.path, f"{self.prefix}{key}: must be {wanted}, not {self.values[key]!r}"
        )

    def part(self, key: str) -> _Keys:
        found = self.values.get(key)
        if found is None:
            return _Keys(self.path, {}, f"{key}.")
        if not isinstance(found, dict):
            raise self._wrong(key, "an object")
        return _Keys(self.path, found, f"{key}.")

    def refuse_unsimulated(self) -> None:
        """Refuse settings that bear on time and have a value that is not simulated."""
        for key, (only, why) in ONLY.items():
            found = self.values.get(key)
            if found is not None and found != only:
                said = "left out" if only is None else json.dumps(only)
                raise SpecError(self.path, f"{self.prefix}{key}: must be {said}: {why}")

    def count(self, key: str, default: D, most: int = 2**31 - 1, least: int = 1) -> int | D:
        found = self.values.get(key)
        if found is None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
            raise self._wrong(key, f"a whole number in [{least}, {most}]")
        return found

    def flag(self, key: str, default: bool) -> bool:
        found = self.values.get(key)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise self._wrong(key, "true or false")
        return found

    def share(self, key: str, default: float) -> float:
        found = self.values.get(key, default)
        if not isinstance(found, (int, float)) or isinstance(found, bool) or not 0 < found <= 1:
            raise self._wrong(key, "a fraction in (0, 1]")
        return float(found)

    def seconds(self, key: str, default: float, unit: float) -> float:
        """A time that the file gives in units of `unit` seconds."""
        found = self.values.get(key)
        if found is None:
            return default
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        if not number or not 0 <= found <= 1e9:
            raise self._wrong(key, "a number in [0, 1e9]")
        return float(found) * unit

    def number(self, key: str, least: float, most: float) -> None:
        """Refuse a value, where there is one, that is no number in a range."""
        found = self.values.get(key)
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        if found is not None and not (number and least <= found <= most):
            raise self._wrong(key, f"a number in [{least:g}, {most:g}]")

    def text(self, key: str, default: str) -> str:
        found = self.values.get(key, default)
        if not isinstance(found, str):
            raise self._wrong(key, "a text")
        return found

    def format(self, key: str) -> str | None:
        name = self.text(key, "auto")
        if name not in DTYPES:
            raise SpecError(
                self.path, f"{self.prefix}{key}: unknown format {name!r}{nearest(name, DTYPES)}"
            )
        return DTYPES[name]
