"""How an engine is started: its settings as a file that `engine_file` reads, and as a command line.

Both say the same in the engine's own names (sources: the modules that read the files). What the file
cannot say is left to options, and named by `unsaid`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...workloads.catalog import HUB, OWN_CODE, catalog_entry
from ...workloads.errors import InputError
from ...workloads.yamlfile import read_yaml
from ..parts.overlap.gates import GateRule, gate_of
from .sglang_file import DISPATCHES, MODES
from .sharing import NOTHING, SHARING, Sharing
from .vllm_file import EXCHANGES

MADE = {"vllm": ("fp8",), "sglang": ("fp8",), "tensorrt-llm": ("fp8",)}
"""Formats to which an engine can quantise 16-bit weights when it loads them."""

MODELOPT = "nvidia/"
"""Publisher of ModelOpt's checkpoints, which vLLM does not load on ROCm (`RocmPlatform.supported_quantization`, vllm/platforms/rocm.py)."""


def checkpoint_of(engine: str, model: str, dtype: str | None, own: str, modelopt: bool = True) -> tuple[str, bool]:
    """Return the checkpoint of a format, and whether the engine must quantise it.

    Parameters
    ----------
    dtype : str or None
        Format that is asked for; None = the checkpoint's own.
    own : str
        Format of the model's own checkpoint.
    modelopt : bool
        Whether the engine loads checkpoints of NVIDIA's ModelOpt on the device.

    Raises
    ------
    InputError
        No such checkpoint is known, and the engine makes none.

    Examples
    --------
    >>> checkpoint_of("vllm", "Qwen/Qwen3-32B", "fp8_block", "bf16")
    ('Qwen/Qwen3-32B-FP8', False)
    >>> checkpoint_of("vllm", "org/m", "fp8", "bf16"), checkpoint_of("vllm", "org/m", None, "mxfp4")
    (('org/m', True), ('org/m', False))
    """
    listed = read_yaml(HUB).items()
    known: dict[str, str] = next((x for name, x in listed if name.lower() == model.lower()), {})
    if dtype is None or dtype == own or (dtype in ("bf16", "fp16") and dtype not in known):
        return model, False
    if dtype in known and (modelopt or not known[dtype].startswith(MODELOPT)):
        return known[dtype], False
    if dtype in MADE[engine] and own in ("bf16", "fp16"):
        return model, True
    raise InputError(
        f"--dtype {dtype}", f"no checkpoint of {model} in this format is known, and {engine} cannot quantise while it "
        "loads; give the folder of a quantised one",
    )  # fmt: skip


def over_nodes(engine: str, keys: Mapping[str, Any], nodes: int) -> str:
    """Return what the start line of each node adds if a replica has several; empty for one.

    Sources: the `ParallelConfig` of vLLM and the `ServerArgs` of SGLang; docs of TensorRT-LLM, `trtllm-llmapi-launch`.

    Examples
    --------
    >>> over_nodes("vllm", {"data_parallel_size": 16}, 2)
    '--data-parallel-size-local 8 --data-parallel-start-rank 8*K --data-parallel-address HOST, and --headless for K > 0'
    >>> over_nodes("sglang", {}, 2), over_nodes("sglang", {}, 1)
    ('--nnodes 2 --node-rank K --dist-init-addr HOST:PORT', '')
    """
    ranks = keys.get("data_parallel_size", 1)
    if nodes == 1 or engine == "tensorrt-llm":
        return "" if nodes == 1 else "trtllm-llmapi-launch before it, under mpirun or srun with a rank for each device"
    if engine == "sglang":
        return f"--nnodes {nodes} --node-rank K --dist-init-addr HOST:PORT"
    if ranks % nodes:
        return f"--nnodes {nodes} --node-rank K --master-addr HOST, and --headless for K > 0"
    first = f"{ranks // nodes}*K".removeprefix("1*")
    at = f"--data-parallel-size-local {ranks // nodes} --data-parallel-start-rank {first} --data-parallel-address HOST"
    return f"{at}, and --headless for K > 0"


def hub_name(model: str) -> str:
    """Return the name of a model's checkpoint on its hub: the requested name, or the first known one."""
    if "/" in model:
        return model
    entry = catalog_entry(model)
    hubs = [name for name in entry.aliases if "/" in name] if entry else []
    short = model.lower()
    return next((n for n in hubs if n.rpartition("/")[2].lower().startswith(short)), (*hubs, model)[0])


