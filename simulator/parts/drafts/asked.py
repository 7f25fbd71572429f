"""Speculative decoding of a scenario, as options or an engine's file say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....workloads.errors import InputError
from ....workloads.speculators import OPTION, RATES, read_asked, read_rates
from ...deploy.deployment import Deployment
from .options import SpeculationOptions
from .speculating import rates_needed, speculating

if TYPE_CHECKING:
    from ....workloads.speculators import DraftChoice
    from ...frameworks.settings import EngineSettings
    from ...scenario.scenario import Scenario


def with_drafts(deployment: Deployment, scenario: Scenario, settings: EngineSettings) -> Deployment:
    """The deployment of a scenario with what drafts for it."""
    traced = scenario.workload.trace is not None
    options = scenario.parts["drafts"]
    return drafted(deployment, options, scenario.deployment.routing, scenario.seed, settings.speculative, traced)


def drafted(
    deployment: Deployment,
    options: SpeculationOptions,
    routing: str,
    seed: int,
    own: DraftChoice | None = None,
    traced: bool = False,
) -> Deployment:
    """The deployment with what drafts for it, as options say, or else the engine's `own` settings.

    Parameters
    ----------
    traced : bool
        Whether a trace may say how often drafts are accepted.

    Raises
    ------
    InputError
        Drafts without any chance of acceptance, or such a chance without drafts; see `speculating`.
    """
    asked = own if options.speculative is None else read_asked(options.speculative)
    if asked is None:
        if options.acceptance is not None:
            raise InputError(RATES, f"needs {OPTION}, such as mtp:2: nothing is drafted")
        return deployment
    rates = None if options.acceptance is None else read_rates(options.acceptance)
    if rates is None and asked.tokens and not traced:
        raise rates_needed(asked)
    return speculating(deployment, asked, rates, routing, seed)
