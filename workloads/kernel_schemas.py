"""Kernel tables: the columns of every family, and their allowed names.

A table is a CSV file whose stem names the kernel family. Two forms are read. One row per call: ``source, device,
kernel, dtype, <shape>, timing, measured_s`` (gemm, grouped_gemm, attention_prefill, attention_decode, mla, moe, norm,
allreduce, collectives). Layer profiles of serving runs, with ``op`` instead of ``kernel`` and no ``timing`` (gemm,
elementwise, attention_mixed, moe); they come from a profiler of one layer and are read as ``timing = kernel``. The same
profiler wrote attention_skew: decodes of two contexts, with the times of the same batch at their mean and at the longer
one. Sizes are integers of elements unless the name says bytes; ``measured_s`` is seconds of one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .yamlfile import read_yaml

TEXT = (
    "source", "device", "kernel", "dtype", "kv_dtype", "timing", "layout", "distribution", "model",
    "phase", "scores", "gemm_dtype", "impl", "routing",
)  # fmt: skip
"""Columns that hold names; all others hold numbers."""

DTYPES = (
    "fp32", "fp16", "bf16", "fp8", "fp8_block", "int8", "nvfp4", "mxfp4", "w4a16_mxfp4",
    "w4a8_mxfp4_mxfp8", "int4_wo", "w4afp8",
)  # fmt: skip
TIMINGS = ("graph", "kernel", "event", "nccl-tests", "wall")


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of one family.

    Attributes
    ----------
    shape : tuple of str
        Shape columns; they distinguish rows of different shapes.
    kernels : tuple of str
        Kernel names this family knows; empty = any.
    may_be_zero : tuple of str
        Numbers that may be 0 (no window, no prefix); all others are positive.
    means : tuple of str
        Shape columns that are means, so that they need not be whole numbers.
    more : tuple of str
        Further columns of positive numbers.
    usual : mapping of str to str
        Optional columns of names, and their defaults.
    """

    shape: tuple[str, ...]
    kernels: tuple[str, ...] = ()
    may_be_zero: tuple[str, ...] = ()
    means: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    usual: Mapping[str, str] = field(default_factory=dict)


COLLECTIVE = ("all_gather", "reduce_scatter", "alltoall", "send_recv")


def _schema(row: Mapping[str, Any]) -> Schema:
    values: dict[str, Any] = {key: value if key == "usual" else tuple(value) for key, value in row.items()}
    values.pop("names")
    return Schema(**values)


SCHEMAS = {
    name: _schema(row)
    for row in read_yaml(Path(__file__).with_name("kernel_schemas.yaml"))["families"]
    for name in row["names"]
}
"""Schemas by kernel family, from ``kernel_schemas.yaml``."""

STEMS: dict[str, str] = {
    "elementwise": "norm",
    "moe_more": "moe",
    "wideep_moe": "moe",
    "collectives_oneccl": "collectives",
    "quantize": "gemm",
}
"""File stems that differ from the name of their kernel family."""
MIXED = {("trtllm", "nvfp4")}
"""Frameworks and formats of experts whose B200 rows are means of two kernels up to 19 times different, in tables
that do not distinguish expert kernels by `impl` in a file ``moe_more.csv`` in the same folder."""

# Ops of the layer profiles, and the kernel each is; those with None have no kernel model.
PROFILE_OPS: dict[str, str | None] = {
    "qkv_proj": "gemm", "o_proj": "gemm", "gate_up_proj": "gemm", "down_proj": "gemm",
    "lm_head": "gemm", "act_fn": "silu_mul", "layernorm": "fused_add_rmsnorm",
    "final_layernorm": "fused_add_rmsnorm", "qk_norm": "rmsnorm", "rotary_emb": "rope",
    "embedding": None, "sampler": None,
}  # fmt: skip
OWN_NAME = ("qk_norm",)
"""Ops of profiles that keep their names if every op is kept; models count these ops as part of another op."""
PROFILE_COLUMNS = {"op": "kernel", "q_heads": "heads_q", "kv_heads": "heads_kv", "tokens": "rows", "width": "cols"}
PROFILE_MOE = {"intermediate": "inter", "num_experts": "experts", "top_k": "topk"}


@dataclass(frozen=True, slots=True)
class TableForm:
    """Settings for tables that differ from tables of kernel times, such as tables of power.

    Attributes
    ----------
    more : tuple of str
        Further columns of positive numbers.
    optional : tuple of str
        Columns that may be absent; the table is then without them.
    known_kernels : bool
        Whether `Schema.kernels` holds; tables of power name kernels by their framework.
    """

    more: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    known_kernels: bool = True


USUAL = TableForm()


def fill(raw: dict[str, npt.NDArray[Any]], family: str) -> None:
    """Convert a layer profile of a serving run to the common columns."""
    count = len(next(iter(raw.values()), ()))
    if family in ("norm", "attention_mixed", "gemm"):
        for old, new in PROFILE_COLUMNS.items():
            if old in raw and new not in raw:
                raw[new] = raw.pop(old)
    if family == "gemm" and {"rows", "cols"} <= raw.keys():
        _as_products(raw)
    if family == "gemm" and "batch" not in raw:
        raw["batch"] = np.full(count, "1", dtype=object)
    if family == "moe" and "intermediate" in raw:
        raw.update({new: raw.pop(old) for old, new in PROFILE_MOE.items() if old in raw})
        for name, value in (("tp", "1"), ("ep", "1"), ("gated", "1"), ("distribution", "balanced")):
            raw.setdefault(name, np.full(count, value, dtype=object))
        raw.setdefault("kernel", np.full(count, "fused_moe", dtype=object))
    if family == "moe" and "slots" in raw:  # wide expert parallelism: copies of experts count as experts
        alone = raw.pop("phase", np.full(count, "any", dtype=object)) != "any"
        raw["kernel"] = np.where(alone, "wide_experts", "wide_moe").astype(object)
        raw["experts"] = raw.pop("slots")
        for name, value in (("gated", "1"), ("active_experts", "0")):  # how many are active follows
            raw.setdefault(name, np.full(count, value, dtype=object))
    if family in ("attention_mixed", "attention_skew"):
        raw.setdefault("kernel", np.full(count, "mixed_attention", dtype=object))
    raw.setdefault("timing", np.full(count, "kernel", dtype=object))


def _as_products(raw: dict[str, npt.NDArray[Any]]) -> None:
    """Convert rows of fp8 quantisation kernels to gemm rows without columns.

    Rows for finding the scale become the sum of both times.
    """
    raw |= {"m": raw.pop("rows"), "k": raw.pop("cols")}
    raw["n"] = np.full(len(raw["m"]), "0", dtype=object)
    finds, times = raw["kernel"] == "compute_scale", raw["measured_s"]
    names = list(zip(*(raw[name] for name in ("source", "device", "m", "k")), strict=True))
    given = {name: time for name, time, more in zip(names, times, finds, strict=True) if not more}
    for i in np.flatnonzero(finds):
        times[i] = str(float(times[i]) + float(given.get(names[i], "nan")))
    raw["kernel"] = np.where(finds, "linear_actquant", raw["kernel"])