@dataclass(frozen=True, slots=True)
class Start:
    """Placement of one replica of an engine on its devices, and the limits of a step.

    Attributes
    ----------
    tp, dp, ep, pp : int
        Degrees as `simulator.deploy.layout` counts them: `tp` devices of a rank, `dp` ranks.
    tokens : int or None
        Token budget of a step; the engine's default without.
    dtype, kv_dtype : str or None
        Formats of linear weights and of the cache; None = the checkpoint's own.
    sharing : Sharing
        How ranks share experts.
    """

    tp: int
    dp: int = 1
    ep: int = 1
    pp: int = 1
    tokens: int | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    sharing: Sharing = NOTHING

    def unsaid(self, engine: str) -> list[str]:
        """Return the options that the engine has no key for."""
        return unsaid(engine, self.sharing, self.tp, self.dp, self.ep)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those that are the engine's defaults."""
    return {
        key: x for key, x in values.items() if x is True or (x not in (None, 1) and x is not False) or key == "engine"
    }


def _vllm(start: Start) -> dict[str, Any]:
    if start.ep not in (1, start.tp * start.dp):
        raise InputError("--ep", f"vLLM distributes experts to all {start.tp * start.dp} devices or to none")
    return {
        "engine": "vllm", "tensor_parallel_size": start.tp, "data_parallel_size": start.dp,
        "pipeline_parallel_size": start.pp, "enable_expert_parallel": start.ep > 1,
        "max_num_batched_tokens": start.tokens, "dtype": start.dtype,
        "kv_cache_dtype": start.kv_dtype,
    }  # fmt: skip


def _sglang(start: Start) -> dict[str, Any]:
    apart = start.dp > 1
    return {
        "engine": "sglang", "tp_size": start.tp * start.dp, "dp_size": start.dp, "enable_dp_attention": apart,
        "ep_size": start.ep, "pp_size": start.pp, "chunked_prefill_size": start.tokens,
        "dtype": start.dtype, "kv_cache_dtype": start.kv_dtype,
    }  # fmt: skip


def _trtllm(start: Start) -> dict[str, Any]:
    if start.dp > 1 and start.tp > 1:
        raise InputError("--dp", f"TensorRT-LLM's ranks have one device each, not {start.tp}")
    kv = start.kv_dtype
    return {
        "engine": "tensorrt-llm", "tensor_parallel_size": start.tp * start.dp,
        "enable_attention_dp": start.dp > 1, "moe_expert_parallel_size": start.ep,
        "pipeline_parallel_size": start.pp, "max_num_tokens": start.tokens, "dtype": start.dtype,
        "kv_cache_config": None if kv is None else {"dtype": kv},
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": 2048},  # all batches: 2,048 is the limit's default
    }  # fmt: skip


FILES: Mapping[str, Callable[[Start], dict[str, Any]]] = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm}
"""Functions that return the content of an engine's file, by the value of its key `engine`."""


VERSIONS = {"vllm": "0.20.2", "sglang": "0.5.9", "tensorrt-llm": "1.2.0"}
"""Versions of the engines for which the written options were checked."""


def engine_values(engine: str, start: Start) -> dict[str, Any]:
    """Return the content of an ``engine.json``, see `engine_file.read_engine`.

    Raises
    ------
    InputError
        A layout that the engine cannot be started with.
    """
    values = _given(FILES[engine](start)) | {"version": VERSIONS[engine]}
    return values | sharing_values(engine, start.sharing, start.tp, start.dp, start.ep)


@dataclass(frozen=True, slots=True)
class Room:
    """Limits of lengths, sequences and memory that an engine is started with, as in the simulation.

    Attributes
    ----------
    own : str
        Number format of the model's own checkpoint.
    longest : int or None
        Prompt and output of the longest request [tokens].
    sequences : int or None
        Requests at once.
    share : float or None
        Part of a device's memory for weights and cache, or of what weights leave of it, as the engine counts.
    modelopt : bool
        Whether the device is NVIDIA's, see `checkpoint_of`.
    whose : str
        Checkpoint whose code a folder of weights carries, if it is not the one that is named.
    """

    own: str = "bf16"
    longest: int | None = None
    sequences: int | None = None
    share: float | None = None
    modelopt: bool = True
    whose: str = ""


