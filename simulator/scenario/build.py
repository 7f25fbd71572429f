"""Preparation and simulation of a scenario: read files, deploy the model, set up the engine, serve the requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...devices.spec import SystemSpec
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests import RequestBlock, RequestStream
from ..deploy.deployment import Deployment
from ..engine.policies import Policy, limited, make_policy
from ..fleet.groups import Cut
from ..fleet.growing import Growing
from ..fleet.pools import Fleet
from ..fleet.run import Groups, run, run_group
from ..fleet.run_state import RunState
from ..frameworks.engines import ENGINES, LaunchSettings
from ..frameworks.settings import EngineSettings
from ..limits import MAX_SEQUENCES
from ..registry import all_hooks
from .load import load
from .place import deployed, refuse_unused
from .scenario import Scenario

if TYPE_CHECKING:
    from ..results.progress import Progress
    from ..results.record import Run


def run_scenario(
    scenario: Scenario, *, keep_stages: bool = False, steps: int = 0,
    progress: Progress | None = None, made: Made | None = None, groups: Groups | None = None,
    grown: Growing | None = None,
) -> Run:  # fmt: skip
    """Simulate a scenario: serve its requests and measure the run.

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


def run_group_of(task: tuple[Scenario, Cut, bool]) -> RunState:
    """Simulate one group of a scenario's replicas; `task` is the scenario, the group, and whether to keep steps."""
    (asked, more), (_, cut, keep) = _asked(task[0], None), task
    return run_group(*asked, cut, **more, keep_stages=keep)


def _asked(scenario: Scenario, made: Made | None) -> tuple[tuple[Deployment, Policy, RequestStream], dict[str, Any]]:
    """Return the positional arguments and the keywords of `run` for a scenario."""
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
    """Return the stream; a request longer than the engine accepts is refused."""

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


Made = tuple[Deployment, EngineSettings]


def deployment_of(scenario: Scenario) -> Made:
    """Return the deployment of a scenario and the settings of its engine; the requests are not read.

    Raises
    ------
    InputError
        Anything that cannot be used.
    """
    for check in all_hooks("check_scenario"):
        check(scenario)
    settings = engine_settings(scenario)
    model, system = _loaded(scenario, settings)
    make = next(all_hooks("deploy", scenario.parts.names()), None)
    if make is not None:
        deployment = make(model, system, scenario, settings)
    else:
        deployment = deployed(model, system, scenario.deployment, settings, scenario.seed)
    for hook in all_hooks("deployed"):
        deployment = hook(deployment, scenario, settings)
    settings = framed(scenario, settings, deployment).on(deployment)
    for hook in all_hooks("settings"):
        settings = hook(scenario, settings, deployment)
    return deployment, settings


def engine_settings(scenario: Scenario) -> EngineSettings:
    """The engine's settings: options first, then what its file says, then defaults."""
    serving, where = scenario.serving, scenario.deployment
    base = _base(scenario)
    return replace(
        base,
        policy=_policy(scenario, base.policy),
        limits=base.limits and base.limits.asked(serving.max_seqs, serving.token_budget),
        max_model_len=_first(serving.max_model_len, base.max_model_len),
        cache=replace(base.cache, prompt_room=serving.prompt_room or 0),
        **{name: _first(getattr(where, name), getattr(base, name)) for name in SHARED},
    )


def _base(scenario: Scenario) -> EngineSettings:
    """Return the engine settings without options: those of the engine file, or OpByte's defaults."""
    if scenario.serving.engine is not None:
        from ..frameworks.engine_file import read_engine  # of no use without a file

        return read_engine(scenario.serving.engine)
    return EngineSettings(make_policy("chunked"))


SHARED = ("dtype", "kv_dtype", "tp", "dp", "pp", "ep")
"""Options that are both deployment options and engine settings."""


def _first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def _loaded(scenario: Scenario, settings: EngineSettings) -> tuple[ModelSpec, SystemSpec]:
    """Return the model in its number formats, and the system."""
    model, system = scenario.model, scenario.system
    if model is None:
        raise InputError("MODEL", "is needed too, for example mixtral-8x7b")
    if system is None:
        raise InputError("--system", "is needed too, for example h100-x4")
    spec, where = load(model, system, settings.dtype, settings.kv_dtype, settings.max_model_len)
    for adapt in all_hooks("adapt_spec"):
        spec = adapt(spec, scenario)
    return spec, where


def _policy(scenario: Scenario, base: Policy) -> Policy:
    """Return the policy with its limits; by default a closed loop gets a sequence limit of at least its clients."""
    serving, clients = scenario.serving, scenario.workload.closed_loop
    if serving.engine is not None and serving.policy is None:
        policy = limited(base, serving.token_budget, serving.max_seqs)
    else:
        sequences = serving.max_seqs
        if clients is not None and sequences is None:
            sequences = min(max(256, clients), MAX_SEQUENCES)
        name = base.name if serving.policy is None else serving.policy
        policy = make_policy(name, serving.token_budget, sequences)
    if serving.part is None:
        return policy
    from ..engine.outside import read_part  # compiled code, which others start without

    return replace(policy, part=read_part(serving.part))


def framed(scenario: Scenario, settings: EngineSettings, deployment: Deployment) -> EngineSettings:
    """Return engine settings with the batching and memory of the requested framework.

    An engine file or a policy takes precedence: its settings are returned unchanged.
    """
    serving = scenario.serving
    name, _, version = (scenario.deployment.framework or "").partition("@")
    if name not in ENGINES or serving.engine is not None or serving.policy is not None:
        return settings
    engine = ENGINES[name](deployment, LaunchSettings(serving.token_budget, serving.max_seqs, version=version))
    cache = replace(engine.cache, prompt_room=settings.cache.prompt_room)
    policy = replace(engine.policy, part=settings.policy.part)
    return replace(settings, policy=policy, cache=cache)


def fleet_of(scenario: Scenario, system: SystemSpec) -> Fleet | None:
    """Return the replicas with their failures and encoder; None for a single system."""
    options, fleet = scenario.fleet, None
    given = {name: own for name in ("router", "replicas") if (own := getattr(options, name)) is not None}
    if given:
        fleet = Fleet(**given)
    for hook in all_hooks("fleet"):
        fleet = hook(scenario, system, fleet)
    return fleet
