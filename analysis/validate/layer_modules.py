"""Attention modules compared with the sum of their ops: the difference are kernels that no table times separately.

Tables of modules have the times of a layer's attention with its projections. For short decodes the difference is the
small kernels around an indexer (quantisation, rotation, indices of pages); ``index_rest`` is fitted to it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...devices.calibrated.calibrate import FamilyRows
from ...devices.calibrated.family import F8
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import LABELS
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES
from ...devices.calibrated.streamed import X_COPIES, from_op
from ...devices.catalog import load_device
from ...devices.device import build_device
from ...simulator.frameworks.kernels import kernels_of
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.kernel_tables import KernelTable, framework, read_table
from ...workloads.layers import Indexer, LatentAttention, Run, SparseLatentAttention
from ...workloads.numerics import Numerics

REST = "index_rest"
SHORT, FEW = 2048.0, 16.0
"""Contexts and sequences up to which the rest is most of a module's time."""
LEAST_S = 2e-6
SHAPES = {
    "DeepSeek-V3.2": (LatentAttention(7168, 128, 1536, 512, 128, 64, 128), Indexer(64, 128, 2048)),
    "GLM-5": (LatentAttention(6144, 64, 2048, 512, 192, 64, 256), Indexer(32, 128, 2048)),
}
"""Attention of the models that tables of modules name, before heads are split."""


def layer_of(model: str, heads: int) -> SparseLatentAttention | None:
    """Return the layer of a row; None for a model without its shape here, or without an indexer."""
    name = next((n for n in SHAPES if model.startswith(n) and not model.startswith("GLM-5.2")), None)
    if name is None:
        return None
    base, indexer = SHAPES[name]
    return SparseLatentAttention(replace(base, heads=heads), indexer)


def numerics_of(gemm: str, kv: str) -> Numerics:
    """Formats of a row."""
    weights = () if gemm in ("bf16", "fp16") else (("attention", gemm),)
    return Numerics("bf16", weights, "fp8" if kv == "fp8" else "bf16")


def rest_rows(path: Path) -> dict[str, FamilyRows]:
    """Device -> what its short decodes take beyond the sum of their ops, as rows of `REST`."""
    table = read_table(path, [])
    if table is None:
        raise InputError(path, "holds no rows")
    short = (table["kv_prefix"] <= SHORT) & (table["batch"] <= FEW)
    table = table.take(short)
    out = {}
    for device in dict.fromkeys(table["device"].tolist()):
        rows = _of_device(table.take(table["device"] == device), device)
        if rows is not None:
            out[rows[0]] = rows[1]
    return out


def _of_device(table: KernelTable, device: str) -> tuple[str, FamilyRows] | None:
    spec = load_device(device)[0]
    models = {
        label: build_device(spec, calibrated=True, frameworks=kernels_of(name, spec, apart=False))
        for name, label in LABELS.items()
    }
    rows_kept, x, rest = [], [], []
    for i in range(len(table)):
        label = framework(str(table["source"][i]))
        layer = layer_of(str(table["model"][i]), int(table["heads"][i]))
        if layer is None or label not in models:
            continue
        num = numerics_of(str(table["gemm_dtype"][i]), str(table["kv_dtype"][i]))
        batch = Batch.of([int(table["kv_prefix"][i])] * int(table["batch"][i]))
        ops = layer.ops(batch.moments((-2048, 0, 2048)), Run(num), None)
        cost = models[label].processors["xpu"].model.cost
        total = sum(cost(op).seconds for op in ops if op.kind != REST and op.flops > 0.0)
        quantities = from_op(next(op for op in ops if op.kind == REST))
        assert quantities is not None
        quantities[X_COPIES] = 1.0
        rows_kept.append(i)
        x.append(quantities)
        rest.append(max(float(table["measured_s"][i]) - total, LEAST_S))
    if not rows_kept:
        return None
    result: F8 = np.array(rest)
    labels = np.array([framework(str(s)) for s in table["source"][rows_kept]], dtype=object)
    family = LAYER_FAMILIES[REST]
    return spec.name, FamilyRows(family, table.take(np.array(rows_kept)), hardware(spec), np.array(x), result, labels)
