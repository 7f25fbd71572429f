"""Hardware simulator and kernel co-design lab for LLM and MoE inference.

The command line's functions, under the same names; they load on first use::

    from opbyte import load_model, load_system, roofline, simulate

A command of a group is a function of both words (``validate kernels``: `validate_kernels`), a list is
`catalog`, ``show`` is `describe`, ``init`` is `template` and `schema`.
"""

from __future__ import annotations

from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING

from ._version import __version__

_HOMES = {
    "InputError": "workloads.errors",
    "Scenario": "simulator.scenario",
    "afd": "analysis.answers.afd",
    "benchmark": "analysis.studies.benchmark",
    "calibrate": "analysis.validate.calibrate",
    "calibrate_run": "analysis.validate.hosts",
    "capacity": "analysis.studies.capacity",
    "catalog": "analysis.names",
    "compare": "analysis.answers.compare",
    "compare_demo": "analysis.answers.demo",
    "describe": "analysis.answers.description",
    "design": "analysis.studies.design",
    "design_describe": "analysis.studies.design",
    "dram": "analysis.answers.dram",
    "fastest_training": "analysis.answers.train_search",
    "frames": "analysis.answers.frames",
    "front": "analysis.studies.front",
    "inspect": "analysis.answers.inspect",
    "kernel_shapes": "analysis.answers.kernel_shapes",
    "layouts": "analysis.answers.layouts",
    "list_devices": "devices.catalog",
    "list_hosts": "devices.hosts.catalog",
    "list_memories": "devices.dram.catalog",
    "list_models": "workloads.catalog",
    "list_systems": "devices.catalog",
    "load_device": "devices.catalog",
    "load_host": "devices.hosts.catalog",
    "load_memory": "devices.dram.catalog",
    "load_model": "workloads.catalog",
    "load_system": "devices.catalog",
    "measure_configs": "analysis.validate.measure_configs",
    "measure_gpu_configs": "analysis.validate.gpu_configs",
    "measure_machine": "analysis.validate.measure",
    "measuring_script": "analysis.reference.kinds",
    "open_requests": "workloads.requests",
    "ops_by_share": "analysis.report.simulation",
    "pareto": "analysis.studies.pareto",
    "placement": "analysis.answers.placement",
    "plan": "analysis.studies.plan",
    "record": "analysis.live.record",
    "reproduce": "analysis.reproduce",
    "roofline": "analysis.answers.roofline",
    "schema": "analysis.reference.kinds",
    "search": "analysis.studies.search",
    "serve": "analysis.live.serve",
    "simulate": "analysis.answers.simulate",
    "simulate_seeds": "analysis.answers.seeds",
    "sweep": "analysis.studies.sweep",
    "sweep_kernels": "analysis.studies.kernel_sweep",
    "template": "analysis.reference.kinds",
    "train": "analysis.answers.train",
    "tune": "analysis.answers.tune",
    "tune_host": "analysis.answers.tune_host",
    "tune_rows": "analysis.answers.tune_many",
    "two_masters": "analysis.answers.two_masters",
    "validate_configs": "analysis.validate.configs",
    "validate_dram": "analysis.validate.dram",
    "validate_kernels": "analysis.validate.kernels",
    "validate_points": "analysis.validate.deployments",
    "validate_power": "analysis.validate.power",
    "validate_runs": "analysis.validate.runs",
    "validate_schedules": "analysis.validate.schedules",
    "validate_serving": "analysis.validate.serving",
}

__all__ = [
    "InputError",
    "Scenario",
    "__version__",
    "afd",
    "benchmark",
    "calibrate",
    "calibrate_run",
    "capacity",
    "catalog",
    "compare",
    "compare_demo",
    "describe",
    "design",
    "design_describe",
    "dram",
    "fastest_training",
    "frames",
    "front",
    "inspect",
    "kernel_shapes",
    "layouts",
    "list_devices",
    "list_hosts",
    "list_memories",
    "list_models",
    "list_systems",
    "load_device",
    "load_host",
    "load_memory",
    "load_model",
    "load_system",
    "measure_configs",
    "measure_gpu_configs",
    "measure_machine",
    "measuring_script",
    "open_requests",
    "ops_by_share",
    "pareto",
    "placement",
    "plan",
    "plots",
    "record",
    "reproduce",
    "roofline",
    "schema",
    "search",
    "serve",
    "simulate",
    "simulate_seeds",
    "sweep",
    "sweep_kernels",
    "template",
    "train",
    "tune",
    "tune_host",
    "tune_rows",
    "two_masters",
    "validate_configs",
    "validate_dram",
    "validate_kernels",
    "validate_points",
    "validate_power",
    "validate_runs",
    "validate_schedules",
    "validate_serving",
]

