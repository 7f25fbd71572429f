"""One model on systems of any kind, side by side: a step's time, energy, memory and what binds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ...devices.catalog import load_system
from ...devices.spec import DeviceSpec, SystemSpec
from ...simulator.fpga.schedules import SCHEDULES
from ...simulator.limits import MAX_MICRO_BATCHES
from ...simulator.option import chosen
from ...simulator.parts.experts_apart import OPTION, check_experts_on
from ...simulator.scenario.load import load
from ...simulator.scenario.options import DeployOptions
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count, check_seed
from .bases import bases_of
from .comparison import SystemComparison, SystemRow, break_evens, routed_part
from .error_factors import Conditions, engine_named
from .interval import Interval, step_interval
from .one_step import StepCost, StepLoad, available_bytes, needed_bytes, num_devices, step_cost, step_on
from .ranges import Ranges, ranges_of_stage
from .rests import basis_of
from .step import MAX_BATCH
from .usual import kernels_as_usual

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import DeployOptionsKeywords

MAX_IMAGES = 10_000
TRIED = (1, 2, 3, 4)
"""Numbers of micro-batches tried by default for a step with experts on separate devices."""


@dataclass(frozen=True, slots=True)
class Experts:
    """The system of the routed experts, as given and loaded, the link to it, and micro-batches."""

    given: str | Path | SystemSpec
    system: SystemSpec
    link: str | None
    batches: Sequence[int]


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
    experts_on: str | Path | SystemSpec | None = None,
    micro_batches: int | None = None,
    experts_link: str | None = None,
    **options: Unpack[DeployOptionsKeywords],
) -> SystemComparison:
    """Cost one step of a model on several systems.

    Parameters
    ----------
    systems : sequence of str, Path or SystemSpec
        Catalog names or files. If the model does not fit on one, its row gives the reason.
    batch, context : int
        Decoding sequences of a language model, and the cached tokens of each.
    images : int, optional
        Images of an encoder (default 1): one batch on GPUs, one after another on an FPGA.
    layers : int, optional
        Number of layers to use, without embedding and head.
    schedule : str
        Order in which an FPGA runs the experts.
    seed : int, optional
        Seed of an FPGA's expert samples (default 0); other devices use expected loads.
    experts_on : str, Path or SystemSpec, optional
        A system that runs only routed experts. Each system gets a second row with its experts there.
    micro_batches, experts_link : int, str, optional
        Micro-batches and link of these second rows, as in `simulate`. Default: the fastest of 1 to 4 micro-batches.
    **options
        Options of `simulator.scenario.options.DeployOptions` for all systems, such as ``dtype`` or ``costs``. An FPGA
        accepts only number formats and ``routing``.

    Raises
    ------
    InputError
        Unknown names, sizes out of range, no systems.

    Examples
    --------
    >>> compare("llama-3-8b", ["tpu-v5e-x4", "tpu-v6e-x4"]).notes
    ('caches of 48 to 128 MiB: the roofline cost model does not see cache_MiB',)
    """
    if not systems:
        raise InputError("--systems", "needs at least one system, such as h100-x1")
    SCHEDULES[schedule]  # refuses an unknown name, also if no system is an FPGA
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
    experts = _experts(experts_on, micro_batches, experts_link, what, how)
    rows = tuple(
        _row(spec, system, what, how, given, apart)
        for given, (_, system) in zip(systems, loaded, strict=True)
        for apart in ((None,) if experts is None else (None, experts))
    )
    moe, mean_queue = routed_part(spec), None
    if moe is not None:
        tokens = spec.front.tokens if spec.front else batch
        mean_queue = tokens * moe.routed.top_k / moe.routed.experts
    return SystemComparison(
        spec, 0 if what.images else batch, 0 if what.images else context, what.images, mean_queue, rows,
        notes=_unseen([system.device for _, system in loaded], how.costs == "roofline"),
    )  # fmt: skip


def _unseen(devices: Sequence[DeviceSpec], roofline: bool) -> tuple[str, ...]:
    """Say that rooflines do not depend on the size of the cache, if devices costed by rooflines differ in it."""
    sizes = {
        d.memory.cache_bytes // 2**20
        for d in devices
        if d.memory.cache_bytes and (roofline or not (d.kernels or d.calibration))
    }
    if len(sizes) < 2:
        return ()
    return (f"caches of {min(sizes):g} to {max(sizes):g} MiB: the roofline cost model does not see cache_MiB",)


def _experts(
    system: str | Path | SystemSpec | None, batches: int | None, link: str | None, what: StepLoad, how: DeployOptions
) -> Experts | None:
    """Return the separate system of the routed experts; None if they run on the compared systems."""
    check_experts_on(system, batches, link)
    if system is None:
        return None
    if what.images or (how.pp or 1) > 1:
        raise InputError(OPTION, "costs a step of decodes in one stage; remove --images and --pp")
    check_count(1 if batches is None else batches, "--micro-batches", 1, MAX_MICRO_BATCHES)
    known = load_system(system) if isinstance(system, (str, Path)) else system
    return Experts(system, known, link, TRIED if batches is None else (batches,))


def _row(
    model: ModelSpec, system: SystemSpec, what: StepLoad, how: DeployOptions, given: str | Path | SystemSpec,
    experts: Experts | None,
) -> SystemRow:  # fmt: skip
    """Return the result of one system, or the reason why it has none."""
    systems = (system,) if experts is None else (system, experts.system)
    kinds = tuple(dict.fromkeys(p.kind for s in systems for p in s.device.processors.values()))
    kernels = kernels_as_usual(how, *systems)
    row = SystemRow(
        " with experts on ".join(s.name for s in systems), kinds, sum(map(num_devices, systems)), "", None, None, None, None,
        needed_bytes(model, system, what), sum(map(available_bytes, systems)), (),
        break_evens(model, systems[-1]), framework=kernels.framework, items=what.items,
    )  # fmt: skip
    try:
        step = (
            step_cost(model, system, what, kernels)
            if experts is None
            else _apart(model, system, what, kernels, experts)
        )
    except CapacityError as error:
        several = row.devices > 1 and row.memory_bytes <= row.memory_available_bytes
        more = "; one copy would fit on all devices together: tensor-parallel ranks copy what they cannot cut, try more --dp"
        return replace(row, reason=f"{error}{more if several else ''}")
    holder = step.deployment and step.deployment.apart and step.deployment.apart.holder
    return replace(
        row, latency_s=step.seconds, items_per_s=what.items / step.seconds, joules=step.joules,
        static_joules=step.static_joules, layers=step.layers, warnings=step.warnings,
        memory_bytes=row.memory_bytes - (0.0 if holder else step.elsewhere_bytes),
        bases=bases_of(step.deployment), interval=_interval(step, kernels.framework), ranges=_checked(step, how.strict),
        rests=basis_of(given, system, step.deployment, how.host),
        holder=basis_of(experts.given, experts.system, holder) if experts and holder else None,
    )  # fmt: skip


def _apart(model: ModelSpec, system: SystemSpec, what: StepLoad, how: DeployOptions, experts: Experts) -> StepCost:
    """Return the fastest step over the given numbers of micro-batches; its energy includes both groups of devices."""
    from ...simulator.parts.experts_apart.one_step import apart_of, spent  # compiled code behind it

    one = apart_of(model, system, experts.system, how, experts.link)
    assert one.apart is not None
    made = [replace(one, apart=replace(one.apart, batches=n)) for n in experts.batches]
    step = min((step_on(d, system, what) for d in made), key=lambda step: step.seconds)
    d, stage = step.deployment, step.stage
    assert d is not None
    assert d.apart is not None
    assert stage is not None
    joules, static = zip(*(spent(d, stage, group) for group in (d, d.apart.holder)), strict=True)
    return replace(step, joules=sum(joules), static_joules=sum(static))


def _checked(step: StepCost, strict: bool) -> Ranges | None:
    """Return the share of a step that is out of range; refuse it if `strict`."""
    if step.deployment is None or step.stage is None:
        return None
    ranges = ranges_of_stage(step.deployment, step.stage)
    ranges.refuse(strict)
    return ranges


def _interval(step: StepCost, framework: str | None) -> Interval | None:
    """Return factors on a step's time; None if the step is not costed op by op, as on an FPGA."""
    if step.deployment is None or step.stage is None:
        return None
    return step_interval(Conditions(step.deployment, step.stage, *engine_named(framework)))
