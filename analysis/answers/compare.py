"""One model on systems of any kind, side by side: a step's time, energy, memory and what binds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ...devices.spec import SystemSpec
from ...simulator.deploy.break_even import break_evens, routed_part
from ...simulator.fpga.schedules import SCHEDULES
from ...simulator.option import chosen
from ...simulator.scenario.load import load
from ...simulator.scenario.one_step import StepCost, StepLoad, available_bytes, needed_bytes, num_devices, step_cost
from ...simulator.scenario.options import DeployOptions
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count, check_seed
from .bases import bases_of
from .comparison import SystemComparison, SystemRow
from .error_factors import Conditions, engine_named
from .interval import Interval, step_interval
from .ranges import Ranges, ranges_of_stage
from .rests import rests_of
from .step import MAX_BATCH
from .usual import kernels_as_usual

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import DeployOptionsKeywords

MAX_IMAGES = 10_000


def compare(
    model: str | Path | ModelSpec,
    systems: Sequence[str | Path | SystemSpec],
    *,
    batch: int = 1,
    context: int = 2048,
    images: int | None = None,
    layers: int | None = None,
    schedule: str = "reordered",
    seed: int | None = None,
    **options: Unpack[DeployOptionsKeywords],
) -> SystemComparison:
    """Cost one step of a model on several systems.

    Parameters
    ----------
    systems : sequence of str, Path or SystemSpec
        Catalog names or files; those that the model does not fit on say why.
    batch, context : int
        Decoding sequences and their cached tokens, of a language model.
    images : int, optional
        Images of an encoder, 1 unless given: at once on GPUs, one after another on an FPGA.
    layers : int, optional
        Number of layers to use, without embedding and head.
    schedule : str
        Of experts on an FPGA.
    seed : int, optional
        Seed of an FPGA's expert samples (default 0); other devices use expected loads.
    **options
        Options of `simulator.scenario.options.DeployOptions`, such as ``dtype`` or ``costs``, of all
        systems alike; an FPGA takes number formats and ``routing``.

    Raises
    ------
    InputError
        Unknown names, sizes out of range, no systems.
    """
    if not systems:
        raise InputError("--systems", "needs at least one system, such as h100-x1")
    SCHEDULES[schedule]  # an unknown name is refused whatever the systems are
    check_seed(seed or 0)
    check_count(batch, "--batch", 1, MAX_BATCH)
    check_count(context, "--context", 0)
    check_count(1 if images is None else images, "--images", 1, MAX_IMAGES)
    how = chosen(DeployOptions, options)
    loaded = [load(model, system, how.dtype, how.kv_dtype) for system in systems]
    spec = loaded[0][0].of_length(context + 1)
    if layers is not None:
        check_count(layers, "--layers", 1, len(spec.layers))
        spec = replace(spec, layers=spec.layers[:layers], vocab=0, tied=True, extra_weights=0)
    if images is not None and not spec.front:
        raise InputError("--images", f"{spec.name} is not an encoder of images")
    if seed is not None and not any(system.device.on_engine for _, system in loaded):
        raise InputError(
            "--seed", "seeds the expert sampling of FPGA systems, but no system here is an FPGA; remove --seed"
        )
    what = StepLoad(batch, context, (images or 1) if spec.front else 0, schedule, seed or 0)
    rows = tuple(_row(spec, system, what, how, given) for given, (_, system) in zip(systems, loaded, strict=True))
    moe, mean_queue = routed_part(spec), None
    if moe is not None:
        tokens = spec.front.tokens if spec.front else batch
        mean_queue = tokens * moe.routed.top_k / moe.routed.experts
    return SystemComparison(
        spec, 0 if what.images else batch, 0 if what.images else context, what.images, mean_queue, rows
    )


def _row(
    model: ModelSpec, system: SystemSpec, what: StepLoad, how: DeployOptions, given: str | Path | SystemSpec
) -> SystemRow:
    """Return the result of one system, or the reason why it has none."""
    kinds = tuple(p.kind for p in system.device.processors.values())
    kernels = kernels_as_usual(how, system)
    row = SystemRow(
        system.name, kinds, num_devices(system), "", None, None, None, None,
        needed_bytes(model, system, what), available_bytes(system), (),
        break_evens(model, system), framework=kernels.framework, items=what.items,
    )  # fmt: skip
    try:
        step = step_cost(model, system, what, kernels)
    except CapacityError as error:
        return replace(row, reason=str(error))
    return replace(
        row, latency_s=step.seconds, items_per_s=what.items / step.seconds, joules=step.joules,
        static_joules=step.static_joules, layers=step.layers, warnings=step.warnings,
        memory_bytes=row.memory_bytes - step.elsewhere_bytes,
        bases=bases_of(step.deployment), interval=_interval(step, kernels.framework), ranges=_checked(step, how.strict),
        rests=rests_of(given, system, step.deployment, how.host),
    )  # fmt: skip


def _checked(step: StepCost, strict: bool) -> Ranges | None:
    """Return the share of a step that is out of range; refuse it if `strict`."""
    if step.deployment is None or step.stage is None:
        return None
    ranges = ranges_of_stage(step.deployment, step.stage)
    ranges.refuse(strict)
    return ranges


def _interval(step: StepCost, framework: str | None) -> Interval | None:
    """Factors on a step's time, where it is made of ops."""
    if step.deployment is None or step.stage is None:
        return None
    return step_interval(Conditions(step.deployment, step.stage, *engine_named(framework)))
