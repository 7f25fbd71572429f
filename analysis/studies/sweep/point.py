"""One point of a sweep: a simulation, a training step, or a step with the best kernels in, a flat row of values or a line of error out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....devices.catalog import describe_system, load_system
from ....devices.hosts.catalog import host_sources
from ....devices.tiles.config import KernelConfig
from ....devices.tiles.form import Call, calls_of
from ....devices.tiles.machine import Machine, changed_spec, machine_of
from ....devices.tiles.rank import Priced, price_one, rank, reason_of
from ....devices.tiles.store import constants
from ....simulator.deploy.deployment import Deployment
from ....simulator.option import placed
from ....simulator.parts.two_pools.asked import counted
from ....simulator.quantity import columns
from ....simulator.results.record import Run
from ....simulator.scenario.load import CHANGED, changed_model, changed_system
from ....simulator.scenario.scenario import Scenario
from ....simulator.step.explicit import StageCost
from ....workloads.errors import InputError, nearest
from ....workloads.latencies import QUANTILES, Names
from ....workloads.requests.options import check_count
from ...answers.bases import bases_of
from ...answers.identity import POOLS
from ...answers.part_answers import COUNTS, LENGTHS, RATES, RUN_QUANTITIES, STATE, Figure, columns_of, with_columns
from ...answers.price import added_area_mm2, costs_of, gco2
from ...answers.seeds import Seeds, simulate_seeds
from ...answers.simulate import Simulation, simulate
from ...answers.step import step_of, work_joules
from ...answers.summary import LATENCIES
from ...answers.train import train
from ...show.record import code_version
from ...show.text import Records, Rows, plain
from ..stationary import stationary
from .axes import DEVICE, FIXED, KERNEL
from .expression import OF_RUN

STEP = {"batch": 64, "context": 2048, "prefill": 0}
"""The step of a point, where nothing else is said."""


def step_metrics(settings: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a point: of `file.OF_FIXED`, or of `file.OF_STEPS` and a row for each kernel of its step.

    Raises
    ------
    InputError
        A variant that cannot be costed.
    """
    how, model, system = options.pop(KERNEL), options.pop("model"), options.pop("system")
    system = load_system(system) if isinstance(system, str) else system
    batch, context, prefill = (check_count(options.pop(name, usual), name, 0, 1 << 31) for name, usual in STEP.items())
    if how == FIXED:
        deployment, stage = step_of(model, system, batch, context, prefill, options)
        return {
            "step_s": stage.seconds, "tokens_per_s": batch / stage.seconds, "joules": work_joules(deployment, stage),
            "processor_area_mm2": added_area_mm2(system.device),
        }  # fmt: skip
    changes = {k.removeprefix(DEVICE): _real(k, v) for k, v in settings.items() if k.startswith(DEVICE)}
    device = changed_spec(system.device, changes)
    changed = system.model_copy(update={"device": device})
    deployment, stage = step_of(model, changed, batch, context, prefill, options)
    kernels, replaced_s = _kernels(deployment, stage, machine_of(device), machine_of(system.device))
    rest_s = stage.seconds - replaced_s
    kept_s = None if any(k["kept_s"] is None for k in kernels) else rest_s + _sum(kernels, "kept_s")
    return {
        "step_s": rest_s + _sum(kernels, "seconds"),
        "kept_step_s": kept_s,
        "default_step_s": rest_s + _sum(kernels, "default_s"),
        "joules": work_joules(deployment, stage),
        "processor_area_mm2": added_area_mm2(device),
        "kernels_changed": sum(k["changed"] for k in kernels),
        "kernels": kernels,
    }


def _real(name: str, value: Any) -> float:
    """A number of a device."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(name, f"must be a number, not {value!r}")
    return float(value)


def _sum(kernels: Rows, seconds: str) -> float:
    """Return the total time of all kernel launches [s]."""
    return float(sum(k[seconds] * k["count"] for k in kernels))


def _kernels(deployment: Deployment, stage: StageCost, machine: Machine, as_built: Machine) -> tuple[Records, float]:
    """Kernels on the device's xPU that forms cover, and seconds that they take without the tile model."""
    launches: dict[tuple[Any, ...], int] = {}
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    replaced_s = 0.0
    kinds = {name: p.kind for name, p in deployment.system.device.processors.items()}
    for op_cost in stage.ops:
        calls = calls_of(op_cost.op) if op_cost.critical and kinds.get(op_cost.processor) == "xpu" else []
        replaced_s += op_cost.cost.seconds * op_cost.count if calls else 0.0
        for form, shape in calls:
            key = (form.name, *sorted(shape.items()))
            if key not in chosen:
                chosen[key] = _choose((form, shape), machine, as_built)
            launch = op_cost.op.name, *key
            launches[launch] = launches.get(launch, 0) + op_cost.count
    rows = [{"op": name, "kernel": key[0], "count": n, **chosen[key]} for (name, *key_), n in launches.items()
            for key in [tuple(key_)]]  # fmt: skip
    return rows, replaced_s


