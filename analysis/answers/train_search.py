"""Search for the fastest training step that fits, over degrees, micro-batches and recomputation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.spec import SystemSpec
from ...simulator.scenario.load import load
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
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
