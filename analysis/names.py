"""Names of the catalog: models, devices, systems, policies, rules and kinds, with one line on each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..workloads.errors import InputError, check_known
from ..workloads.registry import Registry
from .show.text import Records


def _models() -> Records:
    from ..workloads.catalog import catalog_entry, list_models

    entries = [e for name in list_models() if (e := catalog_entry(name)) is not None]
    return [{"name": e.name, "title": e.title, "aliases": ", ".join(e.aliases)} for e in entries]


def _devices() -> Records:
    from ..devices.catalog import list_devices, load_device

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


def _systems() -> Records:
    from ..devices.catalog import list_systems, load_system

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
                "device": spec.title or spec.device.title,
            }
        )
    return rows


def _hosts() -> Records:
    from ..devices.hosts.catalog import list_hosts, load_host

    rows = []
    for name in list_hosts():
        spec, _ = load_host(name)
        link = spec.link
        spread = None if link.spread is None else f"{link.spread.slow_rate:g} to {link.spread.fast_rate:g}"
        rows.append(
            {
                "name": name,
                "links": link.medium,
                "peer_access": link.peer_access,
                "rate": link.rate,
                "spread": spread,
                "title": spec.title,
            }
        )
    return rows


def _policies() -> Records:
    from ..simulator.engine.policies import POLICIES

    rows = []
    for name in POLICIES:
        p = POLICIES[name]
        rows.append({"name": name, "token_budget": p.token_budget, "chunked": p.chunked,
                     "max_sequences": p.max_sequences, "reserves_kv": p.reserve,
                     "title": POLICIES.title(name)})  # fmt: skip
    return rows


def _titles(registry: Registry[Any]) -> Records:
    """Return the names of a registry with one line on each."""
    return [{"name": name, "title": registry.title(name)} for name in registry]


def _expert_placements() -> Records:
    from ..simulator.parts.expert_map.placing import FILE
    from ..simulator.parts.expert_map.policies import MAP_POLICIES

    line = "file:PATH, a CSV with columns layer, expert, device: a row a copy"
    return [*_titles(MAP_POLICIES), {"name": FILE, "title": line}]


def _exchanges() -> Records:
    from ..devices.collectives.plans import ALGORITHMS, BY_STEP

    rows = []
    for name in ALGORITHMS:
        kind, _, algorithm = name.partition(":")
        rows.append({"name": algorithm, "of": kind, "title": ALGORITHMS.title(name)})
    for name, (alone, mixed) in BY_STEP.items():
        title = f"{alone} in decode-only steps, {mixed} in steps with prompts."
        rows.append({"name": name, "of": "all_to_all", "title": title})
    return rows


def _traces() -> Records:
    from ..workloads.requests import FORMATS

    return [
        {"name": name, "columns": ", ".join(FORMATS[name].columns), "title": FORMATS.title(name)} for name in FORMATS
    ]


def _spaces() -> Records:
    from .answers.description import spaces
    from .studies.design.engines import engine_space
    from .studies.design.space import read_space

    rows: Records = []
    for name, path in spaces().items():
        if (searched := engine_space(path)) is not None:
            rows.append({"name": name, "designs": None, "searched": f"{searched.engine} of {searched.board}",
                         "models": ", ".join(searched.models), "title": searched.title})  # fmt: skip
            continue
        space = read_space(path)
        rows.append({"name": name, "designs": space.size, "searched": ", ".join(space.names),
                     "models": ", ".join(space.models), "title": space.title})  # fmt: skip
    return rows


def _metrics() -> Records:
    from ..simulator.quantity import meanings
    from ..workloads.latencies import latency_of
    from .answers.part_answers import RUN_QUANTITIES, with_columns
    from .answers.summary import LATENCIES
    from .studies.sweep.point import DERIVED, METRICS

    known = {**meanings(tuple(RUN_QUANTITIES.values())), **DERIVED}
    out: dict[str, str] = {}
    for name in METRICS:
        if (latency := latency_of(name)) is not None:
            share = "mean" if latency.share is None else f"{latency.quantile[1:]}th percentile"
            out[name] = f"{LATENCIES[f'{latency.measure}_s'].capitalize()}, {share} [s]."
        else:
            out[name] = known[name]
    out |= {name: text for f in with_columns() for name, text in meanings(f.columns).items()}
    return [{"name": name, "title": text} for name, text in out.items()]


def _experiments() -> Records:
    from .reproduce import list_experiments

    return list_experiments()


def _kernels() -> Records:
    from ..kernels.gpu_layer_cases import CASES
    from ..kernels.lab import KERNELS, kernels

    measured = {case.name for case in CASES}
    return [
        {"name": kernel.name, "table": kernel.family or "-",
         "measured with": "numba, cupy" if kernel.name in measured else "numba",
         "title": KERNELS.title(f"{kernel.name}:numba")}
        for kernel in kernels("numba")
    ]  # fmt: skip


def _forms() -> Records:
    from ..devices.tiles.form import FORMS

    return [
        {"name": name, "shape": ", ".join(k.name for k in FORMS[name].keys),
         "configuration": ", ".join(FORMS[name].used), "title": FORMS.title(name)}
        for name in FORMS
    ]  # fmt: skip


def _memories() -> Records:
    from ..devices.dram.spec import list_memories, load_memory

    rows = []
    for name in list_memories():
        spec = load_memory(name)
        rows.append(
            {
                "name": name,
                "channels": spec.organisation.channels,
                "bandwidth_GBps": round(spec.stack_bytes_per_s / 1e9),
                "capacity_GiB": round(spec.organisation.channels * spec.organisation.channel_bytes / 2**30, 1),
                "title": spec.title,
            }
        )
    return rows


def _parts() -> Records:
    from ..simulator.engine.outside import OUTSIDE
    from ..simulator.registry import CODE, PARTS, refused_with

    OUTSIDE.load()  # those of packages
    return [
        {"name": name, "options": part.flags, "title": part.title,
         "cannot be combined with": "; ".join(f"{other} ({why})" for other, why in refused_with(name).items()),
         "page": part.page, "code": " ".join(CODE[name]), "tests": " ".join(part.tests)}
        for name, part in PARTS.items()
    ]  # fmt: skip


def _prices() -> Records:
    from .answers.price import price_rows

    return price_rows()


LISTS: dict[str, str | Callable[[], Records]] = {
    "models": _models,
    "devices": _devices,
    "systems": _systems,
    "hosts": _hosts,
    "memories": _memories,
    "policies": _policies,
    "orders": "simulator.engine.orders:ORDERS",
    "parts": _parts,
    "placements": "simulator.deploy.placement:PLACEMENTS",
    "expert-caches": "simulator.parts.expert_cache.policies:CACHE_POLICIES",
    "expert-placements": _expert_placements,
    "routers": "simulator.fleet.routers:ROUTERS",
    "autoscalers": "simulator.parts.autoscale.scalers:SCALERS",
    "routings": "workloads.routing:ROUTINGS",
    "layers": "workloads.layers:LAYER_KINDS",
    "speculators": "workloads.speculators:SPECULATORS",
    "processors": "devices.kinds:PROCESSOR_KINDS",
    "exchanges": _exchanges,
    "traces": _traces,
    "kernels": _kernels,
    "forms": _forms,
    "benchmarks": "analysis.studies.benchmark:BENCHMARKS",
    "spaces": _spaces,
    "metrics": _metrics,
    "experiments": _experiments,
    "prices": _prices,
}
"""Function that returns the rows of each list, or the registry whose names and titles are its rows."""


MEANT = {"kinds": "processors", "processor-kinds": "processors", "designs": "spaces"}
"""Correct names for wrong list names that differ too much for a spelling suggestion."""


def catalog(kind: str) -> Records:
    """Return the rows of one list, each with a `name`.

    Raises
    ------
    InputError
        Unknown kind.
    """
    if kind in MEANT:
        raise InputError(f"KIND {kind!r}", f"is not a list of the catalog; did you mean {MEANT[kind]!r}?")
    check_known(f"KIND {kind!r}", kind, LISTS, "is not a list of the catalog")
    rows = LISTS[kind]
    if not isinstance(rows, str):
        return rows()
    module, _, name = rows.partition(":")
    return _titles(getattr(import_module(f"...{module}", __name__), name))
