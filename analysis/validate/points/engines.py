"""The engine and the kernels of a point: its framework as its launch script starts it."""

from __future__ import annotations

from dataclasses import replace

from ....devices.calibrated.kernel_sets import LABELS
from ....devices.calibrated.libraries import generation
from ....devices.device import build_device
from ....simulator.deploy.deployment import Deployment
from ....simulator.frameworks.engines import ENGINES, LaunchSettings
from ....simulator.frameworks.kernels import expert_kernels
from ....simulator.frameworks.settings import EngineSettings
from ....workloads.errors import InputError, nearest
from .scripts import SCRIPTS
from .table import ServingPoint

NAMES = {"vLLM": "vllm", "SGLang": "sglang", "TensorRT-LLM": "trtllm"}
"""Frameworks as tables of points name them."""


def settings(point: ServingPoint, deployment: Deployment, host_times: float = 1.0) -> EngineSettings:
    """Engine settings of a run.

    Split deployments have the engine's defaults: their launch scripts were not read.

    Raises
    ------
    InputError
        A framework that is not known.
    """
    if point.framework not in NAMES:
        close = nearest(point.framework, NAMES)
        raise InputError(repr(point.framework), f"unknown serving framework{close}")
    launch = LaunchSettings()
    if point.prefill is None and point.scripted and point.framework in SCRIPTS:
        launch = SCRIPTS[point.framework](point, deployment)
    version = ".".join(map(str, (*point.version, 0)[:2])) if point.version else ""
    return ENGINES[NAMES[point.framework]](deployment, replace(launch, version=version, host_times=host_times))


def with_experts(point: ServingPoint, deployment: Deployment) -> Deployment:
    """One side of a run, its experts costed by the kernels it calls.

    Unknown frameworks and devices of makers other than NVIDIA keep the default's.
    """
    spec, framework = deployment.system.device, NAMES.get(point.framework)
    if framework is None or not generation(spec):
        return deployment
    label = LABELS[expert_kernels(framework, spec, apart=deployment.layout.dp > 1, stored=point.weight_dtype)]
    device = build_device(spec, calibrated=True, frameworks={"experts": label})
    return replace(deployment, device=device)
