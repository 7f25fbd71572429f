"""Attention of unequal contexts against measured calls (``opbyte validate kernels``, attention_skew.csv).

Each row has three times: of its batch, and of batches with all decodes at the mean and at the longest context. The last
two are a table of equal contexts; models predict the first, which is not fitted. Predictions: ``thread blocks``: the
kernel's blocks (`devices.tables.blocks`), as in engines with kernel tables; ``mean context``: only the mean context's
time; ``kernel models``: the fitted families with vLLM's kernels at the mean context, as in engines without tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.attention_decode import NO_LIMIT
from ...devices.calibrated.calibrate import device_named
from ...devices.calibrated.family import F8, families
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import shared_parameters
from ...devices.calibrated.terms import COLD
from ...devices.lines import BoundsSpec
from ...devices.spec import DeviceSpec
from ...devices.tables.blocks import blocks_seconds, fit_blocks, joint_seconds
from ...workloads.jit import compiled
from ...workloads.kernel_tables import KernelTable, Skipped, framework, joined
from ...workloads.records import Records, reals
from .check import Check

NAME, TITLE = "attention_skew", "attention of unequal contexts"
BLOCKS, MEAN, MODELS = "thread blocks", "mean context", "kernel models"
COMPARED = (MEAN, MODELS)
"""Predictions that are printed next to the models of unequal contexts, and not plotted."""
BOUNDS = BoundsSpec(median_ape=0.04, p90_ape=0.15, median_bias=0.03)
"""Bounds of `BLOCKS`, for every device: the errors reached on three GPUs, with a margin as for the fits."""
CALLS = {"llmservingsim": 3.0}
"""Calls whose sum a source's times are: that repository's tables of equal contexts, of the same GPU, hold a
third of them (1,227 calls of RTX 4090, 3.03 +- 0.05; as many of RTX PRO 6000, 3.00 +- 0.02)."""
Columns = dict[str, float | npt.NDArray[Any]]
SHAPE = ("heads_q", "heads_kv", "head_dim")
AXES = ("prefill_tokens", "prefill_context", "decode_seqs", "long_seqs", "short_context", "long_context")
CALL = reals(*AXES)


def skew_checks(table: KernelTable, skipped: list[Skipped]) -> list[Check]:
    """Compare a table of unequal contexts; rows that cannot be used are appended to `skipped`."""
    by_device: dict[str, list[tuple[KernelTable, F8, dict[str, F8]]]] = {}
    for spec, part in _parts(_consistent(table, skipped), skipped):
        calls = np.array([CALLS.get(framework(source), 1.0) for source in part["source"]])
        times = [part[name] / calls for name in ("measured_s", "uniform_mean_s", "uniform_max_s")]
        added = added_seconds(spec, part, times[1], times[2])
        if added is None:
            _leave_out(part, skipped, f"{spec.name} has no model of this kernel's thread blocks")
            continue
        seconds = {BLOCKS: times[1] + added, MEAN: times[1], MODELS: by_models(spec, part)}
        by_device.setdefault(spec.name, []).append((part, times[0], seconds))
    out = []
    for device, parts in by_device.items():
        joined_parts = joined([part for part, _, _ in parts])
        measured = np.concatenate([times for _, times, _ in parts])
        for basis in (BLOCKS, MEAN, MODELS):
            predicted = np.concatenate([seconds[basis] for _, _, seconds in parts])
            bounds = BOUNDS if basis == BLOCKS else None
            out.append(Check(NAME, TITLE, device, basis, joined_parts, predicted, measured, bounds))
    return out


def _consistent(table: KernelTable, skipped: list[Skipped]) -> KernelTable:
    """Return the rows whose counts and contexts agree with their mean; add the others to `skipped`."""
    decodes, long = table["decode_seqs"], table["long_seqs"]
    keys = long * table["long_context"] + (decodes - long) * table["short_context"]
    good = (long <= decodes) & (np.abs(keys / decodes - table["mean_context"]) <= 1.0)
    _leave_out(table.take(~good), skipped, "long_seqs, contexts and mean_context do not agree")
    return table.take(good)


def _leave_out(table: KernelTable, skipped: list[Skipped], reason: str) -> None:
    rows = zip(table.file.tolist(), table.line.tolist(), strict=True)
    skipped += [Skipped(file, line, reason) for file, line in rows]


def _parts(table: KernelTable, skipped: list[Skipped]) -> Iterator[tuple[DeviceSpec, KernelTable]]:
    """Yield the rows of each device and shape of attention heads."""
    for name in dict.fromkeys(table["device"].tolist()):
        rows = table.take(table["device"] == name)
        try:
            spec = device_named(name, None)
            hardware(spec)
        except ValueError as error:
            _leave_out(rows, skipped, f"device: {error}")
            continue
        shapes = np.column_stack([rows[n] for n in SHAPE])
        for shape in np.unique(shapes, axis=0):
            yield spec, rows.take((shapes == shape).all(axis=1))


def added_seconds(spec: DeviceSpec, table: KernelTable, mean_s: F8, most_s: F8) -> F8 | None:
    """Return the time that unequal contexts add to each row, by a model of the thread blocks [s].

    The blocks are fitted to the calls of equal contexts. None if the blocks cannot be fitted.
    """
    shape = (int(table["heads_q"][0]), int(table["heads_kv"][0]), int(table["head_dim"][0]))
    columns = [table[n] for n in ("prefill_tokens", "prefill_context", "decode_seqs")]
    points = np.concatenate([np.column_stack([*columns, table[n]]) for n in ("mean_context", "long_context")]).astype(
        np.float64
    )
    points, first = np.unique(points, axis=0, return_index=True)
    fit = fit_blocks(spec, shape, points, np.concatenate([mean_s, most_s])[first])
    if fit is None:
        return None
    x = np.column_stack([table[n] for n in AXES]).astype(np.float64).view(CALL)[:, 0]
    p = fit.parameters[0]
    out, heap = np.empty(len(x)), np.empty(int(p.places))
    _added(p, x, mean_s, out, np.empty(int(x["decode_seqs"].max())), np.empty((2, 1)), heap)
    return out


@compiled
def _added(p: Records, x: Records, mean_s: F8, out: F8, keys: F8, prompt: F8, heap: F8) -> None:
    """Write the seconds that unequal contexts add, as `simulator.step.unequal` has it, without captured graphs.

    The long contexts come first.
    """
    for i in range(len(x)):
        count, long = int(x[i].decode_seqs), int(x[i].long_seqs)
        for j in range(count):
            keys[j] = (x[i].long_context if j < long else x[i].short_context) + 1.0
        mean, n = keys[:count].sum() / count, float(count)
        if x[i].prefill_tokens > 0.0:
            prompt[0, 0], prompt[1, 0] = x[i].prefill_tokens, x[i].prefill_context
            even = joint_seconds(p, keys, count, mean, prompt, 1, heap)
            out[i] = joint_seconds(p, keys, count, 0.0, prompt, 1, heap) - even
        else:
            tiles = np.ceil((x[i].long_context + 1.0) / p.tile)
            out[i] = blocks_seconds(p, keys, count, 0.0, n, tiles, heap) - mean_s[i]


def by_models(spec: DeviceSpec, table: KernelTable) -> F8:
    """Seconds of each row by the fitted families with vLLM's kernels, at the mean context."""
    common: Columns = {name: table[name] for name in SHAPE}
    common |= {"kv_bytes": 2.0, "gap": 1.0}
    decodes, tokens, seen = (table[n] for n in ("decode_seqs", "prefill_tokens", "prefill_context"))
    total = _priced(spec, "attention_decode", len(table), {
        **common, "batch": decodes, "keys": table["mean_context"] + 1.0, "copies": COLD,
        "packs": NO_LIMIT, "beside": tokens > 0, "queries": 1.0,
    })  # fmt: skip
    prompts = _priced(spec, "attention_prefill", len(table), {
        **common, "batch": tokens > 0, "q": tokens, "keys": seen + 0.5 * (tokens + 1.0),
        "kv": seen + tokens, "prefixed": seen > 0, "beside": decodes,
    })  # fmt: skip
    return total + prompts


def _priced(spec: DeviceSpec, name: str, count: int, columns: Columns) -> F8:
    """Seconds of calls of a family, whose other quantities are 0."""
    family = families()[name]
    x = np.zeros((count, len(family.quantities)))
    for quantity, values in columns.items():
        x[:, family.quantities.index(quantity)] = values
    values = shared_parameters(spec, family, "vllm").fit.values
    seconds: F8 = family.prices(values, hardware(spec), x)["seconds"]
    return seconds