def _choose(call: Call, machine: Machine, as_built: Machine) -> dict[str, Any]:
    """The best configuration, and the seconds of the one that is best on the device as it is, and of the default."""
    form, shape = call
    p = constants(form.constants(machine, shape)).p

    def price(config: KernelConfig) -> Priced:
        return price_one(form, machine, shape, p, config)

    best = rank(form, machine, shape, p).top(1)[0]
    usual = best.config if machine == as_built else rank(form, as_built, shape, p).top(1)[0].config
    kept_s = None if reason_of(form, machine, shape, usual) else price(usual).seconds
    return {
        **best.config.to_dict(), "seconds": best.seconds, "kept_s": kept_s,
        "default_s": price(form.default(machine, shape)).seconds, "bound": best.bound,
        "changed": kept_s is None or usual != best.config,
    }  # fmt: skip


TRAINING = "training"
"""Setting of a point that is a training step: the others are options of `train`."""
SEEDS, PERCENTILES = "seeds", "percentiles"
"""Parameters in addition to the scenario's options: the mean over N seeds, and more percentiles of latencies."""


def parameters() -> tuple[str, ...]:
    """Return the scenario options that a sweep may set: options with one value."""
    known = placed(Scenario).items()
    return (*(name for name, p in known if p.option.kind is not tuple), SEEDS, PERCENTILES)


def check_parameter(name: str, where: str) -> None:
    """Refuse what cannot be set.

    Raises
    ------
    InputError
        Neither an option of a scenario nor a path that starts with ``model.`` or ``system.``.
    """
    head, _, path = name.partition(".")
    if head in ("model", "system") and path:
        return
    if name not in parameters():
        raise InputError(
            where,
            f"unknown parameter {name!r}{nearest(name, parameters())}; model.KEY and system.PATH reach into the specs",
        )


def scenario_of(point: Mapping[str, Any]) -> Scenario:
    """The scenario of a point, specs with their changes applied.

    Raises
    ------
    InputError
        A spec that cannot be read or does not allow the change.
    """
    known = placed(Scenario)
    given = {name: value for name, value in point.items() if name in known and value is not None}
    with_changes(given, point)
    return Scenario.of(**given)


def with_changes(given: dict[str, Any], point: Mapping[str, Any]) -> None:
    """Change the model and the system of given options as a point asks.

    Raises
    ------
    InputError
        A spec that is not given, cannot be read or does not allow the change.
    """
    for head, change in (("model", changed_model), ("system", changed_system)):
        inside = tuple(
            (name.partition(".")[2], value) for name, value in sorted(point.items()) if name.startswith(f"{head}.")
        )
        pooled = head == "system" and given.get("prefill") is not None
        if given.get(head) is None and not pooled:
            raise InputError(head, "is needed: give it in base or as an axis")
        if inside:
            given[head] = change(str(given[head]), inside)


def systems_of(point: Mapping[str, Any]) -> str:
    """Return the name of a point's system, or of its prefill and decode systems."""
    names = ("system",) if "system" in point else POOLS
    experts = f" with experts on {point['experts_on']}" if point.get("experts_on") else ""
    return "+".join(str(point[name]) for name in names) + experts


def sources_of(point: Mapping[str, Any]) -> dict[str, str]:
    """Key path -> source of every constant of a point's system, those set by the sweep too.

    With two pools, the system is the decode system.
    """
    named = counted(str(point["decode"]), "")[0] if "system" not in point else point["system"]
    system, sources = describe_system(str(named))
    sources = sources | host_sources(system, point.get("host"))
    changed = {n.partition(".")[2] for n in point if n.startswith("system.")}
    return {**sources, **dict.fromkeys(changed, CHANGED)}


