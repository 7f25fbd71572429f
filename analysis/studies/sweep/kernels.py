"""Points of a sweep of steps: with the best kernels on a variant of a device, or with the device's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....devices.catalog import load_system
from ....devices.tiles.config import KernelConfig
from ....devices.tiles.form import Call, calls_of
from ....devices.tiles.machine import Machine, changed_spec, machine_of
from ....devices.tiles.rank import Priced, price_one, rank, reason_of
from ....devices.tiles.store import constants
from ....simulator.deploy.deployment import Deployment
from ....simulator.step.explicit import StageCost
from ....workloads.errors import InputError
from ....workloads.requests.options import check_count
from ...answers.price import added_area_mm2
from ...answers.step import step_of, work_joules
from ...show.text import Records, Rows
from .axes import DEVICE, FIXED, KERNEL

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
    for placed in stage.ops:
        calls = calls_of(placed.op) if placed.critical and kinds.get(placed.processor) == "xpu" else []
        replaced_s += placed.cost.seconds * placed.count if calls else 0.0
        for form, shape in calls:
            key = (form.name, *sorted(shape.items()))
            if key not in chosen:
                chosen[key] = _choose((form, shape), machine, as_built)
            launch = placed.op.name, *key
            launches[launch] = launches.get(launch, 0) + placed.count
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
