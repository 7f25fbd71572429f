"""Hardware simulator and kernel co-design lab for LLM and MoE inference.

The command line's functions, under the same names; they load on first use::

    from opbyte import load_model, load_system, roofline, simulate
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

_HOMES = {
    "InputError": "workloads.errors",
    "Scenario": "simulator.scenario",
    "afd": "analysis.answers.afd",
    "capacity": "analysis.studies.capacity",
    "compare": "analysis.answers.compare",
    "compare_demo": "analysis.answers.demo",
    "dram": "analysis.answers.dram",
    "fastest_training": "analysis.answers.train_search",
    "frames": "analysis.answers.frames",
    "inspect": "analysis.answers.inspect",
    "layouts": "analysis.answers.layouts",
    "list_devices": "devices.catalog",
    "list_memories": "devices.dram.catalog",
    "list_models": "workloads.catalog",
    "list_systems": "devices.catalog",
    "load_device": "devices.catalog",
    "load_memory": "devices.dram.catalog",
    "load_model": "workloads.catalog",
    "load_system": "devices.catalog",
    "open_requests": "workloads.requests",
    "pareto": "analysis.studies.pareto",
    "placement": "analysis.answers.placement",
    "plan": "analysis.studies.plan",
    "record": "analysis.live.record",
    "roofline": "analysis.answers.roofline",
    "search": "analysis.studies.search",
    "serve": "analysis.live.serve",
    "simulate": "analysis.answers.simulate",
    "simulate_seeds": "analysis.answers.seeds",
    "sweep": "analysis.studies.sweep",
    "train": "analysis.answers.train",
    "tune": "analysis.answers.tune",
    "tune_rows": "analysis.answers.tune_many",
    "two_masters": "analysis.answers.two_masters",
}

__all__ = [
    "InputError",
    "Scenario",
    "__version__",
    "afd",
    "capacity",
    "compare",
    "compare_demo",
    "dram",
    "fastest_training",
    "frames",
    "inspect",
    "layouts",
    "list_devices",
    "list_memories",
    "list_models",
    "list_systems",
    "load_device",
    "load_memory",
    "load_model",
    "load_system",
    "open_requests",
    "pareto",
    "placement",
    "plan",
    "record",
    "roofline",
    "search",
    "serve",
    "simulate",
    "simulate_seeds",
    "sweep",
    "train",
    "tune",
    "tune_rows",
    "two_masters",
]

if TYPE_CHECKING:
    from opbyte.analysis.answers.afd import afd
    from opbyte.analysis.answers.compare import compare
    from opbyte.analysis.answers.demo import compare_demo
    from opbyte.analysis.answers.dram import dram
    from opbyte.analysis.answers.frames import frames
    from opbyte.analysis.answers.inspect import inspect
    from opbyte.analysis.answers.layouts import layouts
    from opbyte.analysis.answers.placement import placement
    from opbyte.analysis.answers.roofline import roofline
    from opbyte.analysis.answers.seeds import simulate_seeds
    from opbyte.analysis.answers.simulate import simulate
    from opbyte.analysis.answers.train import train
    from opbyte.analysis.answers.train_search import fastest_training
    from opbyte.analysis.answers.tune import tune
    from opbyte.analysis.answers.tune_many import tune_rows
    from opbyte.analysis.answers.two_masters import two_masters
    from opbyte.analysis.live.record import record
    from opbyte.analysis.live.serve import serve
    from opbyte.analysis.studies.capacity import capacity
    from opbyte.analysis.studies.pareto import pareto
    from opbyte.analysis.studies.plan import plan
    from opbyte.analysis.studies.search import search
    from opbyte.analysis.studies.sweep import sweep
    from opbyte.devices.catalog import list_devices, list_systems, load_device, load_system
    from opbyte.devices.dram.catalog import list_memories, load_memory
    from opbyte.simulator.scenario import Scenario
    from opbyte.workloads.catalog import list_models, load_model
    from opbyte.workloads.errors import InputError
    from opbyte.workloads.requests import open_requests


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'opbyte' has no attribute {name!r}")
    value = getattr(import_module(f"opbyte.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
