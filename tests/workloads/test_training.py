"""Do backward passes compute what they must, and is what they need counted once?

FLOPs: two matmuls of a matmul's own, five for fused attention's two (arXiv 2307.08691). Kept tensors:
the closed forms of Korthikanti et al. (arXiv 2205.05198, section 4.1).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.simulator.training.activations import OUTPUT, kept
from opbyte.simulator.training.layout import training_model
from opbyte.workloads.catalog import list_models, load_model
from opbyte.workloads.layers import Attention, FeedForward, Run
from opbyte.workloads.layers.base import gemm
from opbyte.workloads.model import Layer, ModelSpec, layer_ops
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import about
from opbyte.workloads.training import RECOMPUTED_STATES, backward, whole_sequences
from opbyte.workloads.training_parts import ALONE, WIDE, even_loads, part_backward, step_flops, training_ops

RUN = Run(Numerics("fp16", kv="fp16"))


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 8))
def test_a_matmuls_gradients_are_two_matmuls_that_move_its_operands(m: int, n: int, k: int, batch: int) -> None:
    op = gemm("up", "ffn", "ffn", m, n, k, RUN, batch=batch)
    by_input, by_weight = backward(op, RUN, 2.0)
    for work in (by_input, by_weight):
        s = work.op.shape
        assert work.flops == op.flops == 2.0 * s["m"] * s["n"] * s["k"] * batch
    assert by_input.op.bytes == op.bytes  # gradient in, weights, gradient out
    # Both activations read, the gradient read and written.
    assert by_weight.op.bytes == 2.0 * batch * (m * k + m * n + 2 * n * k)


@pytest.mark.parametrize("name", list_models())
def test_a_step_is_three_forward_passes_of_every_model(name: str) -> None:
    """Matmuls of weights exactly; fused attention's scores once more on the devices."""
    model = training_model(load_model(name), None)
    run = Run(model.numerics)
    m = whole_sequences(2, 197 if model.front else 256, model.windows)
    flops = step_flops(model, m, run, "none")
    assert flops.model == 3 * flops.forward
    one = step_flops(model, whole_sequences(1, int(m.tokens) // 2, model.windows), run, "none")
    assert one.times(2).hardware == pytest.approx(flops.hardware, rel=1e-12)
    unfused = Run(model.numerics, "unfused")
    apart, anew = 0.0, False  # an indexer's scores and inputs get no gradient; its loss has products of its own
    for layer, count in model.groups:
        for ops in training_ops(layer, m, unfused):
            works = [(count, part_backward(ops, unfused, 0.0)), *((-count, backward(op, unfused, 0.0)) for op in ops)]
            apart += sum(n * w.flops for n, every in works for w in every if about(w.op.kind).matrix)
            anew |= not RECOMPUTED_STATES.isdisjoint(op.kind for op in ops)
    assert flops.model + min(apart, 0.0) <= flops.hardware < 3.5 * flops.forward
    plain = step_flops(model, m, unfused, "none")
    assert plain.hardware == pytest.approx(3 * plain.forward + apart, rel=0.1 if anew else 1e-12)
    full = step_flops(model, m, run, "full")
    assert flops.hardware < full.hardware <= flops.hardware + flops.forward


@pytest.mark.parametrize("name", ["llama-2-70b", "mixtral-8x7b", "deepseek-v3"])
def test_flops_of_a_token_are_six_times_the_active_weights(name: str) -> None:
    """6 N T with N the active parameters beside the embedding (arXiv 2001.08361), and attention."""
    model = load_model(name)
    one = step_flops(model, whole_sequences(1, 1, model.windows), Run(model.numerics), "none")
    table = model.vocab * model.hidden
    assert one.model == pytest.approx(6 * (model.active_params - table), rel=0.005)


def gpt_layer(hidden: int, heads: int) -> Layer:
    attention = Attention(hidden, heads, heads, hidden // heads)
    return Layer(attention, FeedForward(hidden, 4 * hidden, 2), 2, 2 * hidden)


@given(st.sampled_from((64, 128)), st.sampled_from((1, 2, 4)), st.integers(1, 4), st.booleans())
def test_a_gpt_layer_keeps_what_the_paper_counts(hidden: int, heads: int, b: int, dropout: bool) -> None:
    """34 s b h + 5 a s^2 b with dropout; its masks are 2 s b h and a s^2 b, one copy 2 a s^2 b."""
    s = 96
    run = Run(RUN.numerics, "unfused")
    m = whole_sequences(b, s, (0,))
    parts = layer_ops(gpt_layer(hidden, heads), m, run, None)
    found = [k for ops in parts for k in {k.name: k for op in ops for k in kept(op, run, hidden, dropout)}.values()]
    found = [k for k in found if k.module != OUTPUT]
    scores = sum(k.bytes for k in found if k.module == "core_attn")
    assert scores == (5 if dropout else 2) * heads * s**2 * b
    assert sum(k.bytes for k in found) - scores == 32 * s * b * hidden  # 34 with both masks
    whole = sum(k.bytes for k in found if k.whole)
    assert whole == 8 * s * b * hidden  # 10 with both masks


def test_shared_experts_read_the_routers_input_once() -> None:
    model: ModelSpec = training_model(load_model("deepseek-v3"), None)
    run = Run(model.numerics)
    m = whole_sequences(1, 128, model.windows)
    layer = model.layers[-1]
    assert layer.ffn is not None
    assert layer.ffn.routed is not None
    ops = layer.ffn.ops(m, run, even_loads(layer.ffn.routed, m.tokens))
    names = [k.name for op in ops for k in kept(op, run, model.hidden)]
    assert names.count("input") == 2  # the router's and the shared experts', the same tensor


def test_what_backward_passes_of_sparse_attention_and_streams_add() -> None:
    """Entries get their gradients in 32 bits from every query; streams move 5.4 times what their kernel moves.

    The indexer learns from what each query chose: one product of attention again, three of its scores, in 16 bits.
    """
    model = training_model(load_model("deepseek-v4-flash"), "mxfp8")
    run, m = Run(model.numerics, alone=ALONE), whole_sequences(1, 4096, model.windows)
    ops = training_ops(model.layers[2], m, run)[0]
    works = {work.op.name: work.flops for work in part_backward(ops, run, 2.0)}
    read = 384 * 4096  # of pools of 4 tokens 512 at most: half of the queries see fewer, 256 on average
    assert works["index_target"] == pytest.approx(2 * read * 64 * 512, rel=0.01)
    assert works["index_grad"] == pytest.approx(6 * read * 64 * 128, rel=0.01)
    assert not works.keys() & {"index_prefill_grad", "index_q_dgrad"}
    assert {op.dtype for op in ops if op.name in WIDE} == {"bf16"}
    for op in ops:
        if op.kind in ("sparse_prefill", "hyper_pre"):
            again, sums = backward(op, run, 2.0)
            rows, width, times = (
                ("pairs", "key_bytes", 2) if op.kind == "sparse_prefill" else ("tokens", "token_bytes", 5.4)
            )
            assert sums.op.act_bytes == pytest.approx(times * op.shape[rows] * op.shape[width])
            assert again.flops == (2.5 if op.kind == "sparse_prefill" else 2) * op.flops
