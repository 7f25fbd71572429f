"""What can be named: models, devices, systems, policies and rules, with a line on each."""

from __future__ import annotations

from typing import Any

from ...workloads.errors import InputError, nearest

ROUTING_TITLES = {
    "uniform": "all experts equally likely",
    "measured": "skewed per layer and per prompt, as measured on DeepSeek-V2-Lite",
    "power_law": "power_law:S, the r-th most popular expert has probability r^-S",
    "trace": "trace:FILE, activation counts from a CSV: layer, e0, e1, ...",
}


def _models() -> list[dict[str, Any]]:
    from ...workloads.catalog import catalog_entry, list_models

    entries = [e for name in list_models() if (e := catalog_entry(name)) is not None]
    return [{"name": e.name, "title": e.title, "aliases": ", ".join(e.aliases)} for e in entries]


def _devices() -> list[dict[str, Any]]:
    from ...devices.catalog import list_devices, load_device

    rows = []
    for name in list_devices():
        spec, _ = load_device(name)
        rows.append(
            {
                "name": name,
                "memory_GiB": round(spec.memory.capacity_bytes / 2**30, 1),
                "bandwidth_GBps": round(spec.memory.bandwidth_bytes_per_s / 1e9),
                "processors": ", ".join(spec.processors),
                "title": spec.title,
                "aliases": ", ".join(spec.aliases),
            }
        )
    return rows


def _systems() -> list[dict[str, Any]]:
    from ...devices.catalog import list_systems, load_system

    rows = []
    for name in list_systems():
        spec = load_system(name)
        devices = spec.devices_per_node * spec.nodes
        rows.append(
            {
                "name": name,
                "devices": devices,
                "nodes": spec.nodes,
                "memory_GiB": round(devices * spec.device.memory.capacity_bytes / 2**30),
                "device": spec.device.title,
            }
        )
    return rows


def _policies() -> list[dict[str, Any]]:
    from ...simulator.batching.policies import POLICIES

    rows = []
    for name in POLICIES:
        p = POLICIES[name]
        rows.append({"name": name, "token_budget": p.token_budget, "chunked": p.chunked,
                     "max_sequences": p.max_sequences, "reserves_kv": p.reserve})  # fmt: skip
    return rows


def _placements() -> list[dict[str, Any]]:
    from ...simulator.deploy.placement import PLACEMENTS

    return [{"name": name, "title": PLACEMENTS[name].title} for name in PLACEMENTS]


def _routings() -> list[dict[str, Any]]:
    from ...workloads.routing import ROUTINGS

    return [{"name": name, "title": ROUTING_TITLES.get(name, "")} for name in ROUTINGS]


def _experiments() -> list[dict[str, Any]]:
    from ..reproduce import list_experiments

    return list_experiments()


def _kernels() -> list[dict[str, Any]]:
    from importlib import import_module

    from ...kernels.gpu_cases import CASES
    from ...kernels.lab import kernels

    measured = {case.name for case in CASES}
    rows = []
    for kernel in kernels("numba"):
        text = import_module(f"....kernels.{kernel.name}", __name__).__doc__ or ""
        rows.append({"name": kernel.name, "table": kernel.family or "-",
                     "measured with": "numba, cupy" if kernel.name in measured else "numba",
                     "title": text.partition("\n")[0].rstrip(".:")})  # fmt: skip
    return rows


def _memories() -> list[dict[str, Any]]:
    from ...devices.dram.catalog import list_memories, load_memory

    rows = []
    for name in list_memories():
        spec = load_memory(name)
        rows.append(
            {
                "name": name,
                "channels": spec.organisation.channels,
                "bandwidth_GBps": round(spec.stack_bytes_per_s / 1e9),
                "capacity_GiB": round(
                    spec.organisation.channels * spec.organisation.channel_bytes / 2**30, 1
                ),
                "title": spec.title,
            }
        )
    return rows


LISTS = {
    "models": _models,
    "devices": _devices,
    "systems": _systems,
    "memories": _memories,
    "policies": _policies,
    "placements": _placements,
    "routings": _routings,
    "kernels": _kernels,
    "experiments": _experiments,
}


def catalog(kind: str) -> list[dict[str, Any]]:
    """Rows of one list, each with a `name`.

    Raises
    ------
    InputError
        Unknown kind.
    """
    if kind not in LISTS:
        raise InputError(f"KIND {kind!r}", f"is no list of the catalog{nearest(kind, LISTS)}")
    return LISTS[kind]()
