"""Settings of a real serving engine, as its ``engine.json`` gives them.

Settings of TensorRT-LLM, as an ``engine.json`` gives them: the names of its LLM arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...workloads.errors import SpecError, nearest
from ...workloads.hf.json_file import read_json_object
from ..engine.kv import CacheSettings
from ..engine.policies import Policy
from ..limits import MAX_SEQUENCES
from ..parts.tensorrt_llm.rules import TRTLLM, TrtllmRules, of_trtllm
from . import sglang_file, vllm_file
from .engines import TRTLLM_BLOCK, TRTLLM_SHARE, upkeep_of
from .keys import Keys, host_of, listed, told, version_doubts, version_of
from .settings import EngineSettings

POLICIES = ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION")


def trtllm_settings(keys: Keys) -> EngineSettings:
    """Return the engine settings of a TensorRT-LLM file.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    doubts, upkeep = version_doubts(keys, "trtllm", "1.2"), upkeep_of("trtllm", version_of(keys, "1.2"))
    cache, scheduler = keys.part("kv_cache_config"), keys.part("scheduler_config")
    even, hardware, host = map(keys.part, ("attention_dp_config", "hardware", "host"))
    for part, section in ((keys, ""), (cache, "kv_cache_config"), (scheduler, "scheduler_config")):
        part.refuse_unsimulated("tensorrt-llm", section)
    tp, apart = keys.count("tensor_parallel_size", 1), keys.flag("enable_attention_dp", False)
    block = cache.count("tokens_per_block", TRTLLM_BLOCK)
    policy = _policy(keys, cache, scheduler, even, block)
    total = cache.count("max_tokens", None)
    parts = (keys, cache, scheduler, even, hardware, host)
    return EngineSettings(
        policy=replace(policy, host=host_of(host, upkeep.on(policy.host, 1 if apart else tp))),
        cache=CacheSettings(block, None if total is None else max(-(-total // block), 1)),
        tp=1 if apart else tp,
        dp=tp if apart else 1,
        pp=keys.count("pipeline_parallel_size", 1),
        ep=keys.count("moe_expert_parallel_size", 1),
        **told(keys, "max_seq_len", cache, "dtype"),
        left_share=cache.share("free_gpu_memory_fraction", TRTLLM_SHARE),
        engine="tensorrt-llm",
        exchange="gather",
        doubts=(*doubts, *(d for part in parts for d in part.doubts("tensorrt-llm"))),
    )


def _policy(keys: Keys, cache: Keys, scheduler: Keys, even: Keys, block: int) -> Policy:
    """Return the batching policy that the file sets."""
    defaults = TrtllmRules()
    tokens = keys.count("max_num_tokens", defaults.max_num_tokens)
    chunked = keys.flag("enable_chunked_prefill", defaults.chunked)
    if chunked and tokens < block:
        raise SpecError(
            keys.path,
            f"max_num_tokens: must be at least tokens_per_block ({block}) with enable_chunked_prefill, not {tokens}",
        )
    ratio = keys.real("batch_wait_max_tokens_ratio", 0.0, 0.0, 1.0)
    rules = TrtllmRules(
        max_num_tokens=tokens, chunked=chunked, reuse=cache.flag("enable_block_reuse", defaults.reuse),
        evicts=scheduler.one_of("capacity_scheduler_policy", POLICIES[0], POLICIES) == POLICIES[1],
        overlap=not keys.flag("disable_overlap_scheduler", False),
        wait_steps=keys.count("batch_wait_timeout_iters", 0, least=0), wait_tokens=int(ratio * tokens),
        even=even.flag("enable_balance", False), even_steps=even.count("timeout_iters", defaults.even_steps),
        even_batches=even.count("batching_wait_iters", defaults.even_batches, least=0),
    )  # fmt: skip
    policy = of_trtllm(rules, keys.count("max_batch_size", TRTLLM.max_sequences, MAX_SEQUENCES))
    return policy if version_of(keys, "1.2") < (1, 0) else _with_graphs(keys, policy)


def _with_graphs(keys: Keys, policy: Policy) -> Policy:
    """Return the policy with the batches of decodes that run as captured graphs; others run eagerly.

    By default the largest has 128 decodes (`CudaGraphConfig` in tensorrt_llm/llmapi/llm_args.py). Without `enable_padding`
    a batch must have the size of a graph (`_get_padded_batch` in _torch/pyexecutor/model_engine.py, 1.0). Of `batch_sizes`
    the largest counts.
    """
    graphs, eager = keys.part("cuda_graph_config"), keys.values.get("cuda_graph_config", keys) is None
    sizes = graphs.values.get("batch_sizes") or [graphs.count("max_batch_size", 128)]
    if not (isinstance(sizes, list) and all(type(x) is int and x > 0 for x in sizes)):
        raise graphs.wrong("batch_sizes", "a list of whole numbers above 0")
    return replace(policy, largest=max(sizes), exact=not graphs.flag("enable_padding", False), eager=eager)


ENGINES: Mapping[str, Callable[[Keys], EngineSettings]] = {
    "vllm": vllm_file.vllm_settings,
    "sglang": sglang_file.sglang_settings,
    "tensorrt-llm": trtllm_settings,
}
"""Reader of an engine file by the value of its key `engine`; the first is used if the key is missing."""

KEYS: Mapping[str, tuple[tuple[str, ...], Mapping[str, tuple[Any, str]]]] = {
    engine: (
        listed(engine).keys,
        {key: setting for section in listed(engine).only.values() for key, setting in section.items()},
    )
    for engine in ENGINES
}
"""Keys that are read, and the keys of which only one value is accepted, by engine."""


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
    if str(path) in ENGINES and not path.exists():
        raise SpecError(path, f"is not a file of an engine's arguments (JSON); --policy {path} takes its scheduler")
    return engine_of(path, read_json_object(path))


def engine_of(path: Path, values: dict[str, Any]) -> EngineSettings:
    """Return the engine settings of the object that an engine file holds."""
    keys = Keys(path, values)
    engine = keys.text("engine", next(iter(ENGINES)))
    if engine not in ENGINES:
        raise SpecError(path, f"engine: unknown engine {engine!r}{nearest(engine, ENGINES)}")
    framework = values.get("framework")
    if framework is not None and not isinstance(framework, str):
        raise SpecError(path, f"framework: must be a name such as 'vllm', not {framework!r}")
    version = keys.text("version", keys.text("engine_version", ""))
    return replace(ENGINES[engine](keys), framework=framework, version=version)
