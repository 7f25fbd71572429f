"""Expert kernels of a serving framework.

By default its own. On data-centre Blackwell TensorRT-LLM's generated kernels, vLLM's rows in the tables
(`devices.calibrated.libraries`): vLLM prefers them (vllm/model_executor/layers/fused_moe/oracle); scripts of the public
benchmark (SemiAnalysisAI/InferenceX, benchmarks: dsr1_fp4_b200, dsr1_fp8_b200, gptoss_fp4_b200, also _trt) and recipes
of split deployments (NVIDIA/srt-slurm, recipes/b200-fp4/1k1k.yaml, recipes/trtllm/kimi-k25-nvfp4/b200-fp4) select them
in SGLang and TensorRT-LLM. TensorRT-LLM uses CUTLASS or DeepGEMM (its own rows) with data-parallel attention; SGLang
its Triton kernels before 0.5.6, and before 0.5.23 for 16-bit weights (``moe_runner_backend`` "auto" in
python/sglang/srt/server_args.py). For MXFP4 elsewhere OpenAI's Triton kernels, also vLLM's rows: TensorRT-LLM's scripts
(gptoss_fp4_h200_trt.sh) and SGLang's default. vLLM on Hopper uses CUTLASS's grouped products for fp8 weights with a
scale per output channel and inputs with one per token (``CompressedTensorsW8A8Fp8MoEMethod`` in
compressed_tensors_moe.py), TensorRT-LLM's rows: its own rows time an untuned Triton kernel.
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
        Whether attention is data-parallel.
    stored : str
        Format that experts are stored in.
    version : str
        Version of the framework; SGLang's that is read without one.

    Raises
    ------
    InputError
        No such framework.
    """
    rules, (name, _) = everywhere(framework), named(framework)
    if name in LABELS and generation(device):
        other = expert_kernels(name, device, apart=apart, stored=stored, version=version)
        rules["experts"] = framework if other == name else other
    return rules


def expert_kernels(framework: str, device: DeviceSpec, *, apart: bool, stored: str, version: str = "") -> str:
    """Whose expert kernels one of the three frameworks calls on a device of NVIDIA's."""
    own_rows = framework == "trtllm" and apart
    if framework == "sglang":
        own_rows = sglang_version(version) < ((0, 5, 23) if stored in ("bf16", "fp16") else (0, 5, 6))
    if (generation(device) == BLACKWELL and not own_rows) or stored == "mxfp4":
        return "vllm"
    if framework == "vllm" and stored == "fp8_channel" and generation(device) == HOPPER:
        return "trtllm"
    return framework
