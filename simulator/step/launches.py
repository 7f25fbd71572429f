"""Launches: the number of Python calls with which the host starts the kernels of a step without a CUDA graph.

An op of a layer needs one or several calls: an fp8 matrix product quantises its input first; experts in Triton are top-k,
alignment, two products and small kernels. TensorRT-LLM fuses more: attention with rotary embedding and cache write,
all-reduce with add and norm, routing with experts. The counts are from the sources of SGLang 0.5.6 to 0.5.23 (srt/layers,
srt/models), vLLM 0.11 to 0.33 (model_executor/layers) and TensorRT-LLM 1.0 to 1.2 (_torch/modules).
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from ...devices.calibrated.libraries import BLACKWELL, generation
from ...workloads.batch import Batch, Moments, num_moments
from ...workloads.layers.base import elementwise
from ...workloads.layers.compressed import CompressedAttention
from ...workloads.layers.linear_state import GatedDeltaNet, KimiDelta
from ...workloads.layers.mla import LatentAttention
from ...workloads.model import Layer
from ...workloads.ops import Op
from ..deploy.deployment import Deployment
from .sections import Section, sections_of


class Calls(NamedTuple):
    """Number of Python calls of ops for which an engine does not make exactly one call.

    Calls of experts, in addition to the router's matrix product:

    - Triton: top-k, alignment, two products, the activation, and ten buffers that Python allocates (2 for top-k, 4 for the
      alignment, 4 for results; sglang/srt/layers/moe/fused_moe_triton).
    - One kernel for all experts: routing, quantisation with its buffers, the kernel and casts.
    - TensorRT-LLM: routing, quantisation, and one op, which also sums the outputs
      (_torch/modules/fused_moe/fused_moe_cutlass.py).

    SGLang's expert layers of six models take 490 to 690 us of host time with Triton, and 270 us with one kernel.
    """

    quantises: int  # additional calls of a product that quantises its inputs: values, and scales in its layout
    rope: int  # rotary embedding, and write to the KV cache
    qk_norms: int  # additional calls if queries and keys are normalised
    keys: int  # latent keys and values: split, copy, concatenation
    experts: int  # experts of a layer in Triton: top-k, alignment, two products, activation, and buffers
    whole_experts: int  # experts of a layer in one kernel
    norm: int  # norm after an all-reduce
    combine: int  # sum of the experts' outputs
    chunks: int  # delta rule over prompts
    moves: int  # passes over the states of all sequences (read or write) in addition to the delta rule


CHUNKED = 31
"""Python calls of a delta rule over prompts.

Triton kernels: two norms of queries and keys, sums of decays, products of keys, the inverse of a triangular matrix, two products with
it, states, outputs, gates; 14 buffers of these kernels. Copies: queries, keys and values; gathered states, cleared states of new
sequences (2), states written back, and the output. Sources: ``_forward_core`` in
vllm/model_executor/layers/mamba/gdn_linear_attn.py; sglang/srt/layers/attention/fla/chunk.py.
"""
PYTHON = Calls(2, 2, 2, 6, 15, 8, 1, 1, CHUNKED, 4)
TRTLLM_CALLS = Calls(1, 0, 1, 3, 3, 3, 0, 0, CHUNKED, 0)


PLAIN = ("bf16", "fp16", "fp32")
"""Number formats whose matrix products need no quantisation of their inputs."""

SAMPLING = 12
"""Python calls of an op `sampling`: penalties, temperature, softmax and sampling are small ops of PyTorch."""

IN_PIECES, IN_LATENT_PIECES = 3, 8
"""Python calls of a layer whose CUDA graph is cut at its attention: graph replay, write to the KV cache, and attention. For
latent attention, the products and copies that expand the cache for prompts are outside the graph too."""

IN_CHUNKS = ("delta_prefill", "kda_prefill")
"""Ops at which a layer's graph is cut and which need many Python calls."""

UNCUT = (CompressedAttention,)
"""Layers without piecewise graphs (DeepSeek-V4: vLLM before 0.33; SGLang unless prompts are context-parallel)."""


class Launches(NamedTuple):
    """Kernel launches of one step over all layers and stages, and the seconds that each decode adds to a step with prompts."""

    prompts: int  # a step with prompts, without graphs
    decodes: int  # a decode-only step, without graphs
    pieces: int  # a step with prompts that replays piecewise graphs, cut at attention
    mixed_s: float = 0.0  # see `mixed_seconds`

    def drafting(self, draft: Launches, passes: int) -> Launches:
        """Return the launches with a draft model: one pass through a prompt, and `passes` passes after a decode.

        `mixed_s` is 0: decodes that verify drafts use a separate kernel for the recurrence, also in steps with prompts.
        """
        return self._replace(
            prompts=self.prompts + draft.prompts, decodes=self.decodes + passes * draft.decodes,
            pieces=self.pieces + draft.prompts, mixed_s=0.0,
        )  # fmt: skip


