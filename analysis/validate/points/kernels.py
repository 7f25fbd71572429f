"""Whose expert kernels a run calls.

Experts are where the frameworks' kernels differ most, and a framework may have several sets of
them. The measured tables name the framework that was timed; which of them a run calls:

- by default its own framework's;
- on data-centre Blackwell TensorRT-LLM's generated kernels, which are vLLM's rows in the tables
  (`devices.calibrated.libraries`): vLLM prefers them (vllm/model_executor/layers/fused_moe/oracle),
  and the launch scripts of the public benchmark (SemiAnalysisAI/InferenceX, benchmarks, dsr1_fp4_b200,
  dsr1_fp8_b200, gptoss_fp4_b200 and their _trt twins) and the recipes of its split deployments
  (NVIDIA/srt-slurm, recipes/b200-fp4/1k1k.yaml, recipes/trtllm/kimi-k25-nvfp4/b200-fp4) ask SGLang
  and TensorRT-LLM for them; the latter calls CUTLASS or DeepGEMM, its own rows, where ranks attend
  apart;
- for MXFP4 elsewhere OpenAI's Triton kernels, which are vLLM's rows too: TensorRT-LLM's scripts
  (gptoss_fp4_h200_trt.sh) ask for them, and SGLang prefers them (moe_runner_backend in
  python/sglang/srt/server_args.py).
"""

from __future__ import annotations

from dataclasses import replace

from ....devices.calibrated.libraries import BLACKWELL, generation
from ....devices.device import build_device
from ....simulator.deploy.deployment import Deployment
from .table import Point

OWN = {
    "SGLang": "aiconfigurator/sglang",
    "TensorRT-LLM": "aiconfigurator/trtllm",
    "vLLM": "aiconfigurator/vllm",
}


def with_experts(point: Point, deployment: Deployment) -> Deployment:
    """One side of a run, its experts costed by the kernels it calls.

    Unknown frameworks and devices of makers other than NVIDIA keep the base of all frameworks.
    """
    made = generation(deployment.system.device)
    if point.framework not in OWN or not made:
        return deployment
    label = OWN[point.framework]
    apart = point.framework == "TensorRT-LLM" and deployment.layout.dp > 1
    if (made == BLACKWELL and not apart) or point.weight_dtype == "mxfp4":
        label = OWN["vLLM"]
    spec = deployment.system.device
    device = build_device(spec, calibrated=True, frameworks={"experts": label})
    return replace(deployment, device=device)
