"""Is a device ever much slower than one of its own silicon with no more of anything?

A B300 is a B200 with more memory, a GB200 one with more and faster cores: whatever op, format or length is
asked, under whichever framework's kernels, the better of two may take at most `MOST` times as long. Whole
steps of models, and devices of any silicon, are compared in tests/analysis/test_dominance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.validate.kernel_sets import products
from opbyte.devices.calibrated.calibrate import by_device
from opbyte.devices.calibrated.collectives import KINDS
from opbyte.devices.calibrated.family import F8, families
from opbyte.devices.calibrated.hardware import C_32, C_INT8, INPUT_BYTES, WEIGHT_BYTES, hardware
from opbyte.devices.calibrated.kernel_sets import LABELS, LINKS, TYPICAL, kindred, layer_parameters, shared_parameters
from opbyte.devices.calibrated.layer_kernels import LAYER_FAMILIES, QUANTITIES, split_layers
from opbyte.devices.calibrated.terms import COLD
from opbyte.workloads.kernel_tables import read_tables

MOST = 1.1
BOUNDED = (TYPICAL, *LABELS)
"""Frameworks with parameters of their own; `best` is the quickest of them at each call."""
CODES = [code for code in range(len(WEIGHT_BYTES)) if code not in (C_32, C_INT8)]
"""Formats; B300 and GB300 give up integers of 8 bits, and some of 32-bit products."""
GROUPS = ((8, 1), (32, 8), (8, 8))
DIMS = (64, 128, 192, 256)
Calls = list[tuple[float, ...]]


def _gemm() -> Calls:
    shapes = ((1280, 8192), (4096, 4096), (7168, 2304), (28672, 8192), (8192, 28672))
    return [
        (m, *shape, 1, c, WEIGHT_BYTES[c], INPUT_BYTES[c], INPUT_BYTES[c] < 2.0, COLD, 0, 0)
        for m, shape, c in product((1, 4, 16, 64, 256, 1024, 16384), shapes, CODES)
    ]


def _prefill() -> Calls:
    lengths = ((16, 16), (512, 512), (4096, 4096), (32768, 32768), (512, 32768))
    return [
        (b, q, kv - (q - 1) / 2, kv, *heads, dim, 0, kv > q, fp8, width, 1, 0, 0, -1)
        for b, (q, kv), heads, dim, (fp8, width) in product((1, 8), lengths, GROUPS, DIMS, ((0, 2), (0, 1), (1, 1)))
    ]


def _decode() -> Calls:
    return [
        (b, keys, *heads, dim, width, 1, COLD, 1e9, 0, -1, 1)
        for b, keys, heads, dim, width in product(
            (1, 4, 16, 64, 1024), (16, 128, 1024, 4096, 32768, 131072), GROUPS, DIMS, (2, 1)
        )
    ]


def _mla() -> Calls:
    decodes = [
        (0, b, 1, keys, keys, heads, width, COLD)
        for b, keys, heads, width in product((1, 16, 256), (128, 1024, 8192, 65536), (16, 128), (2, 1))
    ]
    prompts = product((1, 8), (128, 1024, 8192, 32768), (16, 128))
    return decodes + [(1, b, q, q / 2, q, heads, 2, COLD) for b, q, heads in prompts]


def _moe() -> Calls:
    out: Calls = []
    blocks = ((8, 2, 4096, 14336), (128, 8, 4096, 1536), (256, 8, 7168, 2048), (128, 4, 2880, 2880))
    for tokens, block, code, ranks in product((1, 4, 16, 64, 256, 1024, 8192), blocks, CODES, (1, 8)):
        experts, top_k, hidden, inter = block
        tokens *= ranks  # of all of them
        slots, local = tokens * top_k, experts / ranks
        active = local * (1 - (1 - 1 / experts) ** slots)
        rest = (hidden, inter, 3, local, active, 0, code, WEIGHT_BYTES[code])
        out.append((slots, slots / ranks, *rest, 1, COLD, top_k, 0))
        if local >= 16:  # wide expert parallelism is of many experts
            out.append((slots / ranks, slots / ranks, *rest, 0, COLD, top_k, 1))
    return out


def _norm() -> Calls:
    rows = product((1, 16, 256, 4096, 32768), (1024, 8192), (2, 3), range(4))
    return [(r, columns, tensors, 2, kind, 0, 0, 0) for r, columns, tensors, kind in rows]


def _links(kinds: tuple[float, ...]) -> Calls:
    return list(product(2.0 ** np.arange(10, 31, 2), (2, 4, 8), kinds))


GRID: dict[str, Callable[[], Calls]] = {
    "gemm": _gemm, "attention_prefill": _prefill, "attention_decode": _decode, "mla": _mla,
    "moe": _moe, "norm": _norm, "allreduce": lambda: _links((0.0, 1.0)),
    "collectives": lambda: _links(tuple(float(k) for k in KINDS.values())),
}  # fmt: skip


def _slower(family_name: str, framework: str, x: F8, find: Callable[..., F8]) -> list[str]:
    specs, out = products(), []
    family = families().get(family_name) or LAYER_FAMILIES[family_name]
    times = {
        name: family.prices(find(spec, family, framework), hardware(spec), x)["seconds"] for name, spec in specs.items()
    }
    for one, other in kindred(specs, linked=family_name in LINKS):
        ratio = times[one] / times[other]
        for i in np.flatnonzero(ratio > MOST):
            out.append(f"{one} {ratio[i]:.2f} x {other}: {x[i].tolist()}")
    return out


@pytest.mark.parametrize("framework", BOUNDED)
@pytest.mark.parametrize("family", GRID)
def test_the_better_of_two_kin_is_not_slower(family: str, framework: str) -> None:
    x = np.array(GRID[family](), dtype=float)
    found = _slower(family, framework, x, lambda *a: shared_parameters(*a).fit.values)
    assert found == []


def test_nor_in_a_measured_part_of_a_sparse_or_recurrent_layer(data_set: Callable[[str], Path]) -> None:
    folder = data_set("measured_2026")
    read, _ = read_tables([folder / f"{n}.csv" for n in ("indexer", "gdn", "kda", "mhc")])
    split_layers(read)
    calls: dict[str, list[F8]] = {}
    for _, held in by_device(read, []).values():
        for name, rows in held.items():
            calls.setdefault(name, []).append(rows.x)
    assert len(calls) > 10
    for name, found in calls.items():
        x = np.unique(np.concatenate(found), axis=0)[::3]
        x[:, QUANTITIES.index("copies")] = COLD
        for framework in BOUNDED:
            assert _slower(name, framework, x, lambda *a: layer_parameters(*a).fit.values) == []


def test_each_family_has_a_grid() -> None:
    assert set(GRID) == {name for name, family in families().items() if family.kinds}


def test_kin_are_pairs_of_one_silicon() -> None:
    pairs = set(kindred(products(), linked=False))
    assert {("b300", "b200"), ("gb200", "b200"), ("gb300", "gb200"), ("h200", "h100"),
            ("gh200", "h100"), ("h100", "h100-pcie"), ("mi325x", "mi300x")} <= pairs  # fmt: skip
    assert ("b200", "h100") not in pairs  # of another silicon
    assert ("l40", "l4") not in pairs  # faster in all, but not core by core