NO_LAUNCHES = Launches(0, 0, 0)


def calls_of(op: Op, layer: Layer | None, calls: Calls) -> int:
    """Return the number of Python calls for a non-expert op; `layer` is None outside the layers."""
    if op.product:
        return 1 + calls.quantises * (op.dtype not in PLAIN)
    rope = calls.rope + calls.qk_norms * (layer is not None and getattr(layer.mixer, "qk_norm", 0) > 0)
    return {
        "rope": rope, "latent_norm": 2, "keys": calls.keys, "sampling": SAMPLING, "combine": calls.combine,
        **dict.fromkeys(IN_CHUNKS, calls.chunks),
    }.get(op.name, 1)  # fmt: skip


def section_launches(section: Section, unit: Moments, calls: Calls) -> tuple[int, int, int]:
    """Return the launches of a section's layers without experts: `Launches.prompts`, `decodes` and `pieces`."""
    layer, ops = section.layer, section.build(unit)
    fused = layer is not None and any(op.kind == "all_reduce" for op in ops)
    counts = [(calls.norm if fused and op.name == "norm" else calls_of(op, layer, calls), op.phase) for op in ops]
    prompts = sum(count for count, phase in counts if phase != "decode")
    decodes = sum(count for count, phase in counts if phase != "prefill")
    pieces = prompts if layer is None else IN_LATENT_PIECES if isinstance(layer.mixer, LatentAttention) else IN_PIECES
    pieces += (calls.chunks - 1) * any(op.name in IN_CHUNKS for op in ops)
    return prompts * section.layers, decodes * section.layers, pieces * section.layers


STATES, BESIDE = 256, ("conv", "delta", "kda")
"""Number of sequences for which `mixed_seconds` costs state traffic, enough for a device's full bandwidth; and the ops of a delta
rule, by the part of their name before the phase."""


def mixed_seconds(deployment: Deployment, calls: Calls) -> float:
    """Return the seconds that each decode adds to a step with prompts, for layers with a delta rule.

    vLLM computes all sequences of such a step in chunks (``num_prefills > 0`` in ``_forward_core``). A decode then costs one
    chunk instead of one update, and its states are gathered and written back like those for prompts.
    """
    layers = [x for x in deployment.shard.layers if isinstance(x.mixer, GatedDeltaNet | KimiDelta)]
    able = [p for p in deployment.device.processors.values() if p.can_run("elementwise") and p.can_run("delta_prefill")]
    if not layers or not calls.moves or not able:
        return 0.0
    run, seconds = deployment.run, 0.0
    batches = (Batch.of(chunks=[(1, 1)] * STATES), 1.0), (Batch.of([1] * STATES), -1.0)
    for mixer, count in Counter(x.mixer for x in layers).items():
        columns = round(mixer.state().fixed[0].bytes(run.numerics) / run.numerics.act_bytes)
        ops = [(elementwise("states", "state", STATES, columns, calls.moves, run), 1.0)]
        for batch, sign in batches:
            of_batch = mixer.ops(batch.moments(deployment.shard.windows), run, None)
            ops += [(op, sign) for op in of_batch if op.name.split("_")[0] in BESIDE and op.flops]
        seconds += count * sum(sign * min(p.model.cost(op).seconds for p in able) for op, sign in ops)
    return max(seconds / STATES, 0.0)


def launches_of(deployment: Deployment, calls: Calls = PYTHON) -> Launches:
    """Count the launches of a deployment's steps.

    On data-centre Blackwell GPUs, vLLM and SGLang call one kernel for all experts of a layer if weights have less than 16 bits.
    """
    unit = Moments(
        deployment.shard.windows, np.ones(num_moments(len(deployment.shard.windows), deployment.several > 1))
    )
    prompts, decodes, pieces = map(
        sum, zip(*(section_launches(s, unit, calls) for s in sections_of(deployment)), strict=True)
    )
    low = deployment.run.numerics.weight_format("experts") not in PLAIN
    fused = low and generation(deployment.system.device) == BLACKWELL
    experts = sum(part.layers for part in deployment.experts) * (calls.whole_experts if fused else calls.experts)
    cut = not any(isinstance(layer.mixer, UNCUT) for layer in deployment.model.layers)
    return Launches(
        prompts + experts, decodes + experts, pieces if cut else prompts + experts, mixed_seconds(deployment, calls)
    )


def all_launches(deployment: Deployment, calls: Calls) -> Launches:
    """Return the launches of a step, including those of the draft model."""
    launches, drafts = launches_of(deployment, calls), deployment.parts.get("drafts")
    if drafts is None or drafts.draft is None:
        return launches
    return launches.drafting(launches_of(drafts.draft, calls), drafts.tokens)
