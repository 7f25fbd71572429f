"""A deployment with disaggregated experts, from options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....devices.spec import SystemSpec
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ...deploy.deployment import Deployment
from ...frameworks.sharing import NOTHING
from ...registry import check_parts
from ...scenario.load import load
from ...scenario.scenario import Scenario
from . import OPTION, check_experts_on
from .one_step import apart_of

if TYPE_CHECKING:
    from ...frameworks.settings import EngineSettings

BATCHES = 3
"""Default number of micro-batches of a step.

Three fill a round trip if both groups take about the same time and the link takes up to half of that time.
"""


def deployed_beside(model: ModelSpec, system: SystemSpec, scenario: Scenario, settings: EngineSettings) -> Deployment:
    """Return the deployment of a model on an attention system and an expert system.

    Raises
    ------
    InputError
        A model, system or option that does not fit or is not supported.
    CapacityError
        Experts that do not fit into memory.
    """
    options_own = scenario.parts["experts-apart"]
    _check(scenario, settings)
    _, experts = load(model, str(options_own.experts_on))
    bare = replace(settings, ep=None, sharing=NOTHING)
    placing = {
        name: scenario.deployment.option(name) or getattr(settings.sharing, name)
        for name in ("expert_placement", "redundant_experts", "expert_dispatch")
    }
    options = scenario.deployment.changed(**placing)
    batches = options_own.micro_batches or BATCHES
    made = apart_of(model, system, experts, options, options_own.experts_link, scenario.seed, bare, batches)
    if any(not part.routed.spreads for layer in model.layers for part in layer.expert_parts):
        raise InputError(OPTION, f"{model.name} has experts that cannot be distributed over devices; remove the option")
    return made


def _check(scenario: Scenario, settings: EngineSettings) -> None:
    """Reject options that cannot be combined with disaggregated experts."""
    options, how = scenario.parts["experts-apart"], scenario.deployment
    check_experts_on(options.experts_on, options.micro_batches, options.experts_link)
    shared = settings.sharing
    given = {
        "overlap": ("--overlap", (how.option("overlap") or shared.overlap or "none") != "none"),
        "resident-experts": ("--experts-resident", how.option("experts_resident") is not None),
        "experts-apart": (OPTION, True),
    }
    check_parts({part: flag for part, (flag, there) in given.items() if there})
    for flag, there in {
        "--ep": how.ep is not None,
        "--all-to-all": (how.all_to_all or shared.all_to_all) is not None,
    }.items():
        if there:
            raise InputError(flag, f"cannot be combined with {OPTION}; remove one")
