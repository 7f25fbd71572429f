"""Hardware simulator and kernel co-design lab for LLM and MoE inference.

The command line's functions, under the same names; they load on first use::

    from opbyte import load_model, load_system, roofline, simulate

A command of a group is a function of both words (``validate kernels``: `validate_kernels`), a list is
`catalog`, ``show`` is `describe`, ``init`` is `template` and `schema`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared
from opbyte._version import __version__ as __version__

if TYPE_CHECKING:
    from opbyte.analysis import plots as plots
    from opbyte.analysis.answers.compare import compare as compare
    from opbyte.analysis.answers.demo import compare_demo as compare_demo
    from opbyte.analysis.answers.description import describe as describe
    from opbyte.analysis.answers.dram import dram as dram
    from opbyte.analysis.answers.frames import frames as frames
    from opbyte.analysis.answers.inspect import inspect as inspect
    from opbyte.analysis.answers.kernel_shapes import kernel_shapes as kernel_shapes
    from opbyte.analysis.answers.memory_rows import two_masters as two_masters
    from opbyte.analysis.answers.placement import placement as placement
    from opbyte.analysis.answers.roofline import roofline as roofline
    from opbyte.analysis.answers.seeds import simulate_seeds as simulate_seeds
    from opbyte.analysis.answers.simulate import simulate as simulate
    from opbyte.analysis.answers.train import train as train
    from opbyte.analysis.answers.train_recipe import fastest_training as fastest_training
    from opbyte.analysis.answers.tune import tune as tune
    from opbyte.analysis.answers.tune_host import tune_host as tune_host
    from opbyte.analysis.answers.tune_host import tune_rows as tune_rows
    from opbyte.analysis.live.record import record as record
    from opbyte.analysis.live.serve import serve as serve
    from opbyte.analysis.names import catalog as catalog
    from opbyte.analysis.reference.kinds import measuring_script as measuring_script
    from opbyte.analysis.reference.kinds import schema as schema
    from opbyte.analysis.reference.kinds import template as template
    from opbyte.analysis.report.simulation import ops_by_share as ops_by_share
    from opbyte.analysis.reproduce import reproduce as reproduce
    from opbyte.analysis.studies.benchmark import benchmark as benchmark
    from opbyte.analysis.studies.capacity import capacity as capacity
    from opbyte.analysis.studies.design import design as design
    from opbyte.analysis.studies.design import design_describe as design_describe
    from opbyte.analysis.studies.design.engines import search as search
    from opbyte.analysis.studies.front import front as front
    from opbyte.analysis.studies.plan import plan as plan
    from opbyte.analysis.studies.sweep import sweep as sweep
    from opbyte.analysis.validate.calibrate import calibrate as calibrate
    from opbyte.analysis.validate.configs import validate_configs as validate_configs
    from opbyte.analysis.validate.constants import validate_constants as validate_constants
    from opbyte.analysis.validate.dram import validate_dram as validate_dram
    from opbyte.analysis.validate.hosts import calibrate_run as calibrate_run
    from opbyte.analysis.validate.kernels import validate_kernels as validate_kernels
    from opbyte.analysis.validate.measure import measure_machine as measure_machine
    from opbyte.analysis.validate.measure_configs import measure_configs as measure_configs
    from opbyte.analysis.validate.measure_configs import measure_gpu_configs as measure_gpu_configs
    from opbyte.analysis.validate.power import validate_power as validate_power
    from opbyte.analysis.validate.runs import validate_runs as validate_runs
    from opbyte.analysis.validate.schedules import validate_schedules as validate_schedules
    from opbyte.devices.catalog import list_devices as list_devices
    from opbyte.devices.catalog import list_systems as list_systems
    from opbyte.devices.catalog import load_device as load_device
    from opbyte.devices.catalog import load_system as load_system
    from opbyte.devices.dram.spec import list_memories as list_memories
    from opbyte.devices.dram.spec import load_memory as load_memory
    from opbyte.devices.hosts.catalog import list_hosts as list_hosts
    from opbyte.devices.hosts.catalog import load_host as load_host
    from opbyte.simulator.scenario import Scenario as Scenario
    from opbyte.workloads.catalog import list_models as list_models
    from opbyte.workloads.catalog import load_model as load_model
    from opbyte.workloads.errors import InputError as InputError
    from opbyte.workloads.requests import open_requests as open_requests

__all__, __getattr__ = declared(__name__, __file__, scripts=True)