ROOMS = {
    "vllm": ("max_model_len", "max_num_seqs", "gpu_memory_utilization"),
    "sglang": ("context_length", "max_running_requests", "mem_fraction_static"),
    "tensorrt-llm": ("max_seq_len", "max_batch_size", "kv_cache_free_gpu_memory_fraction"),
}
"""An engine's keys for the fields of `Room`."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The start of an engine's copy, as command-line words and as the engine's own keys."""

    model: str  # checkpoint that is loaded
    words: tuple[str, ...]  # program and arguments; for TensorRT-LLM without those of `file`
    file: Mapping[str, Any]  # keys of TensorRT-LLM's file of options
    keys: Mapping[str, Any]  # the same as keys of the engine's own, all of them


def launch_of(engine: str, model: str, values: Mapping[str, Any], room: Room | None = None) -> Launch:
    """Return the command that starts an engine with the settings of `engine_values`.

    Raises
    ------
    InputError
        No checkpoint of the model in its format is known, and the engine makes none.
    """
    room = room or Room()
    options = {key: x for key, x in values.items() if key not in ("engine", "version", "framework")}
    weights = options.pop("dtype", None)
    loaded, made = checkpoint_of(engine, model, weights, room.own, room.modelopt)
    if made:  # weights are quantised; --dtype is of activations
        options["quantization"] = weights
    elif weights in SIXTEEN and weights != room.own:
        options["dtype"] = SIXTEEN[weights]
    sizes = zip(ROOMS[engine], (room.longest, room.sequences, room.share), strict=True)
    options |= {key: x for key, x in sizes if x is not None and key not in options}
    if (room.whose or model).startswith(tuple(read_yaml(OWN_CODE))):
        options["trust_remote_code"] = True
    rest: dict[str, Any] = {}
    if engine == "tensorrt-llm":
        if "quantization" in options:  # of the LLM API's `LlmArgs`
            options["quant_config"] = {"quant_algo": str(options.pop("quantization")).upper()}
        rest = {key: x for key, x in options.items() if key not in TRTLLM_FLAGS}
        flags = {TRTLLM_FLAGS[key]: x for key, x in options.items() if key in TRTLLM_FLAGS}
        words = ["trtllm-serve", loaded, *_flags(flags, "_")]
    elif engine == "sglang":
        if options.get("kv_cache_dtype") == "fp8":
            options["kv_cache_dtype"] = "fp8_e4m3"
        start = ["python", "-m", "sglang.launch_server", "--model-path", loaded]
        words = [*start, *_flags(options, "-")]
    else:
        words = ["vllm", "serve", loaded, *_flags(options, "-")]
    return Launch(loaded, tuple(words), rest, options)


def command_line(engine: str, model: str, values: Mapping[str, Any], room: Room | None = None) -> str:
    """Return the start command as one line for a shell.

    Examples
    --------
    >>> command_line("vllm", "org/m", engine_values("vllm", Start(4, ep=4)))
    'vllm serve org/m --tensor-parallel-size 4 --enable-expert-parallel'
    """
    launch = launch_of(engine, model, values, room)
    line = shlex.join(launch.words)
    if not launch.file:
        return line
    text = ", ".join(f"{key}: {_yaml(x)}" for key, x in launch.file.items())
    return f"{line} --extra_llm_api_options FILE  # its content: {{{text}}}"


SIXTEEN = {"bf16": "bfloat16", "fp16": "float16"}


def _flags(values: Mapping[str, Any], between: str) -> list[str]:
    out: list[str] = []
    for key, x in values.items():
        out.append("--" + key.replace("_", between))
        if x is not True:
            out.append(json.dumps(x) if isinstance(x, Mapping) else str(x))
    return out


TRTLLM_FLAGS = {
    "tensor_parallel_size": "tp_size", "pipeline_parallel_size": "pp_size",
    "moe_expert_parallel_size": "ep_size", "max_num_tokens": "max_num_tokens",
    "max_seq_len": "max_seq_len", "max_batch_size": "max_batch_size",
    "kv_cache_free_gpu_memory_fraction": "kv_cache_free_gpu_memory_fraction", "trust_remote_code": "trust_remote_code",
}  # fmt: skip
"""Keys that ``trtllm-serve`` takes as options; all others are in its options file."""


def _yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(x)}" for key, x in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


EPLB = {"eplb": "auto", "balanced": "deepseek", "balanced-by-node": "deepseek_hierarchical"}
"""Placement options for the values of SGLang's `eplb_algorithm`."""

Written = tuple[dict[str, Any], frozenset[str]]
"""Keys of a file with their values, and the options that these keys express."""


