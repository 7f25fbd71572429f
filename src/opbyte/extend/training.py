"""Training steps: layouts, states, work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.simulator.training.layers import LayerPrices as LayerPrices
    from opbyte.simulator.training.layers import Prices as Prices
    from opbyte.simulator.training.layout import TrainingOptions as TrainingOptions
    from opbyte.simulator.training.layout import training_deployment as training_deployment
    from opbyte.simulator.training.layout import training_layout as training_layout
    from opbyte.simulator.training.states import BytesPerWeight as BytesPerWeight
    from opbyte.simulator.training.states import States as States
    from opbyte.simulator.training.states import stage_parameters as stage_parameters
    from opbyte.simulator.training.states import states as states
    from opbyte.simulator.training.step import TrainingStep as TrainingStep
    from opbyte.simulator.training.step import training_step as training_step
    from opbyte.workloads.training import RepeatedOp as RepeatedOp
    from opbyte.workloads.training import backward as backward
    from opbyte.workloads.training import loss_ops as loss_ops
    from opbyte.workloads.training import whole_sequences as whole_sequences
    from opbyte.workloads.training_parts import NOTHING as NOTHING
    from opbyte.workloads.training_parts import step_flops as step_flops

__all__, __getattr__ = declared(__name__, __file__)
