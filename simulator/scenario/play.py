"""Simulation of a scenario: its requests are served and measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock, RequestStream
from ..batching.policies import Policy
from ..deploy.deployment import Deployment
from ..registry import all_hooks
from ..serving.groups import Cut
from ..serving.growing import Growing
from ..serving.run import Groups, run, run_group
from ..serving.served import Served
from .build import Made, deployment_of, fleet_of
from .place import refuse_unused
from .scenario import Scenario

if TYPE_CHECKING:
    from ..serving.progress import Progress
    from ..serving.record import Run


def run_scenario(
    scenario: Scenario, *, keep_stages: bool = False, steps: int = 0,
    progress: Progress | None = None, made: Made | None = None, groups: Groups | None = None,
    grown: Growing | None = None,
) -> Run:  # fmt: skip
    """Serve a scenario's requests.

    Parameters
    ----------
    made : (Deployment, EngineSettings), optional
        What `deployment_of` gives for it, where that is known: of another load, or number of copies. Of two
        pools nothing is.
    groups : Groups, optional
        What `run_group_of` has given for all groups of its replicas.
    grown : Growing, optional
        What runs of the same scenario with fewer requests have left.

    Raises
    ------
    InputError
        Anything that cannot be used; the message says what would be right.
    """
    asked, more = _asked(scenario, made)
    return run(*asked, **more, keep_stages=keep_stages, progress=progress, steps=steps, groups=groups, grown=grown)


def run_group_of(task: tuple[Scenario, Cut, bool]) -> Served:
    """Serve what a scenario sends to a group of its replicas; with whether stages are kept."""
    (asked, more), (_, cut, keep) = _asked(task[0], None), task
    return run_group(*asked, cut, **more, keep_stages=keep)


def _asked(scenario: Scenario, made: Made | None) -> tuple[tuple[Deployment, Policy, RequestStream], dict[str, Any]]:
    """What a scenario's run is of, and its options."""
    stream, pools = scenario.workload.open(scenario.seed), None
    arrange = next(all_hooks("arrange", scenario.parts.names()), None)
    if arrange is not None:
        deployment, settings_own, ranks, pools = arrange(scenario)
        settings = ranks[0]
    else:
        deployment, settings = made or deployment_of(scenario)
        settings_own, ranks = deployment, [settings]
    refuse_unused(scenario.deployment, settings_own, deployment)
    fleet = fleet_of(scenario, deployment.system)
    if fleet is not None and pools is not None:
        pools = replace(pools, parts=fleet.parts)
    for hook in all_hooks("requests"):
        stream = hook(stream, scenario, settings_own, fleet)
    longest = [s.max_model_len for s in ranks if s.max_model_len is not None]
    if longest:
        stream = _within(stream, min(longest))
    return (deployment, settings.policy, stream), {
        "seed": scenario.seed, "warmup": scenario.warmup or 0, "fleet": fleet, "pools": pools,
        "cache": settings.cache_for(settings_own), "stop": scenario.stop, "options": scenario.parts,
    }  # fmt: skip


def _within(stream: RequestStream, longest: int) -> RequestStream:
    """The same stream, refusing a request longer than the engine accepts."""

    def blocks() -> Iterator[RequestBlock]:
        for block in stream:
            length = block.input_tokens + block.output_tokens
            if (length > longest).any():
                i = int((length > longest).argmax())
                raise InputError(
                    "--max-model-len",
                    f"request {block.request_id[i]} of {stream.name} has {length[i]} tokens, more than {longest}",
                )
            yield block

    return replace(stream, blocks=blocks)
