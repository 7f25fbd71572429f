"""A training step by a framework's own file: a configuration of Megatron-Bridge (YAML or JSON), or a job of torchtitan (TOML)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...devices.spec import SystemSpec
from ...simulator.scenario.load import load
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.yamlfile import read_yaml
from .train import Training, train
from .train_search import fastest_training

Read = Callable[[Any], Any]


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _layout(value: Any) -> str:
    """A layout string, or Megatron's list of lists of names as one."""
    if isinstance(value, str):
        return value
    try:
        return "|".join("".join(LETTERS[name] for name in chunk) for chunk in value)
    except (TypeError, KeyError):
        raise ValueError(f"a layout string, or lists of {', '.join(LETTERS)}") from None


LETTERS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}


def _precision(value: Any) -> str | None:
    """Format of the matmuls, of a recipe's name (``bf16_with_mxfp8_mixed``) or of its settings."""
    if isinstance(value, Mapping):
        value = f"{value.get('fp4') and 'nvfp4'} {value.get('fp8') and value.get('fp8_recipe', 'delayed')}"
    return next((name for key, name in FORMATS.items() if key in str(value)), "bf16")


FORMATS = {
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "subchannel": "fp8_block",
    "blockwise": "fp8_block",
    "current": "fp8",
    "delayed": "fp8",
    "tensorwise": "fp8",
}
"""What names a format in Megatron-Bridge's `mixed_precision` and `fp8_recipe`, in this order."""
SHARDED = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
"""ZeRO stage of Megatron-FSDP's `data_parallel_sharding_strategy`."""

MEGATRON: Mapping[str, tuple[str, Read]] = {
    "model.tensor_model_parallel_size": ("tp", _count),
    "model.pipeline_model_parallel_size": ("pp", _count),
    "model.virtual_pipeline_model_parallel_size": ("interleave", _count),
    "model.context_parallel_size": ("cp", _count),
    "model.expert_model_parallel_size": ("ep", _count),
    "model.sequence_parallel": ("sequence_parallel", _flag),
    "model.pipeline_model_parallel_layout": ("pipeline_layout", _layout),
    "model.mtp_num_layers": ("mtp", _count),
    "model.seq_length": ("seq", _count),
    "dataset.sequence_length": ("seq", _count),
    "train.global_batch_size": ("batch", _count),
    "train.micro_batch_size": ("micro_batch", _count),
    "comm_overlap.tp_comm_overlap": ("overlap_tp", _flag),
    "comm_overlap.overlap_moe_expert_parallel_comm": ("overlap_experts", _flag),
    "model.overlap_moe_expert_parallel_comm": ("overlap_experts", _flag),
    "mixed_precision": ("dtype", _precision),
    "ddp.data_parallel_sharding_strategy": ("zero", lambda name: SHARDED.get(name, 3)),
    "ddp.use_distributed_optimizer": ("zero", lambda on: int(_flag(on))),
}
"""Keys of Megatron-Bridge's configuration (src/megatron/bridge/training/config.py) that bear on a step, and the option of `train` that each is; a
strategy of sharding comes before the distributed optimizer."""
TITAN: Mapping[str, tuple[str, Read]] = {
    "training.seq_len": ("seq", _count),
    "training.global_batch_size": ("batch", _count),
    "parallelism.tensor_parallel_degree": ("tp", _count),
    "parallelism.pipeline_parallel_degree": ("pp", _count),
    "parallelism.context_parallel_degree": ("cp", _count),
    "parallelism.expert_parallel_degree": ("ep", _count),
    "parallelism.enable_async_tensor_parallel": ("overlap_tp", _flag),
    "parallelism.data_parallel_shard_degree": ("zero", lambda n: 0 if n == 1 else 3),
    "activation_checkpoint.mode": (
        "recompute",
        lambda mode: {"selective": "layernorm,mlp", "memory_budget": "auto"}.get(mode, mode),
    ),
}
"""The same of torchtitan's job files (torchtitan/config). Its selective checkpoints keep every second product: nearest are norms and dense blocks."""


def read_recipe(path: str | Path) -> tuple[dict[str, Any], int | None]:
    """Options of `train` from a framework's file, and the local batch of torchtitan, whose global one is local times ranks of data.

    Raises
    ------
    InputError
        A file that is neither of the two.
    """
    where = Path(path)
    try:
        text = where.read_bytes().decode("utf-8")
        loads = {".toml": tomllib.loads, ".json": json.loads}.get(where.suffix)
        raw = read_yaml(where) if loads is None else loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"--recipe {where}", f"cannot be read: {error}") from None
    titan = isinstance(raw, Mapping) and "parallelism" in raw
    if not isinstance(raw, Mapping) or not (titan or isinstance(raw.get("model"), Mapping)):
        raise InputError(
            f"--recipe {where}", "must have the block `model` of Megatron-Bridge or `parallelism` of torchtitan"
        )
    options: dict[str, Any] = {}
    for key, (name, read) in (TITAN if titan else MEGATRON).items():
        value = _at(raw, key)
        if value is not None:
            try:
                options.setdefault(name, read(value))
            except (TypeError, ValueError) as error:
                raise InputError(f"{where}: {key}", f"must be {error}, not {value!r}") from None
    if not titan:
        return options | _recomputed(raw["model"]) | _graphs(raw["model"]), None
    if "float8" in str(_at(raw, "model.converters")):
        options["dtype"] = "fp8"
    local = _at(raw, "training.local_batch_size")
    piece = _at(raw, "parallelism.pipeline_parallel_microbatch_size") or 1
    options["micro_batch"] = piece if options.get("pp", 1) > 1 else local or 1
    return options, None if options.get("batch", -1) > 0 else int(local or 1)


def _at(raw: Mapping[str, Any], key: str) -> Any:
    """Value at a path of keys; None without."""
    value: Any = raw
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _recomputed(model: Mapping[str, Any]) -> dict[str, Any]:
    """Recomputation as Megatron says it."""
    granularity, modules = model.get("recompute_granularity"), model.get("recompute_modules")
    if granularity == "full":
        layers = model.get("recompute_num_layers") if model.get("recompute_method") == "block" else None
        return {"recompute": f"full:{layers}" if layers else "full"}
    if granularity == "selective":
        return {"recompute": ",".join(["core_attn"] if modules is None else map(str, modules)) or "none"}
    return {"recompute": "none"}


def _graphs(model: Mapping[str, Any]) -> dict[str, Any]:
    """CUDA graphs as Megatron says them."""
    kind, scope = model.get("cuda_graph_impl") or "none", model.get("cuda_graph_scope")
    if kind == "none":
        return {"graphs": "none"}
    return {"graphs": "full" if kind == "local" or "full" in str(scope) else "partial"}


def train_recipe(
    model: str | Path | ModelSpec,
    system: str | Path | SystemSpec,
    recipe: str | Path,
    *,
    search: bool = False,
    **options: Any,
) -> Training:
    """Cost one training step by a framework's file; options that are given stand before it.

    Parameters
    ----------
    recipe : str or Path
        Configuration of Megatron-Bridge (``.yaml``, ``.json``) or job file of torchtitan (``.toml``).
    search : bool
        Whether what the file leaves open is searched (`fastest_training`).
    """
    known, local = read_recipe(recipe)
    known |= options
    if local is not None and "batch" not in options:
        where = load(model, system)[1]
        degrees = known.get("tp", 1) * known.get("pp", 1) * known.get("cp", 1)
        known["batch"] = max(where.groups // degrees, 1) * local
    known = {name: value for name, value in known.items() if value is not None}
    return (fastest_training if search else train)(model, system, **known)
