"""How often the host calls a kernel for an op, where that is not once, by engine."""

from __future__ import annotations

from typing import NamedTuple


class Calls(NamedTuple):
    """Calls from Python of ops that are not one call each.

    Calls of experts, in addition to the router's product. In Triton: top-k, alignment, two products, the activation, and
    ten buffers that Python allocates (2 of top-k, 4 of the alignment, 4 of results; sglang/srt/layers/moe/
    fused_moe_triton). With one kernel for all: routing, quantisation with its buffers, the kernel and casts. SGLang's
    layers of six models take the host 490 to 690 us in Triton and 270 us with one kernel. TensorRT-LLM routes, quantises
    and calls one op, which also sums the outputs (_torch/modules/fused_moe/fused_moe_cutlass.py).
    """

    quantises: int  # more, of a product that quantises its inputs: values, and scales in the layout that it reads
    rope: int  # rotation, and write to the KV cache
    qk_norms: int  # more, where queries and keys are normalised
    keys: int  # latent keys and values: split, copy, concatenation
    experts: int  # of a layer in Triton: top-k, alignment, two products, activation; buffers between them
    whole_experts: int  # where one kernel takes them whole
    norm: int  # behind an all-reduce
    combine: int  # sum of the experts' outputs


PYTHON = Calls(2, 2, 2, 6, 15, 8, 1, 1)
TRTLLM_CALLS = Calls(1, 0, 1, 3, 3, 3, 0, 0)
