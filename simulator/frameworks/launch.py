"""How an engine is started: its settings as a file that `engine_file` reads, and as a command line.

Both say the same in the engine's own names (sources: the modules that read the files). What the file
cannot say is left to options.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...workloads.errors import InputError
from .hub import checkpoint_of
from .launch_sharing import sharing_values, unsaid
from .sharing import NOTHING, Sharing


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
        """Options that an engine has no key for."""
        return unsaid(engine, self.sharing, self.tp, self.dp, self.ep)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is an engine's default anyway."""
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
    }  # fmt: skip


FILES: Mapping[str, Callable[[Start], dict[str, Any]]] = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm}
"""What writes an engine's file, by the name in its key `engine`."""


def engine_values(engine: str, start: Start) -> dict[str, Any]:
    """The object of an ``engine.json``, see `engine_file.read_engine`.

    Raises
    ------
    InputError
        A layout that the engine cannot be started with.
    """
    values = _given(FILES[engine](start))
    return values | sharing_values(engine, start.sharing, start.tp, start.dp, start.ep)


@dataclass(frozen=True, slots=True)
class Room:
    """What an engine makes room for, as a simulation had it.

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
    """

    own: str = "bf16"
    longest: int | None = None
    sequences: int | None = None
    share: float | None = None


ROOMS = {
    "vllm": ("max_model_len", "max_num_seqs", "gpu_memory_utilization"),
    "sglang": ("context_length", "max_running_requests", "mem_fraction_static"),
    "tensorrt-llm": ("max_seq_len", "max_batch_size", "kv_cache_free_gpu_memory_fraction"),
}
"""An engine's names of what `Room` says."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What starts a copy of an engine, as words and as its own keys."""

    model: str  # checkpoint that is loaded
    words: tuple[str, ...]  # program and arguments; for TensorRT-LLM without those of `file`
    file: Mapping[str, Any]  # keys of TensorRT-LLM's file of options
    keys: Mapping[str, Any]  # the same as keys of the engine's own, all of them


def launch_of(engine: str, model: str, values: Mapping[str, Any], room: Room | None = None) -> Launch:
    """What starts a copy of an engine with the settings of `engine_values`.

    Raises
    ------
    InputError
        No checkpoint of the model in its format is known, and the engine makes none.
    """
    room = room or Room()
    options = {key: x for key, x in values.items() if key not in ("engine", "framework")}
    weights = options.pop("dtype", None)
    loaded, made = checkpoint_of(engine, model, weights, room.own)
    if made:  # weights are quantised; --dtype is of activations
        options["quantization"] = weights
    elif weights in SIXTEEN and weights != room.own:
        options["dtype"] = SIXTEEN[weights]
    sizes = zip(ROOMS[engine], (room.longest, room.sequences, room.share), strict=True)
    options |= {key: x for key, x in sizes if x is not None and key not in options}
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
    """The same as a line of a shell.

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
    "kv_cache_free_gpu_memory_fraction": "kv_cache_free_gpu_memory_fraction",
}  # fmt: skip
"""Keys that ``trtllm-serve`` takes as options; all others are in its options file."""


def _yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(x)}" for key, x in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
