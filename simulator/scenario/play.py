"""A scenario played: its requests served, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...workloads.errors import InputError
from ...workloads.layers import ImageTower
from ...workloads.model import ModelSpec
from ...workloads.requests import RequestBlock, RequestStream
from ..batching.policies import Policy
from ..deploy.deployment import Deployment
from ..parts.encoders.asked import size_of, tower_of
from ..parts.encoders.run import with_images
from ..parts.two_pools.asked import pair_of
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
    if scenario.parts.asks("two-pools"):
        pair = pair_of(scenario)
        deployment, settings, pools = pair.deployment, pair.prefill.settings, pair.pools
        own, each = pair.prefill.deployment, [settings, pair.decode.settings]
    else:
        deployment, settings = made or deployment_of(scenario)
        own, each = deployment, [settings]
    refuse_unused(scenario.deployment, own, deployment)
    fleet = fleet_of(scenario, deployment.system)
    if fleet is not None and fleet.encoder is not None:
        stream = with_images(stream, scenario.workload.images, fleet.encoder.tokens)
        pools = None if pools is None else replace(pools, encoder=fleet.encoder)
    elif scenario.workload.images is not None or _pictured(own.model):
        tower = tower_of(own.model)
        tokens = tower.tokens(size_of(scenario, tower, own.model.name))
        stream = with_images(stream, scenario.workload.images, tokens)
    longest = [s.max_model_len for s in each if s.max_model_len is not None]
    if longest:
        stream = _within(stream, min(longest))
    return (deployment, settings.policy, stream), {
        "seed": scenario.seed, "warmup": scenario.warmup or 0, "fleet": fleet, "pools": pools,
        "cache": settings.cache_for(own), "stop": scenario.stop, "options": scenario.parts,
    }  # fmt: skip


def _pictured(model: ModelSpec) -> bool:
    """Whether the model's own tower has work: requests of the trace have images."""
    return any(isinstance(layer.mixer, ImageTower) for layer in model.layers)


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
