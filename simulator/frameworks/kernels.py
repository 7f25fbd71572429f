"""Whose kernels a serving framework calls.

Experts are where the frameworks' kernels differ most, and a framework may have several sets of
them. The measured tables name the framework that was timed; which of them a run calls:

- by default its own framework's;
- on data-centre Blackwell TensorRT-LLM's generated kernels, which are vLLM's rows in the tables
  (`devices.calibrated.libraries`): vLLM prefers them (vllm/model_executor/layers/fused_moe/oracle), and the launch
  scripts of the public benchmark (SemiAnalysisAI/InferenceX, benchmarks, dsr1_fp4_b200, dsr1_fp8_b200, gptoss_fp4_b200
  and their _trt twins) and the recipes of its split deployments (NVIDIA/srt-slurm, recipes/b200-fp4/1k1k.yaml,
  recipes/trtllm/kimi-k25-nvfp4/b200-fp4) ask SGLang and TensorRT-LLM for them; the latter calls CUTLASS or DeepGEMM,
  its own rows, where ranks attend apart; SGLang calls its Triton ones before 0.5.6, and before 0.5.23 for weights of
  16 bits (``moe_runner_backend`` "auto" in python/sglang/srt/server_args.py);
- for MXFP4 elsewhere OpenAI's Triton kernels, which are vLLM's rows too: TensorRT-LLM's scripts
  (gptoss_fp4_h200_trt.sh) ask for them, and SGLang prefers them (moe_runner_backend in
  python/sglang/srt/server_args.py);
- vLLM on Hopper CUTLASS's grouped products where fp8 weights have a scale for each output channel and inputs one
  for each token (``CompressedTensorsW8A8Fp8MoEMethod`` in compressed_tensors_moe.py), which are TensorRT-LLM's rows:
  its own rows are of a Triton kernel that nobody has tuned.
"""

from __future__ import annotations

from ...devices.calibrated.choose import everywhere
from ...devices.calibrated.kernel_sets import LABELS, named
from ...devices.calibrated.libraries import BLACKWELL, HOPPER, generation
from ...devices.spec import DeviceSpec
from .engines import sglang_version


def kernels_of(
    framework: str, device: DeviceSpec, *, apart: bool, stored: str = "", version: str = ""
) -> dict[str, str]:
    """Kinds of ops -> whose kernels run them, as `devices.device.build_device` takes them.

    Parameters
    ----------
    framework : str
        Of `devices.calibrated.kernel_sets.FRAMEWORKS`.
    apart : bool
        Whether data-parallel ranks attend apart.
    stored : str
        Format that experts are stored in.
    version : str
        Version of the framework; SGLang's that is read without one.

    Raises
    ------
    InputError
        No such framework.
    """
    found, (name, _) = everywhere(framework), named(framework)
    if name in LABELS and generation(device):
        other = expert_kernels(name, device, apart=apart, stored=stored, version=version)
        found["experts"] = framework if other == name else other
    return found


def expert_kernels(framework: str, device: DeviceSpec, *, apart: bool, stored: str, version: str = "") -> str:
    """Whose expert kernels one of the three frameworks calls on a device of NVIDIA's."""
    own = framework == "trtllm" and apart
    if framework == "sglang":
        own = sglang_version(version) < ((0, 5, 23) if stored in ("bf16", "fp16") else (0, 5, 6))
    if (generation(device) == BLACKWELL and not own) or stored == "mxfp4":
        return "vllm"
    if framework == "vllm" and stored == "fp8_channel" and generation(device) == HOPPER:
        return "trtllm"
    return framework
