"""Which kernel forms an op of a step calls, and for which shapes."""

from __future__ import annotations

from ...workloads.ops import Op
from ..calibrated.hardware import CODES
from .form import FORMS, Shape, TiledKernel, Value

Call = tuple[TiledKernel, Shape]
PRODUCTS = ("gemm", "fused_moe")
"""Kernels whose format is the format of their operands."""


def calls_of(op: Op) -> list[Call]:
    """Kernels that the op launches, in order; empty where no form covers it.

    Counts of an expectation are rounded to whole rows, at least one. Gated experts are two grouped
    products; of the second only the sizes differ.
    """
    if op.dtype not in CODES:
        return []
    s, shapes = op.shape, list[tuple[str, dict[str, float]]]()
    if op.product and s.get("batch", 1) == 1:
        shapes = [("gemm", {"m": s["m"], "n": s["n"], "k": s["k"]})]
    elif op.routed and op.loads is not None and s["matrices"] == 3:
        loads = {"tokens": op.loads.routed, "experts": op.loads.active, "topk": 1.0}
        shapes = [
            ("fused_moe", {**loads, "hidden": s["hidden"], "inter": s["inter"]}),
            ("fused_moe", {**loads, "hidden": s["inter"], "inter": s["hidden"] / 2}),
        ]
    elif op.kind == "attention_decode" and s["batch"] > 0 and s["kv"] > 0:
        shapes = [("attention_decode", {"batch": s["batch"], "keys": s["kv"] / s["batch"], **_heads(op)})]
    elif op.kind == "attention_prefill" and s["batch"] > 0 and s["tokens"] > 0:
        new = s["tokens"] / s["batch"]
        before = max(0.0, s["kv"] / s["batch"] - new)
        shapes = [("attention_prefill", {"batch": s["batch"], "tokens": new, "context": before, **_heads(op)})]
    elif op.kind == "mla_decode" and s["batch"] > 0 and s["kv"] > 0:
        shapes = [("mla_decode", {"batch": s["batch"], "keys": s["kv"] / s["batch"], "heads": s["heads"]})]
    return [_call(name, sizes, op.dtype) for name, sizes in shapes]


def _heads(op: Op) -> dict[str, float]:
    return {key: op.shape[key] for key in ("heads_q", "heads_kv", "head_dim")}


def _call(name: str, sizes: dict[str, float], dtype: str) -> Call:
    form = FORMS[name]
    least = {key.name: 0 if key.default == 0 else 1 for key in form.keys}
    integers: dict[str, Value] = {k: max(least[k], round(v)) for k, v in sizes.items()}
    if "dtype" in least and name in PRODUCTS:
        integers["dtype"] = dtype
    return form, form.shape({**integers, "cold": 1})
