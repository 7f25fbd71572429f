"""What a run's first requests wait for kernels that their server has not used before.

Servers with experts compile or choose kernels at first use: DeepGEMM is compiled for every shape when it is first
called (github.com/deepseek-ai/DeepGEMM, called by SGLang and TensorRT-LLM), TensorRT-LLM loads the kernels of its
experts and tries them. All clients of a closed loop start at once, so that the first request of each waits; the two
warm-up requests a client of later runs all have one prompt's length. How the seconds divide is not known. They are no
part of a step: TPOT shows none of them. A server that has served for a while has none, and `simulate` adds none.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....simulator.deploy.deployment import Deployment

FIRST_USE_S: Mapping[str, float] = {"SGLang": 1.4, "TensorRT-LLM": 1.3}
"""Seconds by framework, the one fitted constant of each: the value with the least median error of TTFT
over the rows of ../shared/serving_points with experts whose deployment is not split (`opbyte validate constants`). vLLM
has no such row."""


def first_use_s(framework: str, deployment: Deployment) -> float | None:
    """Seconds that the first request of every client waits; None for models without experts."""
    return FIRST_USE_S.get(framework, 0.0) if deployment.has_experts else None
