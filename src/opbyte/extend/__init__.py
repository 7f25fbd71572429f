"""Interface for extensions: stable names, typed and documented.

`docs/extending.md` shows their use; the papers of `analysis/papers` use only this package. Names outside of `__all__`
here or in a part may change at any time. Parts: `models` (layer kinds and models in detail, batches, routings),
`devices` (links, cost models, published mechanisms, DRAM), `systems` (deployments, caches, experts, steps), `engine`
(compiled hooks of parts), `training`
(training steps, their layouts, states and work), `streams` (graphs of tasks on streams, and their schedules), `fpga`
(engines and frames of FPGAs), `answers` (results of commands, and parallel runs), `figures` (axes, colours and bars in
the common style), `kernels` (the kernel lab).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.analysis.reproduce.base import EXPERIMENTS as EXPERIMENTS
    from opbyte.analysis.reproduce.base import Reproduction as Reproduction
    from opbyte.analysis.reproduce.base import Row as Row
    from opbyte.analysis.reproduce.base import Table as Table
    from opbyte.analysis.reproduce.base import judged as judged
    from opbyte.analysis.reproduce.base import reproduce as reproduce
    from opbyte.devices.catalog import load_device as load_device
    from opbyte.devices.catalog import load_system as load_system
    from opbyte.devices.cost import DESCRIPTION as DESCRIPTION
    from opbyte.devices.cost import Cost as Cost
    from opbyte.devices.cost import Evidence as Evidence
    from opbyte.devices.cost import Roof as Roof
    from opbyte.devices.cost import Roofline as Roofline
    from opbyte.devices.cost import bound_code as bound_code
    from opbyte.devices.kinds import Described as Described
    from opbyte.devices.kinds import processor_kind as processor_kind
    from opbyte.devices.prices import PriceRow as PriceRow
    from opbyte.devices.prices import Probe as Probe
    from opbyte.devices.prices import by_count as by_count
    from opbyte.simulator.deploy.deployment import Deployment as Deployment
    from opbyte.simulator.deploy.deployment import deploy as deploy
    from opbyte.simulator.deploy.expert_maps import Sites as Sites
    from opbyte.simulator.deploy.placement import Option as Option
    from opbyte.simulator.deploy.placement import placement as placement
    from opbyte.simulator.engine.orders import ORDERS as ORDERS
    from opbyte.simulator.engine.orders import Waiting as Waiting
    from opbyte.simulator.engine.outside import WaitingPrompt as WaitingPrompt
    from opbyte.simulator.engine.outside import part as part
    from opbyte.simulator.fleet.routers import ROUTERS as ROUTERS
    from opbyte.simulator.fleet.routers import Load as Load
    from opbyte.simulator.option import CheckedOptions as CheckedOptions
    from opbyte.simulator.option import described as described
    from opbyte.simulator.option import flag as flag
    from opbyte.simulator.option import real as real
    from opbyte.simulator.option import text as text
    from opbyte.simulator.option import whole as whole
    from opbyte.simulator.part import Part as Part
    from opbyte.simulator.parts.expert_cache.policies import Entry as Entry
    from opbyte.simulator.parts.expert_cache.policies import cache_policy as cache_policy
    from opbyte.simulator.parts.expert_map.policies import map_policy as map_policy
    from opbyte.simulator.quantity import Figures as Figures
    from opbyte.simulator.quantity import Quantity as Quantity
    from opbyte.simulator.registry import add as add
    from opbyte.workloads.batch import Batch as Batch
    from opbyte.workloads.batch import Moments as Moments
    from opbyte.workloads.catalog import load_model as load_model
    from opbyte.workloads.errors import InputError as InputError
    from opbyte.workloads.errors import nearest as nearest
    from opbyte.workloads.hf.config import Config as Config
    from opbyte.workloads.hf.decoders import llama as llama
    from opbyte.workloads.hf.families import family as family
    from opbyte.workloads.layers import LayerKind as LayerKind
    from opbyte.workloads.layers import Routed as Routed
    from opbyte.workloads.layers import Run as Run
    from opbyte.workloads.layers import State as State
    from opbyte.workloads.layers import Weights as Weights
    from opbyte.workloads.layers import layer_kind as layer_kind
    from opbyte.workloads.layers.base import gemm as gemm
    from opbyte.workloads.layers.base import split as split
    from opbyte.workloads.model import ModelSpec as ModelSpec
    from opbyte.workloads.ops import Loads as Loads
    from opbyte.workloads.ops import Op as Op
    from opbyte.workloads.requests import Rows as Rows
    from opbyte.workloads.requests import open_requests as open_requests
    from opbyte.workloads.requests import request_format as request_format

__all__, __getattr__ = declared(__name__, __file__)