if TYPE_CHECKING:
    from opbyte.analysis import plots
    from opbyte.analysis.answers.afd import afd
    from opbyte.analysis.answers.compare import compare
    from opbyte.analysis.answers.demo import compare_demo
    from opbyte.analysis.answers.description import describe
    from opbyte.analysis.answers.dram import dram
    from opbyte.analysis.answers.frames import frames
    from opbyte.analysis.answers.inspect import inspect
    from opbyte.analysis.answers.kernel_shapes import kernel_shapes
    from opbyte.analysis.answers.layouts import layouts
    from opbyte.analysis.answers.placement import placement
    from opbyte.analysis.answers.roofline import roofline
    from opbyte.analysis.answers.seeds import simulate_seeds
    from opbyte.analysis.answers.simulate import simulate
    from opbyte.analysis.answers.train import train
    from opbyte.analysis.answers.train_search import fastest_training
    from opbyte.analysis.answers.tune import tune
    from opbyte.analysis.answers.tune_host import tune_host
    from opbyte.analysis.answers.tune_many import tune_rows
    from opbyte.analysis.answers.two_masters import two_masters
    from opbyte.analysis.live.record import record
    from opbyte.analysis.live.serve import serve
    from opbyte.analysis.names import catalog
    from opbyte.analysis.reference.kinds import measuring_script, schema, template
    from opbyte.analysis.report.simulation import ops_by_share
    from opbyte.analysis.reproduce import reproduce
    from opbyte.analysis.studies.benchmark import benchmark
    from opbyte.analysis.studies.capacity import capacity
    from opbyte.analysis.studies.design import design, design_describe
    from opbyte.analysis.studies.front import front
    from opbyte.analysis.studies.kernel_sweep import sweep_kernels
    from opbyte.analysis.studies.pareto import pareto
    from opbyte.analysis.studies.plan import plan
    from opbyte.analysis.studies.search import search
    from opbyte.analysis.studies.sweep import sweep
    from opbyte.analysis.validate.calibrate import calibrate
    from opbyte.analysis.validate.configs import validate_configs
    from opbyte.analysis.validate.deployments import validate_points
    from opbyte.analysis.validate.dram import validate_dram
    from opbyte.analysis.validate.gpu_configs import measure_gpu_configs
    from opbyte.analysis.validate.hosts import calibrate_run
    from opbyte.analysis.validate.kernels import validate_kernels
    from opbyte.analysis.validate.measure import measure_machine
    from opbyte.analysis.validate.measure_configs import measure_configs
    from opbyte.analysis.validate.power import validate_power
    from opbyte.analysis.validate.runs import validate_runs
    from opbyte.analysis.validate.schedules import validate_schedules
    from opbyte.analysis.validate.serving import validate_serving
    from opbyte.devices.catalog import list_devices, list_systems, load_device, load_system
    from opbyte.devices.dram.catalog import list_memories, load_memory
    from opbyte.devices.hosts.catalog import list_hosts, load_host
    from opbyte.simulator.scenario import Scenario
    from opbyte.workloads.catalog import list_models, load_model
    from opbyte.workloads.errors import InputError
    from opbyte.workloads.requests import open_requests


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name == "plots":
        return import_module("opbyte.analysis.plots")
    if name not in _HOMES:
        raise AttributeError(f"module 'opbyte' has no attribute {name!r}")
    value = getattr(import_module(f"opbyte.{_HOMES[name]}"), name)
    if isinstance(value, FunctionType):
        value = import_module("opbyte.workloads.errors").for_scripts(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
