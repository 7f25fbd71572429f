"""The shapes of kernels that a model runs on a device, as tables to measure (``opbyte kernels shapes``).

Each function below converts an op of a step to a row of the table that `workloads.kernel_tables` reads. A kernel family's
``from_table`` reads the same sizes from this row as its ``from_op`` reads from the op.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...workloads.errors import InputError
from ...workloads.kernel_schemas import DTYPES, SCHEMAS
from ...workloads.model import ModelSpec
from ...workloads.ops import Op
from ..show.declared import text
from ..show.output import OutputFolder
from ..show.result import Result
from ..show.text import Blocks, Rows
from .step import step_of

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import DeployOptionsKeywords

BATCHES, CONTEXTS, PROMPTS = (1, 8, 64), (2048,), (512, 2048)
"""Default steps for kernel shapes: decodes at several contexts, and prompts."""
SCALED = ("fp8_block", "int8")
"""Formats whose inputs are quantised by a separate kernel (`devices.calibrated.gemm`)."""
VECTOR = {"norm": "fused_add_rmsnorm", "activation": "silu_mul", "rope": "rope"}
"""End of an elementwise op's name -> kernel."""
TIMING = "event"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KernelShapes(Result):
    """Kernel shapes that are to be measured: table rows without times.

    Attributes
    ----------
    tables : mapping of str to list of dict
        Kernel family -> distinct rows, without source and time.
    left_out : tuple of str
        Ops that no kernel table of one device covers.
    """

    deployment: Deployment
    tables: Mapping[str, Sequence[Row]]
    left_out: tuple[str, ...]

    def rows(self) -> Rows:
        return [
            {"table": f"{family}.csv", "rows": len(rows),
             "dtypes": " ".join(dict.fromkeys(row["dtype"] for row in rows))}
            for family, rows in self.tables.items()
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        out: Blocks = [text(self, "heading"), self.rows()]
        if self.left_out:
            out.append(f"without a table of one device: {', '.join(self.left_out)}")
        return [*out, "opbyte kernels measure-torch prints a script that fills measured_s on a GPU"]

    def write(self, files: OutputFolder) -> None:
        """Write one table for each kernel family, with empty times."""
        for family, rows in self.tables.items():
            head = ["source", "device", "kernel", "dtype", *SCHEMAS[family].shape, "timing", "measured_s"]
            text = io.StringIO()
            table = csv.DictWriter(text, head, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            files.text(f"{family}.csv", text.getvalue())


def kernel_shapes(
    model: str | Path | ModelSpec,
    system: str | Path | SystemSpec,
    *,
    batches: Sequence[int] = BATCHES,
    contexts: Sequence[int] = CONTEXTS,
    prompts: Sequence[int] = PROMPTS,
    **options: Unpack[DeployOptionsKeywords],
) -> KernelShapes:
    """Collect the shapes of the kernels that one device runs in some steps.

    Parameters
    ----------
    batches, contexts : sequence of int
        Numbers of decodes in the system, and the cached tokens of each; every combination is one step.
    prompts : sequence of int
        Prompt lengths [tokens]; each is one step with one prompt.
    **options
        Options of `simulator.scenario.options.DeployOptions`, such as ``tp`` or ``dtype``.

    Raises
    ------
    InputError
        As `roofline`; no step.
    """
    steps = [(b, c, 0) for b in batches for c in contexts] + [(0, 0, n) for n in prompts]
    if not steps:
        raise InputError("--batches, --prompts", "need at least one step between them")
    tables: dict[str, dict[tuple[object, ...], Row]] = {}
    left_out: dict[str, None] = {}
    for batch, context, prompt in steps:
        deployment, stage = step_of(model, system, batch, context, prompt, options)
        for op in dict.fromkeys(map(_Same, (p.op for p in stage.ops))):
            row_found = table_row(op.op, deployment, context + 1)
            if row_found is None:
                named = op.op.name if op.op.kind == "elementwise" else op.op.kind
                left_out[named if op.op.dtype in DTYPES else f"{named} in {op.op.dtype}"] = None
            elif row_found[1]:
                family, row = row_found
                tables.setdefault(family, {})[tuple(row.values())] = row
    ordered = {name: list(tables[name].values()) for name in SCHEMAS if name in tables}
    return KernelShapes(deployment, ordered, tuple(left_out))


@dataclass(frozen=True, slots=True)
class _Same:
    """Key of an op by the properties that a table row contains, since many layers run the same kernels."""

    op: Op

    def __hash__(self) -> int:
        return hash((self.op.name, *self.op.shape.values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and (self.op.name, self.op.shape, self.op.dtype) == (
            other.op.name, other.op.shape, other.op.dtype,
        )  # fmt: skip


def table_row(op: Op, deployment: Deployment, keys: int) -> tuple[str, Row] | None:
    """Return an op's kernel family and table row; None without a table, an empty row if the op has no work.

    Parameters
    ----------
    keys : int
        Tokens that each decoding sequence reads, including its own; ops do not contain the part hidden by a window.
    """
    make = ROWS.get(op.kind)
    row = None if make is None else make(op, keys)
    if row is None or row[2] not in DTYPES:
        return None
    family, kernel, dtype, shape = row
    if not shape:
        return family, {}
    if "kv_dtype" in SCHEMAS[family].shape:
        shape = {"kv_dtype": deployment.model.numerics.kv, **shape}
    given = {"device": deployment.system.device.name, "kernel": kernel, "dtype": dtype, **shape}
    return family, {name: _plain(x) for name, x in given.items()} | {"timing": TIMING}


def _plain(value: Any) -> Any:
    """Return whole numbers as integers; other values, such as mean expert loads, are unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Found = tuple[str, str, str, Row]


def _gemm(op: Op, keys: int) -> Found:
    shape = {name: op.shape[name] for name in ("m", "n", "k")} | {"batch": op.shape.get("batch", 1)}
    kernel = "linear_actquant" if op.dtype in SCALED else "gemm"
    return "gemm", kernel, op.dtype, shape if op.shape["m"] else {}


def _heads(op: Op) -> Row:
    return {name: op.shape[name] for name in ("heads_q", "heads_kv", "head_dim", "window")}


def _decode(op: Op, keys: int) -> Found:
    batch = op.shape["batch"]
    shape = {"batch": batch, "kv_len": keys, **_heads(op)} if batch else {}
    return "attention_decode", "decode_attention", op.dtype, shape


def _prefill(op: Op, keys: int) -> Found:
    batch, tokens = op.shape["batch"], op.shape["tokens"]
    shape = {} if not batch else {"batch": batch, "q_len": tokens / batch, "kv_prefix": 0, **_heads(op), "causal": 1}
    return "attention_prefill", "prefill_attention", op.dtype, shape


def _mla(op: Op, keys: int) -> Found:
    batch, prefill = op.shape["batch"], op.kind == "mla_prefill"
    if not batch:
        return "mla", op.kind, op.dtype, {}
    kv = op.shape["kv"] / batch
    shape = {"batch": batch, "q_len": kv if prefill else 1, "kv_len": kv, "heads": op.shape["heads"]}
    return "mla", op.kind, op.dtype, shape


def _experts(op: Op, keys: int) -> Found | None:
    """Return the grouped matmul of the local experts; after an all-to-all it includes only the tokens they receive.

    If the number of (token, expert) pairs is not a multiple of top-k, the row has top-k 1. An expected number of active
    experts below 1 is measured as 1.
    """
    s, loads = op.shape, op.loads
    if loads is None or "inter" not in s:  # adapters
        return None
    if not loads.routed:
        return "moe", "fused_moe", op.dtype, {}
    one = s["matrices"] * s["hidden"] * s["inter"]
    stored = op.weight_bytes / (one * loads.active)
    dtype = "w4a16_mxfp4" if op.dtype in ("bf16", "fp16") and stored < 1.0 else op.dtype
    slots = s.get("slots", loads.routed)
    ep, pairs, top_k = round(slots / loads.routed), max(round(slots), 1), int(s["top_k"])
    if pairs % top_k:
        top_k = 1
    return "moe", "fused_moe", dtype, {
        "tokens": pairs // top_k, "hidden": s["hidden"], "inter": s["inter"],
        "experts": s["experts"] * ep, "topk": top_k, "tp": 1, "ep": ep,
        "gated": s["matrices"] - 2, "distribution": "uniform_random",
        "active_experts": float(f"{max(loads.active, 1.0):.6g}"),
    }  # fmt: skip


def _vector(op: Op, keys: int) -> Found | None:
    kernel = next((k for end, k in VECTOR.items() if op.name.endswith(end)), None)
    if kernel is None:
        return None
    shape = {"rows": op.shape["rows"], "cols": op.shape["cols"]}
    return "norm", kernel, op.dtype, shape if op.shape["rows"] else {}


ROWS: Mapping[str, Callable[[Op, int], Found | None]] = {
    "gemm": _gemm, "attention_decode": _decode, "attention_prefill": _prefill, "mla_decode": _mla,
    "mla_prefill": _mla, "experts": _experts, "elementwise": _vector,
}  # fmt: skip
"""Kind of op -> function that returns its kernel family, kernel, number format and shape."""
