"""Training step from a framework's file: a Megatron-Bridge configuration (YAML, JSON) or a torchtitan job (TOML). Search for the fastest step."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.collectives.plans import BY_COST
from ...devices.spec import SystemSpec
from ...simulator.frameworks.keys import Keys, listed
from ...simulator.frameworks.sharing import refuse_unknown
from ...simulator.scenario.load import load
from ...workloads.errors import CapacityError, InputError
from ...workloads.hf.json_file import read_json_object
from ...workloads.model import ModelSpec
from ...workloads.training import ALTERNATE
from ...workloads.yamlfile import read_yaml
from ..parallel.study import Study
from .train import Training, train

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import TrainKeywords


STAGES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of pipeline stages that are tried."""
MICRO_BATCHES = (1, 2, 4)
SHOWN = 5
"""Number of candidates printed."""
CHOICES = ("tp", "pp", "ep", "micro_batch", "recompute")
"""Options that are searched unless their values are given."""


def fastest_training(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, **options: Unpack[TrainKeywords]
) -> Training:
    """Cost training steps over degrees and return the fastest that fits.

    Tensor-parallel degrees are powers of two within a node, pipeline stages `STAGES`. Experts are distributed over a
    node's devices or one per device. Whole layers are recomputed if a step does not fit otherwise. Given values are not
    changed.

    Parameters
    ----------
    model, system
        As `train` takes them.
    **options
        Options of `train`, including `batch`.

    Returns
    -------
    Training
        With the best few candidates in `Training.tried`.

    Raises
    ------
    InputError
        If no candidate is valid: unknown names, or a batch that no number of ranks divides.
    CapacityError
        If no candidate fits in memory; the error names the candidate that needs the least.
    """
    spec, where = load(model, system)
    asked: dict[str, Any] = dict(options)
    given = {name: asked[name] for name in CHOICES if asked.get(name) is not None}
    rest = {name: value for name, value in asked.items() if name not in CHOICES}

    def step_of(candidate: Mapping[str, Any]) -> Training:
        return train(spec, system, **candidate, **rest)

    study = Study(
        step_of,
        lambda training: (training.step.seconds,), refusals=(InputError,),
    )  # fmt: skip
    trainings, refused = study.fitting(_candidates(spec, where, given))
    if not trainings:
        too_large = [error for error in refused if isinstance(error, CapacityError)]
        raise (
            too_large[-1:]
            or refused
            or [InputError("--search", "finds no parallel layout for these options; set fewer of them")]
        )[0]
    ways = {(training.layout, training.options): training for training in trainings}
    trainings = study.ranked(ways.values())
    return replace(trainings[0], tried=tuple(map(_row, trainings[:SHOWN])), candidates=len(trainings))


def _candidates(model: ModelSpec, system: SystemSpec, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield parallel degrees that use all devices, those that need most memory per device first."""
    node, devices = system.devices_per_node, system.devices_per_node * system.nodes
    slices = [2**i for i in range(node.bit_length()) if node % 2**i == 0]
    stages = [n for n in STAGES if devices % n == 0 and n <= len(model.layers)]
    experts = max((p.routed.experts for la in model.layers for p in la.expert_parts), default=0)
    groups: list[int | None] = [None]
    if experts:
        groups += [n for n in (2 * node, 4 * node, 8 * node, experts) if n <= devices]
    axes = {"pp": stages, "tp": slices, "ep": list(dict.fromkeys(groups)), "micro_batch": list(MICRO_BATCHES)}
    axes |= {name: [value] for name, value in given.items()}
    for values in product(*axes.values()):
        candidate = dict(zip(axes, values, strict=True))
        if candidate["tp"] * candidate["pp"] <= devices:
            yield candidate


def _row(training: Training) -> dict[str, Any]:
    la, step = training.layout, training.step
    return {
        "tp": la.tp, "dp": la.dp, "pp": la.pp, "ep": la.ep, "micro_batch": training.options.micro_batch,
        "recompute": training.options.recompute, "step_seconds": step.seconds, "mfu": training.mfu,
        "memory_GiB": step.memory.total / 2**30,
    }  # fmt: skip


Read = Callable[[Keys, str], Any]
"""Function that reads one existing key of a recipe."""


def _count(keys: Keys, key: str) -> int | None:
    return keys.count(key, None, least=0)


def _flag(keys: Keys, key: str) -> bool:
    return keys.flag(key, False)


def _gradient_bits(keys: Keys, key: str) -> int:
    return 16 * (1 + keys.flag(key, False))


def _one_of(known: Mapping[str, Any]) -> Read:
    """Return a reader of a key whose value must be a name in `known`."""
    return lambda keys, key: known[keys.one_of(key, "", tuple(known))]


def _modules(keys: Keys, key: str) -> str:
    """Return the modules to offload, comma-separated; empty unless Megatron's fine-grained offloading is on."""
    value = keys.values[key]
    if not isinstance(value, list):
        raise keys.wrong(key, "a list of modules")
    return ",".join(map(str, value)) * keys.flag("fine_grained_activation_offloading", False)


def _layout(keys: Keys, key: str) -> str:
    """Return a pipeline layout as one string, also if Megatron's file has lists of names."""
    value = keys.values[key]
    if isinstance(value, str):
        return value
    try:
        return "|".join("".join(LETTERS[name] for name in chunk) for chunk in value)
    except (TypeError, KeyError):
        raise keys.wrong(key, f"a layout string, or lists of {', '.join(LETTERS)}") from None


LETTERS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}


