"""Whose expert kernels a run calls, where frameworks have several sets of them.

For NVFP4 on data-centre Blackwell there are two: TensorRT-LLM's generated kernels and its CUTLASS
ones. The measured tables have the first as vLLM's rows and the second as TensorRT-LLM's (see
`devices.calibrated.libraries`), but each framework can call either:

- launch scripts of the public benchmark (SemiAnalysisAI/InferenceX, benchmarks/dsr1_fp4_b200.sh and
  dsr1_fp4_b200_trt.sh): generated kernels, except CUTLASS where TensorRT-LLM's ranks attend apart;
- recipes of its split deployments (NVIDIA/srt-slurm, recipes/b200-fp4/1k1k.yaml and
  recipes/trtllm/kimi-k25-nvfp4/b200-fp4): the same on both sides;
- vLLM: generated kernels (vllm/model_executor/layers/fused_moe/oracle/nvfp4.py).
"""

from __future__ import annotations

from dataclasses import replace

from ...devices.calibrated.libraries import BLACKWELL
from ...devices.device import with_framework
from ...simulator.deployment import Deployment
from .scripts import generation
from .table import Point

GENERATED, CUTLASS = "aiconfigurator/vllm", "aiconfigurator/trtllm"
FRAMEWORKS = ("SGLang", "TensorRT-LLM", "vLLM")


def with_experts(point: Point, deployment: Deployment) -> Deployment:
    """One side of a run, its experts costed by the kernels it calls.

    Where nothing is known of them it stays as it is: with the base of all frameworks.
    """
    known = point.framework in FRAMEWORKS and point.weight_dtype == "nvfp4"
    if not known or generation(deployment) != BLACKWELL:
        return deployment
    apart = point.framework == "TensorRT-LLM" and deployment.layout.dp > 1
    label = CUTLASS if apart else GENERATED
    return replace(deployment, device=with_framework(deployment.device, "experts", label))
