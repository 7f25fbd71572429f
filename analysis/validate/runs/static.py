"""Static batches: all prompts in one pass, then decode steps of the whole batch; no queue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....devices.catalog import device_names, load_system
from ....simulator.deploy.deployment import Deployment
from ....simulator.scenario.load import load
from ....simulator.scenario.options import DeployOptions
from ....simulator.scenario.place import deployed
from ....simulator.step.explicit import explicit_stage
from ....workloads.batch import Batch
from ....workloads.csvfile import read_rows
from ....workloads.errors import InputError, errors_in
from ..check import RunCheck

TEXTS = ("run", "device", "model", "dtype", "lengths")
COUNTS = ("tp", "output_tokens")
METRICS = ("prefill", "decode", "total")
TIMES = tuple(f"{name}_s" for name in METRICS)
MOST, SHORTEST_S = 2**31 - 1, 1e-9
MOST_SEQUENCES = 65_536


@dataclass(frozen=True, slots=True)
class StaticBatch:
    """One line of a table.

    Attributes
    ----------
    device : str
        Name in the catalog.
    lengths : tuple of int
        Tokens of each prompt.
    measured : dict of str to float
        By metric [s].
    """

    name: str
    device: str
    tp: int
    model: str
    dtype: str
    output_tokens: int
    lengths: tuple[int, ...]
    measured: dict[str, float]


def read_static(path: Path) -> tuple[list[StaticBatch], list[str]]:
    """Batches of a table, and what was left out: those on devices that the catalog lacks.

    Raises
    ------
    InputError
        No table, a missing column, or a cell that cannot be used.
    """
    names = device_names()
    batches, left = [], []
    for line, named in read_rows(path, TEXTS, COUNTS, TIMES, SHORTEST_S, MOST):
        where = f"{path}:{line}"
        if named["device"] not in names:
            left.append(f"{where}: device {named['device']!r} is not in the catalog")
        else:
            batches.append(_batch(where, named, names[named["device"]]))
    return batches, left


def _batch(where: str, row: Mapping[str, Any], device: str) -> StaticBatch:
    match = re.fullmatch(r"\d{1,9}( \d{1,9})*", row["lengths"].strip())
    lengths = tuple(int(text) for text in match[0].split()) if match else ()
    if not 1 <= len(lengths) <= MOST_SEQUENCES or min(lengths) < 1:
        raise InputError(where, "lengths: must be whole numbers of at least 1 between spaces")
    return StaticBatch(
        row["run"], device, row["tp"], row["model"], row["dtype"], row["output_tokens"], lengths,
        {name: row[f"{name}_s"] for name in METRICS},
    )  # fmt: skip


def replay_static(
    path: Path, batches: Sequence[StaticBatch], kernels: str, host: str | Path | None = None
) -> list[RunCheck]:
    """Cost the batches of a table; one entry a batch."""
    entries = []
    for batch in batches:
        with errors_in(f"{path}: run {batch.name!r}"):
            beside = path.parent / "models" / batch.model
            named = beside if beside.is_dir() else batch.model
            model, system = load(named, load_system(f"{batch.device}-x{batch.tp}"), batch.dtype)
            options = replace(DeployOptions(), framework=kernels, host=None if host is None else str(host), tp=batch.tp)
            simulated = static_times(deployed(model, system, options), batch.lengths, batch.output_tokens)
        values = {name: simulated[name] for name in batch.measured}
        entries.append(RunCheck(batch.name, None, batch.measured, values, f"{system.name}, {kernels} kernels"))
    return entries


def static_times(
    deployment: Deployment, lengths: Sequence[int], output_tokens: int, contexts: int = MOST
) -> dict[str, float]:
    """Seconds of the pass over all prompts, of the median decode step, and of everything.

    The pass yields every sequence's first token, `output_tokens` - 1 steps the others, of which at most `contexts` are
    costed: between them seconds are linear.
    """
    prefill = explicit_stage(deployment, [Batch.of(chunks=[(n, 0) for n in lengths])], expected=True).seconds
    every = np.arange(output_tokens - 1)
    at = every
    if len(every) > contexts:
        at = np.unique(np.linspace(0, output_tokens - 2, contexts).round().astype(int))
    costed = [
        explicit_stage(deployment, [Batch.of([n + i for n in lengths])], expected=True).seconds for i in at.tolist()
    ]
    steps = np.interp(every, at, costed).tolist() if costed else []
    median = float(np.median(steps)) if steps else 0.0
    return {"prefill": prefill, "decode": median, "total": prefill + sum(steps)}
