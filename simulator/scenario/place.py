"""Deployment of a model on a system from options, in a separate module so that one step needs no compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...devices.calibrated.libraries import BLACKWELL, HOPPER, generation, joint_attention
from ...devices.hosts.catalog import placed_in
from ...devices.power.cap import capped_system
from ...devices.spec import DeviceSpec, SystemSpec
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.ops import LIBRARY_SUMS
from ...workloads.sampling import GREEDY, NONE, sampling_named
from ..deploy.deployment import Deployment, deploy
from ..deploy.layout import make_layout
from ..frameworks.fusion import kernels_alone
from ..frameworks.sharing import SHARING
from ..option import flag_of
from ..registry import PARTS
from .options import DeployOptions

if TYPE_CHECKING:
    from ..frameworks.settings import EngineSettings


def refuse_unused(options: DeployOptions, *sides: Deployment) -> None:
    """Refuse expert options that would have no effect: the model has no experts, or ranks exchange no tokens.

    Raises
    ------
    InputError
    """
    name = sides[0].model.name
    if options.routing != "uniform" and not any(d.experts for d in sides):
        raise InputError("--routing", f"{name} has no experts; remove it")
    if options.all_to_all is not None and not any(d.lockstep for d in sides):
        raise InputError(
            "--all-to-all",
            f"{name} on {sides[0].system.name} sends no tokens between ranks ({sides[0].layout.degrees}); remove it",
        )


def _said(name: str, options: DeployOptions, settings: EngineSettings | None) -> Any:
    """Return the value of an option, or if it is not given the value in the engine file."""
    given = options.option(name)
    return given if given is not None or settings is None else getattr(settings.sharing, name)


def deployed(
    model: ModelSpec, system: SystemSpec, options: DeployOptions, settings: EngineSettings | None = None, seed: int = 0
) -> Deployment:
    """Deploy a model on a system by the options, and by the engine's settings where options are not given.

    Raises
    ------
    InputError
        What does not fit, under the name of the option or of the key of the engine's file.
    """
    try:
        return _deployed(model, system, options, settings, seed)
    except InputError as error:
        if settings is None:
            raise
        given = {flag_of(n) for n in SHARING if options.option(n) is not None}
        raise settings.sharing.blamed(error, given) from None


ONE_LIBRARY = "vllm"
"""Whose rows tell of experts in MXFP4: all three engines call OpenAI's Triton kernels on Hopper and TensorRT-LLM's generated ones on data-centre Blackwell
(`get_mxfp4_backend` in vLLM 0.12, ``quantization/mxfp4.py``; `moe_runner_backend` in SGLang 0.5.4, ``server_args.py``). Elsewhere vLLM calls Marlin."""
WITH_TRITON = (0, 11, 1)
"""First vLLM that is installed with these Triton kernels (pull request 27370); earlier ones call Marlin on Hopper (no rows)."""


def _in_library(device: DeviceSpec, settings: EngineSettings | None) -> bool:
    """Return whether the file's engine runs MXFP4 experts with the kernels that rows of `ONE_LIBRARY` measured."""
    if settings is None or not settings.given:
        return False
    from ..frameworks.keys import numbers_of  # loaded with the file

    now = generation(device)
    if settings.engine == "vllm" and now:
        return now != HOPPER or not () < numbers_of(settings.version) < WITH_TRITON
    return now in (HOPPER, BLACKWELL)


def _deployed(
    model: ModelSpec, system: SystemSpec, options: DeployOptions, settings: EngineSettings | None, seed: int
) -> Deployment:
    """Deploy by the options, then by the engine file, then by the engine's defaults."""
    power = options.parts["power-cap"]
    system = capped_system(placed_in(system, options.host), power.power_cap, power.clock)
    degrees = {name: getattr(settings or options, name) for name in ("tp", "dp", "ep", "pp")}
    if settings is not None and options.ep is None and not model.moe_layers:
        degrees["ep"] = None  # an engine started with expert parallelism takes dense models too
    exchange = "all_to_all" if settings is None else settings.exchange
    shared = {name: _said(name, options, settings) for name in SHARING}
    sampling = NONE if settings is None else settings.sampling
    framework = options.framework or (None if settings is None else settings.framework)
    engine = (framework or "").partition("@")[0]
    vllm = engine == "vllm" or (settings is not None and settings.given and settings.engine == "vllm")
    frameworks: Mapping[str, str] = {}
    version = (framework or "").partition("@")[2] or ("" if settings is None else settings.version)
    whose = engine or (settings.engine if settings is not None and settings.given else "")
    alone = kernels_alone(whose, version, model, system.device) if system.device.kernels is not None else ()
    if settings is not None and settings.library_sums is not None:
        alone = (*(op for op in alone if op != LIBRARY_SUMS), *[LIBRARY_SUMS] * settings.library_sums)
    stored = model.numerics.weight_format("experts")
    if framework is None and stored == "mxfp4" and _in_library(system.device, settings):
        frameworks = {"experts": ONE_LIBRARY}
    if framework is not None:  # compiled code, which other deployments start without
        from ..frameworks.engines import ENGINES, exchange_of
        from ..frameworks.kernels import as_multiplied, kernels_of

        layout = make_layout(model, system, *(degrees[n] for n in ("tp", "dp", "ep", "pp")))
        frameworks = kernels_of(framework, system.device, apart=layout.dp > 1, stored=stored, version=version)
        model = as_multiplied(model, engine, system.device)
        if engine in ENGINES and (settings is None or not settings.given):
            exchange = exchange_of(engine, system.device, layout.dp, layout.ep)
            sampling = GREEDY
    if options.sampling is not None:
        sampling = sampling_named(options.sampling, model.name)
    near = options.parts["expert-copies"].expert_dispatch in (
        "node",
        "local",
    )  # where all tokens are gathered copies are alike
    if options.all_to_all is not None or near:  # asked for by name: whatever an engine does by itself
        exchange = "all_to_all"
    return deploy(
        model, system, **degrees, placement=options.placement, attention=options.attention,
        routing=options.routing, seed=seed, costs=options.costs, memory=options.memory,
        kernels=() if options.kernels is None else (str(options.kernels),),
        frameworks=frameworks, exchange=exchange, all_to_all=shared["all_to_all"], sampling=sampling,
        joint=vllm and joint_attention(system.device), short_dense=engine == "sglang", alone=alone,
        **{
            name.replace("-", "_"): hook(options.parts[name], shared.get)
            for name, part in PARTS.items() if (hook := part.hook("value")) is not None
        },
    )  # fmt: skip