SCALARS = columns((*COUNTS, *LENGTHS, *RATES, *STATE))
"""Values of `simulate` that a row contains unchanged. Wall-clock time is not included, so that equal points give
equal bytes."""
DERIVED = {
    "steady": "1 where rates are of a steady window, 0 where a run is too short for one.",
    "stationary": "1 where the queue of arrivals is stationary, as `capacity` and `plan` ask; 0 where it grows; "
    "empty if the run is too short to decide, or a closed loop.",
    "devices": "Devices of all copies.",
    "device_usd_per_hour": "Cost of one device [USD/h].",
    "usd_per_million_tokens": "Cost of all devices over output tokens [USD].",
    "processor_area_mm2": "What processors near memory add to all stacks of a device [mm2].",
    "gco2_per_token": "Carbon of the energy, where the grid's intensity is given [g].",
    "outside_share": "Share of the time outside a model's fitted range.",
    "tokens_per_s_per_device": "Output of all devices by their number [1/s].",
    "tokens_per_s_per_user": "One over the mean time per output token [1/s].",
    "watts_per_device": RUN_QUANTITIES["watts_per_device"].meaning,
}
"""And those that a row makes of them, with what they are."""
METRICS = (*SCALARS, *(f"{name}_{q}" for name in LATENCIES for q in QUANTILES), *DERIVED)
"""Every value of a row, in the order of the table."""
BASES = ("basis", "energy_basis")
"""Basis of a row's times and energy, as text: columns after the values."""
OF_PARTS = {facet.setting: columns(facet.columns) for facet in with_columns()}
"""Columns behind those, of points with some part, by the setting that asks for it."""
FIGURES = Names((*METRICS, *(name for names in OF_PARTS.values() for name in names)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a point: its values, or one line with the reason why there are none."""

    metrics: dict[str, Any] | None
    error: str | None


def evaluate(point: Mapping[str, Any], version: str) -> Outcome:
    """Simulate one point.

    Parameters
    ----------
    point : mapping
        Parameters by the names of `parameters.check_parameter`.
    version : str
        The sweep's code version; a worker with another one refuses.
    """
    try:
        if code_version() != version:
            reason = f"has OpByte {code_version()}, the sweep {version}; install the same"
            raise InputError("worker", reason)
        if point.get("kernel") is not None or point.get(TRAINING):
            options = {name: value for name, value in point.items() if "." not in name}
            with_changes(options, point)
            if point.get("kernel") is not None:
                return Outcome(step_metrics(point, options), None)
            step = train(**{name: value for name, value in options.items() if name not in (TRAINING, PERCENTILES)})
            return Outcome({"total_tokens_per_s": step.tokens_per_s, "joules_per_token": step.joules_per_token}, None)
        scenario, seeds, shown = scenario_of(point), point.get(SEEDS), point.get(PERCENTILES)
        if seeds is None:
            return Outcome(metrics_of(simulate(scenario, percentiles=shown)), None)
        return Outcome(metrics_of(simulate_seeds(scenario, seeds=seeds, percentiles=shown)), None)
    except InputError as error:
        return Outcome(None, str(error))
    except Exception as error:  # noqa: BLE001  # a point never stops a sweep, not even by a bug
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(None, f"internal error, please report: {text}")


def metrics_of(result: Simulation | Seeds) -> dict[str, Figure]:
    """The row of a result: `METRICS` and `BASES`; means over the seeds where several ran."""
    data = result.to_dict()
    row: dict[str, Any] = {name: data[name] for name in SCALARS}
    for name in LATENCIES:
        row |= {f"{name}_{q}": value for q, value in data[name].items() if q != "ci95"}
    runs = (result,) if isinstance(result, Simulation) else result.runs
    first, more = runs[0], [name for name in row if name not in METRICS]
    row |= costs_of(first.run, first.scenario, row["output_tokens_per_s"])
    row["gco2_per_token"] = gco2(row["joules_per_token"], first.scenario.grid_gCO2_per_kWh)
    row["outside_share"] = None if first.ranges is None else first.ranges.share
    rate, pace = row["output_tokens_per_s"], row["tpot_s_mean"]
    row["tokens_per_s_per_device"] = rate / row["devices"] if rate else None
    row["tokens_per_s_per_user"] = 1 / pace if pace else None
    row["steady"] = int(all(r.run.window.kind != "whole" for r in runs))
    row["stationary"] = _held(runs)
    row["watts_per_device"] = data["watts_per_device"]
    bases = bases_of(first.run.deployment)
    return {name: plain(row[name]) for name in (*METRICS, *more)} | {
        "basis": bases.times, "energy_basis": bases.energy, **_of_parts([r.run for r in runs]),
        **{OF_RUN + name: value for name, value in _numbers(data)},
    }  # fmt: skip


def _held(runs: Sequence[Simulation]) -> int | None:
    """Return whether every run's queue is stationary; None if undecided, or without a queue of arrivals."""
    verdicts = []
    for simulation in runs:
        if simulation.scenario.workload.closed_loop is not None:
            return None
        verdicts.append(stationary(simulation.run, simulation.scenario))
    return None if None in verdicts and False not in verdicts else int(all(verdicts))


def _numbers(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Figure]]:
    """Return every number of a result by its path."""
    for key, value in data.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path, plain(value)


def _of_parts(runs: Sequence[Run]) -> dict[str, Figure]:
    """Return values of the active parts: means over the seeds, texts of the first."""
    rows = [columns_of(run) for run in runs]
    return {name: plain(_mean([row.get(name) for row in rows])) for name in rows[0]}


def _mean(values: Sequence[Figure]) -> Figure:
    """None where any is undefined."""
    known = [x for x in values if isinstance(x, (int, float))]
    if len(values) == 1 or isinstance(values[0], str):
        return values[0]
    return sum(known) / len(known) if len(known) == len(values) else None