def _vllm_sharing(sharing: Sharing, dp: int) -> Written:
    """Return the vLLM keys of the exchange and placement of experts, and the options that they express."""
    values, said = dict[str, Any](), set[str]()
    backend = next((k for k, v in EXCHANGES.items() if v is not None and v == sharing.all_to_all), None)
    if backend is not None and dp > 1:
        values["all2all_backend"] = backend
        said.add("all_to_all")
    gate = gate_of(sharing.overlap or "")
    if backend is not None and dp > 1 and gate is not None and gate.rule == GateRule.AT_LEAST:
        values |= {
            "enable_dbo": True, "dbo_decode_token_threshold": gate.decodes,
            "dbo_prefill_token_threshold": gate.prompts,
        }  # fmt: skip
        said.add("overlap")
    placed = sharing.expert_placement or ("balanced" if sharing.redundant_experts is not None else None)
    if placed in EPLB:
        values |= {"enable_eplb": True, "eplb_config": {"num_redundant_experts": sharing.redundant_experts or 0}}
        said.add("redundant_experts")
        if placed == "eplb":  # vLLM chooses between the other two by itself
            said.add("expert_placement")
    elif placed == "round-robin" and not sharing.redundant_experts:
        values["expert_placement_strategy"] = "round_robin"
        said |= {"expert_placement", "redundant_experts"}
    return values, frozenset({*said, *(["expert_dispatch"] if sharing.expert_dispatch == "any" else [])})


def _sglang_sharing(sharing: Sharing, dp: int) -> Written:
    """Return the SGLang keys of the exchange and placement of experts, and the options that they express."""
    values, said = dict[str, Any](), set[str]()
    mode = next((k for k, v in MODES.items() if v == sharing.all_to_all), None)
    sends = mode is not None and dp > 1
    if sends:
        values |= {"moe_a2a_backend": "deepep", "deepep_mode": mode}
        said.add("all_to_all")
    gate = gate_of(sharing.overlap or "")
    rule = GateRule.DECODING if mode == "low_latency" else GateRule.ALIKE
    if sends and gate is not None and gate.rule == rule:
        values["enable_two_batch_overlap"] = True
        said.add("overlap")
    placed = sharing.expert_placement or ("balanced" if sharing.redundant_experts is not None else None)
    if placed in EPLB:
        values |= {"enable_eplb": True, "eplb_algorithm": EPLB[placed]}
    if placed in EPLB or (placed == "wrapped" and sharing.redundant_experts):
        rule_ = next(k for k, v in DISPATCHES.items() if v == (sharing.expert_dispatch or "any"))
        values |= {"ep_num_redundant_experts": sharing.redundant_experts or 0, "ep_dispatch_algorithm": rule_}
        said |= {"expert_placement", "redundant_experts", "expert_dispatch"}
    return values, frozenset(said)


WRITERS: Mapping[str, Callable[[Sharing, int], Written]] = {"vllm": _vllm_sharing, "sglang": _sglang_sharing}
"""Functions that write the keys of `Sharing`, by engine."""


def sharing_values(engine: str, sharing: Sharing, tp: int, dp: int, ep: int) -> dict[str, Any]:
    """Return the keys of an engine's file that express the options `sharing`, as far as it has such keys."""
    return _written(engine, sharing, tp, dp, ep)[0]


def unsaid(engine: str, sharing: Sharing, tp: int, dp: int, ep: int) -> list[str]:
    """Return the options of `sharing` that an engine has no key for, as they are written on a command line."""
    said = _written(engine, sharing, tp, dp, ep)[1]
    given = ((name, getattr(sharing, name)) for name in SHARING)
    return [f"--{n.replace('_', '-')} {value}" for n, value in given if value is not None and n not in said]


def _written(engine: str, sharing: Sharing, tp: int, dp: int, ep: int) -> Written:
    """Return the keys and the expressed options; if SGLang lacks a key for the dispatch, both omit redundant experts."""
    if replace(sharing, keys=()) == NOTHING or ep == 1 or engine not in WRITERS:
        return {}, frozenset()
    if ep != tp * dp:  # tokens are sent among all devices or not at all
        dp = 1
    if engine == "sglang" and sharing.expert_dispatch == "node":
        bare = replace(sharing, expert_placement=None, redundant_experts=None, expert_dispatch=None)
        return _sglang_sharing(bare, dp)
    return WRITERS[engine](sharing, dp)