def _precision(keys: Keys, key: str) -> str:
    """Return the matmul format of a precision recipe, given by its name (``bf16_with_mxfp8_mixed``) or its settings."""
    value = keys.values[key]
    if isinstance(value, Mapping):
        value = f"{value.get('fp4') and 'nvfp4'} {value.get('fp8') and value.get('fp8_recipe', 'delayed')}"
    return next((name for part, name in FORMATS.items() if part in str(value)), "bf16")


FORMATS = {
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "subchannel": "fp8_block",
    "blockwise": "fp8_block",
    "current": "fp8",
    "delayed": "fp8",
    "tensorwise": "fp8",
}
"""Part of a name in Megatron-Bridge's `mixed_precision` or `fp8_recipe` -> number format; the first match counts."""
SHARDED = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
"""ZeRO stage of Megatron-FSDP's `data_parallel_sharding_strategy`."""
CHECKPOINTS = {"selective": ALTERNATE, "memory_budget": "auto"}
"""Recomputation of torchtitan's checkpoints."""

CP_TYPES = {"p2p": "ring", "all_gather": "all-gather", "a2a": "all-to-all"}
"""Megatron's names of the key exchanges between context-parallel ranks -> the names of `train`."""

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
    "model.cpu_offloading_num_layers": (
        "offload",
        lambda keys, key: keys.count(key, 0) * keys.flag("cpu_offloading", False),
    ),
    "optimizer.offload_optimizer_states": ("offload_optimizer", _flag),
    "optimizer.exp_avg_dtype": (
        "moment_bits",
        _one_of({"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "torch.float32": 32, "torch.bfloat16": 16}),
    ),
    "model.cp_comm_type": ("cp_exchange", _one_of(CP_TYPES)),
    "model.offload_modules": ("offload_modules", _modules),
    "model.moe_token_dispatcher_type": (
        "all_to_all",
        lambda keys, key: (
            BY_COST if keys.text(key, "") == "alltoall" and keys.count("expert_model_parallel_size", 1) > 1 else None
        ),
    ),
    "ddp.num_distributed_optimizer_instances": ("replicas", _count),
    "mixed_precision.grad_reduce_in_fp32": ("gradient_bits", _gradient_bits),
    "ddp.grad_reduce_in_fp32": ("gradient_bits", _gradient_bits),
    "ddp.data_parallel_sharding_strategy": ("zero", _one_of(SHARDED)),
    "ddp.use_distributed_optimizer": ("zero", lambda keys, key: int(keys.flag(key, False))),
}
"""Keys of Megatron-Bridge's configuration (src/megatron/bridge/training/config.py) that affect a step -> option of `train`, reader.

If a file has both a sharding strategy and the distributed optimizer, the strategy counts, because it is listed first.
"""
SINGLE = {"tp": 1, "ep": 1}
"""Default parallel degrees if a file of either framework does not state them."""
TITANS = {"zero": 3, "overlap_tp": False, "cp_exchange": "all-gather", "gradient_bits": 32, "loss": "unfused"}
"""Defaults of torchtitan: it sums gradients in 32 bits, and PyTorch's loss runs as several kernels (v0.1.0, torchtitan/loss.py)."""
STAGED = 1
"""Maximum ZeRO stage of torchtitan with pipeline stages: weights stay gathered, and gradients whole, for all micro-batches."""
PIPELINES = {"1F1B": 1, "Interleaved1F1B": 2, "1f1b": 1, "interleaved_1f1b": 2}
"""Pipeline schedule of torchtitan -> parts of the model on each stage."""
TITAN: Mapping[str, tuple[str, Read]] = {
    "training.seq_len": ("seq", _count),
    "training.global_batch_size": ("batch", lambda keys, key: keys.count(key, None, least=-1)),
    "parallelism.tensor_parallel_degree": ("tp", _count),
    "parallelism.pipeline_parallel_degree": ("pp", _count),
    "parallelism.context_parallel_degree": ("cp", _count),
    "parallelism.expert_parallel_degree": ("ep", _count),
    "parallelism.enable_async_tensor_parallel": ("overlap_tp", _flag),
    "parallelism.data_parallel_replicate_degree": ("replicas", _count),
    "parallelism.pipeline_parallel_schedule": ("interleave", _one_of(PIPELINES)),
    "parallelism.context_parallel_rotate_method": (
        "cp_exchange",
        _one_of({"allgather": "all-gather", "alltoall": "ring"}),
    ),
    "parallelism.data_parallel_shard_degree": (
        "zero",
        lambda keys, key: 0 if keys.count(key, None, least=-1) == 1 else 3,
    ),
    "activation_checkpoint.mode": ("recompute", lambda keys, key: CHECKPOINTS.get(mode := keys.text(key, ""), mode)),
}
"""Keys of torchtitan's job files (torchtitan/config) that affect a step, and the option of `train` for each."""


def read_recipe(path: str | Path) -> tuple[dict[str, Any], int | None]:
    """Return the options of `train` from a framework's file, and torchtitan's local batch (None for Megatron-Bridge).

    The global batch of torchtitan is the local batch times the data-parallel ranks.

    Raises
    ------
    InputError
        If the file belongs to neither framework, or has an invalid value.
    """
    where = Path(path)
    try:
        raw = tomllib.loads(where.read_text("utf-8")) if where.suffix == ".toml" else None
    except (OSError, ValueError) as error:  # not UTF-8, not TOML
        raise InputError(f"--recipe {where}", f"cannot be read: {error}") from None
    if raw is None:
        raw = read_json_object(where) if where.suffix == ".json" else read_yaml(where)
    titan = "parallelism" in raw or "training" in raw
    if not titan and not isinstance(raw.get("model"), Mapping):
        raise InputError(
            f"--recipe {where}", "must have the block `model` of Megatron-Bridge or `parallelism` of torchtitan"
        )
    if titan:  # files of 2024 have these keys in other sections
        raw["parallelism"] = {
            key: value
            for name in ("training", "experimental", "parallelism")
            for key, value in Keys(where, raw).part(name).values.items()
            if name == "parallelism" or f"parallelism.{key}" in TITAN
        }
    file, options = Keys(where, raw), dict[str, Any]()
    _check_keys(file, "torchtitan" if titan else "megatron-bridge")
    for path_of_key, (name, read) in (TITAN if titan else MEGATRON).items():
        section, _, key = path_of_key.rpartition(".")
        if isinstance(file.values.get(section), str):  # a recipe's name
            continue
        keys = file.part(section) if section else file
        if keys.values.get(key) is not None:
            options.setdefault(name, read(keys, key))
    model = file.part("model").values
    if not titan:
        return options | _wide(file) | _recomputed(file.part("model")) | _graphs(model), None
    converters = str(model.get("converters"))
    if "float8" in converters or "mx" in converters:
        options["dtype"] = "fp8" if "float8" in converters else "mxfp8"
    training, stages = file.part("training"), options.get("pp") or 1
    local = training.count("local_batch_size", training.count("batch_size", 1))
    piece = file.part("parallelism").count("pipeline_parallel_microbatch_size", 1)
    if "pipeline_parallel_degree" in file.part("experimental").values:  # default: one micro-batch per stage
        piece = max(local // file.part("experimental").count("pipeline_parallel_microbatches", stages), 1)
    options["micro_batch"] = piece if stages > 1 else local
    if stages == 1:
        options.pop("interleave", None)  # the schedule has no effect without pipeline stages
    elif file.part("parallelism").text("fsdp_reshard_after_forward", "default") != "always":
        options["zero"] = min(options.get("zero", STAGED), STAGED)
    return TITANS | options, None if options.get("batch", -1) > 0 else local


def _wide(file: Keys) -> dict[str, int]:
    """Return how many layers stay in 16 bits; recipes with one scale per tensor name some (Megatron-Bridge@0509780, training/mixed_precision.py).

    Under `model` the usual number is Megatron-Core's (NVIDIA/Megatron-LM@002526d, core/transformer/transformer_config.py).
    """
    named = file.values.get("mixed_precision")
    if isinstance(named, str):
        layers = 2 if named.startswith(("nemotron", "nanov2")) else 1
        return {"bf16_first": layers, "bf16_last": layers} if "current" in named else {}
    for section, usual in (("mixed_precision", 0), ("model", 1)):
        keys = file.part(section)
        if keys.flag("first_last_layers_bf16", False):
            ends = ("first", "start"), ("last", "end")
            return {f"bf16_{at}": keys.count(f"num_layers_at_{end}_in_bf16", usual, least=0) for at, end in ends}
    return {}


def _check_keys(file: Keys, framework: str) -> None:
    """Refuse unknown keys, and settings that affect a step but are not simulated."""
    known = listed(framework)
    for name, names in known.sections.items():
        if not isinstance(file.values.get(name), str):  # a recipe's name
            section = file.part(name) if name else file
            refuse_unknown(section, [*names, *known.harmless])
            section.refuse_unsimulated(framework, name)


def _recomputed(keys: Keys) -> dict[str, Any]:
    """Return the option `recompute` from Megatron's recomputation settings."""
    model = keys.values
    granularity, modules = model.get("recompute_granularity"), model.get("recompute_modules")
    if granularity == "full":
        layers = model.get("recompute_num_layers") if model.get("recompute_method") == "block" else None
        return {"recompute": f"full:{layers}" if layers else "full"}
    if granularity == "selective":
        if not isinstance(modules or [], list):
            raise keys.wrong("recompute_modules", "a list of modules")
        return {"recompute": ",".join(["core_attn"] if modules is None else map(str, modules)) or "none"}
    return {"recompute": "none"}


def _graphs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option `graphs` from Megatron's CUDA graph settings."""
    kind, scope = model.get("cuda_graph_impl") or "none", model.get("cuda_graph_modules", model.get("cuda_graph_scope"))
    if kind == "none":
        return {"graphs": "none"}
    return {"graphs": "full" if kind in ("local", "full_iteration") or "full" in str(scope) else "partial"}


def train_recipe(
    model: str | Path | ModelSpec,
    system: str | Path | SystemSpec,
    recipe: str | Path,
    *,
    search: bool = False,
    **options: Any,
) -> Training:
    """Cost one training step from a framework's file; options given as arguments override the file.

    Parameters
    ----------
    recipe : str or Path
        Configuration of Megatron-Bridge (``.yaml``, ``.json``) or job file of torchtitan (``.toml``).
    search : bool
        Whether to search the options that the file does not state (`fastest_training`).
    """
    known, local = read_recipe(recipe)
    known |= options
    if local is not None and "batch" not in options:
        where = load(model, system)[1]
        degrees = prod(known.get(name, 1) for name in ("tp", "pp", "cp"))
        known["batch"] = max(where.groups // degrees, 1) * local
    known = ({} if search else SINGLE) | {name: value for name, value in known.items() if value is not None}
    return (fastest_training if search else train)(model, system, **known)
