"""Launches: kernels of a step that the host starts one by one without a CUDA graph.

An op of a layer is one or several calls from Python: an fp8 product quantises its input first; experts in Triton are
top-k, alignment, two products and small kernels. TensorRT-LLM fuses more: attention with rotation and cache write,
all-reduce with add and norm, routing with experts. Counts were read in the sources of SGLang 0.5.6 to 0.5.23
(srt/layers, srt/models), vLLM 0.11 to 0.33 (model_executor/layers) and TensorRT-LLM 1.0 to 1.2 (_torch/modules).
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
    chunks: int  # of a delta rule over prompts
    moves: int  # how often states of all sequences are read or written beside it


CHUNKED = 31
"""Calls of a delta rule over prompts. Kernels in Triton: two norms of queries and keys, sums of decays, products of keys, the inverse
of a triangle, two products with it, states, outputs, gates; 14 buffers of theirs; copies of queries, keys and values; states gathered,
states of new sequences cleared (2), written back, and the output's copy (``_forward_core`` in vllm/model_executor/layers/mamba/
gdn_linear_attn.py; sglang/srt/layers/attention/fla/chunk.py)."""
PYTHON = Calls(2, 2, 2, 6, 15, 8, 1, 1, CHUNKED, 4)
TRTLLM_CALLS = Calls(1, 0, 1, 3, 3, 3, 0, 0, CHUNKED, 0)


PLAIN = ("bf16", "fp16", "fp32")
"""Number formats whose matrix products need no quantisation of their inputs."""

SAMPLING = 12
"""Python calls of an op `sampling`: penalties, temperature, softmax and sampling are small ops of PyTorch."""

IN_PIECES, IN_LATENT_PIECES = 3, 8
"""Python calls of a layer whose graph is cut at its attention: the replay, the write to the KV cache, and attention; latent
attention is cut with the products and copies that expand the cache for prompts."""

IN_CHUNKS = ("delta_prefill", "kda_prefill")
"""Ops at which a layer's graph is cut and which need many Python calls."""

UNCUT = (CompressedAttention,)
"""Layers whose graphs engines do not cut (DeepSeek-V4: vLLM before 0.33; SGLang unless prompts are context-parallel)."""


class Launches(NamedTuple):
    """Kernel launches of one step over all layers and stages, and the seconds that each decode adds to a step with prompts."""

    prompts: int  # of a step with prompts
    decodes: int  # of a step that only decodes
    pieces: int  # of a step with prompts whose graph is cut at attention
    mixed_s: float = 0.0  # see `mixed_seconds`

    def drafting(self, draft: Launches, passes: int) -> Launches:
        """Return the launches with a draft model: one pass through a prompt, and `passes` passes after a decode.

        Decodes that verify drafts have their own recurrence, also in steps with prompts.
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
    """Return the launches of a section's layers without experts: for prompts, for decodes, and in pieces."""
    layer, ops = section.layer, section.build(unit)
    fused = layer is not None and any(op.kind == "all_reduce" for op in ops)
    counts = [(calls.norm if fused and op.name == "norm" else calls_of(op, layer, calls), op.phase) for op in ops]
    prompts = sum(count for count, phase in counts if phase != "decode")
    decodes = sum(count for count, phase in counts if phase != "prefill")
    pieces = prompts if layer is None else IN_LATENT_PIECES if isinstance(layer.mixer, LatentAttention) else IN_PIECES
    pieces += (calls.chunks - 1) * any(op.name in IN_CHUNKS for op in ops)
    return prompts * section.layers, decodes * section.layers, pieces * section.layers


STATES, BESIDE = 256, ("conv", "delta", "kda")
"""Sequences whose states are moved together, many enough for a device's full rate; ops by the part of their name before the phase."""


def mixed_seconds(deployment: Deployment, calls: Calls) -> float:
    """Return the seconds that each decode adds to a step with prompts, for layers with a delta rule.

    vLLM computes all sequences of such a step in chunks (``num_prefills > 0`` in ``_forward_core``): a decode takes one chunk
    instead of one update, and its states are gathered and written back as a prompt's are.
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

    On data-centre Blackwell vLLM and SGLang call kernels that take all of a layer's experts, for weights below 16 bits.
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
