"""Does a training step agree with closed forms of ZeRO, of pipelines, and of activation memory?

ZeRO: arXiv 1910.02054. Pipelines: arXiv 2104.04473. Activations: Korthikanti et al. (arXiv 2205.05198),
whose four models (its table 3, quoted from memory) are built below.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.answers.train import train
from opbyte.devices.calibrated.libraries import CUDNN
from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.spec import SystemSpec
from opbyte.simulator.training.layers import LAUNCH_S, SYNC_S, board_clock, sustained
from opbyte.simulator.training.memory import TrainingMemory
from opbyte.simulator.training.pipeline import dual_order, in_flight, order, pass_seconds, pipeline_chunks, schedule
from opbyte.simulator.training.states import BytesPerWeight, ParameterCounts, states
from opbyte.simulator.training.step import TrainingStep
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.model import ModelSpec, embedding_ops, layer_ops
from opbyte.workloads.training import RepeatedOp, backward, loss_ops, whole_sequences

from ..tables import tables

KORTHIKANTI = tables(__file__)["korthikanti"]
S, V = 2048, 51200


def test_boards_with_more_watts_a_flop_clock_higher() -> None:
    """In watts per nominal FLOP/s: B200, GB200 (whose kernels' ratios are the unit), B300, GB300."""
    clocks = [board_clock(load_device(name)[0]) for name in ("b200", "gb200", "b300", "gb300")]
    assert clocks == sorted(clocks)
    assert clocks[1] == pytest.approx(1.0, rel=1e-3)


@given(st.floats(1, 1e12), st.floats(0, 1e12), st.integers(1, 1024), st.integers(1, 64))
def test_states_are_the_papers_closed_forms(dense: float, experts: float, dp: int, copies: int) -> None:
    """16 bytes a parameter; 4 + 12/n, 2 + 14/n and 16/n for stages 1 to 3."""
    each, p = BytesPerWeight.adam(2.0), ParameterCounts(dense, experts)
    fixed, shared = (16, 4, 2, 0), (0, 12, 14, 16)
    for zero in range(4):
        expected = fixed[zero] * (dense + experts)
        expected += shared[zero] * (dense / dp + experts / copies)
        assert states(p, each, zero, dp, copies).total == pytest.approx(expected)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 4), st.floats(0.1, 9), st.floats(0.1, 9))
def test_equal_stages_take_the_closed_form(stages: int, rounds: int, parts: int, f: float, b: float) -> None:
    """(m + (p - 1) / v) (F + B): the bubble of arXiv 2104.04473, section 2.2."""
    micro = stages * rounds
    parts = parts if stages > 1 else 1
    even = [[f / parts] * parts] * stages, [[b / parts] * parts] * stages
    done = schedule(*even, micro)
    assert max(done.ends) == pytest.approx((micro + (stages - 1) / parts) * (f + b))
    if parts == 1:  # ZB-H1: arXiv 2401.10241, section 2.3
        late = min(f, b / 2)
        zero_bubble = schedule(*even, micro, weights=[late] * stages)
        assert max(zero_bubble.ends) == pytest.approx(micro * (f + b) + (stages - 1) * (f + b - 2 * late))
    # Activations of the first stage: arXiv 2205.05198, section 4.2.3.
    whole = 1 + (stages - 1) / (stages * parts) if parts > 1 else 1
    assert in_flight(stages, micro, [[1 / parts] * parts] * stages)[0] == pytest.approx(min(stages * whole, micro))


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=6), st.integers(1, 9), st.floats(0, 1))
def test_a_schedule_is_never_shorter_than_its_work(times: list[float], micro: int, send: float) -> None:
    done = schedule([[t] for t in times], [[2 * t] for t in times], micro, send_s=send)
    assert max(done.ends) >= max(done.busy) - 1e-9
    assert max(done.ends) <= 3 * sum(times) * micro + 2 * send * len(times) * micro + 1e-9
    assert max(done.ends) >= 3 * sum(times) + 2 * send * (len(times) - 1) - 1e-9


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_every_pass_runs_once_and_forward_before_backward(stages: int, rounds: int, parts: int) -> None:
    micro = stages * rounds
    for stage in range(stages):
        tasks = order(stage, stages, micro, parts)
        assert len(set(tasks)) == len(tasks) == 2 * micro * parts
        for place, task in enumerate(tasks):
            if task.backward:
                assert tasks.index(task._replace(backward=False)) < place


@given(st.lists(st.tuples(*[st.floats(0, 5)] * 3), min_size=1, max_size=8))
def test_exchanges_beside_a_pass_take_between_the_longest_and_the_sum(layers: list[tuple[float, float, float]]) -> None:
    work, gathers, scatters = (list(column) for column in zip(*layers, strict=True))
    took = pass_seconds(work, gathers, scatters)
    assert took >= max(sum(work), sum(gathers) + sum(scatters)) - 1e-9
    assert took <= sum(work) + sum(gathers) + sum(scatters) + 1e-9
    assert pass_seconds(work) == pytest.approx(sum(work))


def roomy(name: str) -> SystemSpec:
    """A system whose devices have memory enough for anything."""
    system = load_system(name)
    memory = system.device.memory.model_copy(update={"capacity_bytes": 1e15})
    return system.model_copy(update={"device": system.device.model_copy(update={"memory": memory})})


@pytest.mark.parametrize("name", ["llama-3.2-1b", "gemma-3-1b", "olmo-hybrid-7b"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_one_device_takes_the_sum_of_its_ops(name: str, recompute: str) -> None:
    """Each op forward, what it takes backward, and the layers' once more where nothing is kept; then the optimiser."""
    found = train(name, roomy("h100-x1"), batch=6, micro_batch=2, seq=512, recompute=recompute)
    d, step = found.deployment, found.step
    run, m = d.run, whole_sequences(2, 512, d.shard.windows)
    layers = [op for layer in d.shard.layers for part in layer_ops(layer, m, run, None) for op in part]
    ends = [*embedding_ops(d.shard, m, run), *loss_ops(d.shard, m, run, 1)]
    cost, gradient = d.device.processors["xpu"].model.cost, BytesPerWeight.adam(2.0).gradients

    def seconds(works: list[RepeatedOp]) -> float:
        real = [w for w in works if w.op.flops > 0 or w.op.act_bytes > 0]
        return sum(w.times * w.slower * sustained(d.device, w.op) * cost(w.op).seconds for w in real)

    forward = seconds([RepeatedOp(op) for op in layers])
    each = forward * (2 if recompute == "full" else 1) + seconds([RepeatedOp(op) for op in ends])
    each += seconds([w for op in (*layers, *ends) for w in backward(op, run, gradient)])
    assert step.by_stream["compute"] == pytest.approx(3 * each, rel=1e-9)
    assert step.seconds == pytest.approx(3 * each + step.by_stream["optimizer"], rel=1e-9)


def gpt(folder: Path, name: str) -> Path:
    heads, hidden, layers, *_ = KORTHIKANTI[name]
    path = folder / "config.json"
    path.write_text(json.dumps({
        "architectures": ["GPT2LMHeadModel"], "n_embd": hidden, "n_layer": layers, "n_head": heads,
        "n_positions": S, "vocab_size": V, "torch_dtype": "float16",
    }))  # fmt: skip
    return path


@pytest.mark.parametrize("name", KORTHIKANTI)
@pytest.mark.parametrize(
    ("split", "recompute"), [(False, "none"), (True, "none"), (False, "selective"), (True, "selective"), (True, "full")]
)
def test_activations_of_korthikantis_models(name: str, split: bool, recompute: str, tmp_path: Path) -> None:
    """Table 2 of the paper with 1F1B or interleaving, within 5 %.

    s b h L (10 + 24/t + 5 a s/(h t)); all over t with sequence parallel; without the scores when they
    are recomputed; the layers' input alone when all is. The first stage adds the embedding's mask, a
    stage that is the last too the head's 4 s b h (1 + v/h) / t.
    """
    a, h, layers, t, p, parts, batch, b = KORTHIKANTI[name]
    nodes = p  # one stage a node
    found = train(
        gpt(tmp_path, name), roomy(f"a100-80gb-{nodes}x8"), batch=batch, seq=S, micro_batch=b,
        recompute=recompute, sequence_parallel=split, interleave=parts, dropout=True, tp=t, pp=p,
        attention="unfused", costs="roofline",
    )  # fmt: skip
    first = found.step.stages[0].memory
    scores = 5 * a * S / (h * t) if recompute == "none" else 0.0
    each = 34 / t + scores if split else 10 + 24 / t + scores
    if recompute == "full":
        each = 2 / t
    held = 1 + (p - 1) / (p * parts) if parts > 1 else 1.0
    expected = S * b * h * layers * each * held
    share = t if split else 1
    expected += S * b * h * p * held / share
    if p == 1:
        expected += 4 * S * b * h * (1 + V / h) / t
    assert first.activations == pytest.approx(expected, rel=0.05)
    if p > 1:  # nothing but the layers and the mask: to the last byte
        assert first.activations == pytest.approx(expected, rel=1e-9)


def test_parts_side_by_side_keep_their_input_once() -> None:
    """Falcon's attention and MLP read one norm's output; in sequence each has its own: 2 s b h."""
    model = load_model("falcon-180b")
    apart = model.map_layers(lambda layer: replace(layer, parallel=False))
    both, each = (
        train(spec, roomy("h100-x8"), batch=8, seq=1024, tp=1, costs="roofline").step.memory for spec in (model, apart)
    )
    saved = each.activations - both.activations
    assert saved == pytest.approx(2 * 1024 * model.hidden * len(model.layers))


def test_streams_add_up_to_the_step() -> None:
    for options in ({"tp": 2, "pp": 2}, {"tp": 1, "zero": 3}, {"tp": 1, "zero": 2}, {"tp": 8, "zero": 0}):
        found = train("llama-3-8b", roomy("h100-2x8"), batch=32, costs="roofline", **options).step
        assert sum(found.by_stream.values()) == pytest.approx(found.seconds)
        assert all(took >= 0 for took in found.by_stream.values())
        assert found.hidden_s >= 0


def test_zero_costs_links_and_saves_memory() -> None:
    """Stages 0 to 2 send the same with one micro-batch; each stage holds less."""
    found = [train("llama-3-8b", roomy("h100-2x8"), batch=16, tp=1, zero=z, costs="roofline").step for z in range(4)]
    totals = [step.memory.total - step.memory.gathered for step in found]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    assert found[1].seconds == pytest.approx(found[2].seconds)
    assert found[3].seconds >= found[2].seconds


def test_skewed_routing_takes_longer() -> None:
    even, skewed = (
        train("mixtral-8x7b", roomy("h100-x8"), batch=8, routing=r, costs="roofline").step.seconds
        for r in ("uniform", "power_law:1.0")
    )
    assert skewed > even


@pytest.mark.parametrize(("options", "message"), tables(__file__)["bad"])
def test_bad_input_is_one_clear_line(options: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"batch": 64, "seq": 1024, "costs": "roofline", **options}
    with pytest.raises(InputError) as caught:
        train("mixtral-8x7b", "h100-2x8", **given)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_says_what_takes_most() -> None:
    with pytest.raises(CapacityError, match=r"needs \d+\.\d GiB per device \(\w+ .*--recompute full"):
        train("llama-3-70b", "h100-x8", batch=8, costs="roofline")


@pytest.mark.parametrize(
    ("layers", "mtp", "pp", "parts", "text", "sizes"),
    [
        (61, 1, 4, 4, "Et*4|(t*4|)*14tmL", (4,) * 15 + (2,)),  # DeepSeek-V3 on GB200; the last one with its MTP layer
        (61, 1, 8, 4, "Et|(tt|)*30mL", (1, *(2,) * 30, 1)),  # on H100
        (80, 0, 8, 5, "Et*2|(t*2|)*34,t*3|(t*2|)*3,tL", (2,) * 35 + (3, 2, 2, 2, 1)),  # Llama 3 70B on H100
        (126, 0, 8, 8, "", (1, *(2,) * 62, 1)),  # Llama 3.1 405B: embedding and loss count as layers
        (94, 0, 8, 4, "", (2, *(3,) * 30, 2)),  # Qwen3-235B
    ],
)
def test_layouts_of_published_recipes(
    layers: int, mtp: int, pp: int, parts: int, text: str, sizes: tuple[int, ...]
) -> None:
    """Strings and splits of NVIDIA-NeMo/Megatron-Bridge@067f987, perf_recipes."""
    assert pipeline_chunks(layers, mtp, pp, parts, text) == sizes


@given(st.integers(1, 130), st.integers(0, 2), st.integers(1, 16), st.integers(1, 8))
def test_an_even_split_has_every_layer_once(layers: int, mtp: int, pp: int, parts: int) -> None:
    if layers >= pp * parts:
        sizes = pipeline_chunks(layers, mtp, pp, parts)
        assert len(sizes) == pp * parts
        assert sum(sizes) == layers + mtp
        middle = sizes[1:-1]
        assert not middle or max(middle) - min(middle) <= 1
        assert min(sizes) >= 0


def test_a_layer_of_deepseek_v3_keeps_what_megatron_counts() -> None:
    """448 KiB a token: expert inputs 112 and 32, gate and up 64, Q, K and V 128, output 32, norms and residuals 56, the rest small.

    NVIDIA's report (arXiv 2603.07685) counts 131 GB for 61 layers of 4,096 tokens with 112 KiB more, what experts return.
    """
    found = train(
        "deepseek-v3", roomy("gb200-x64"), batch=64, seq=4096, ep=64, tp=1, recompute="none", costs="roofline"
    ).step
    kept = found.stages[0].layers[10].kept_bytes / 4096 / 1024
    assert kept == pytest.approx(448, rel=0.02)
    assert 61 * 4096 * (kept + 112) / 2**20 == pytest.approx(131, rel=0.03)


def test_recomputing_modules_saves_what_the_report_says() -> None:
    """mla_up_proj 30.4 and moe_act 3.8 GB of 61 layers of 4,096 tokens, the latter with 8 bits (arXiv 2603.07685); norms 8.2."""

    def kept(recompute: str, dtype: str) -> float:
        step = train(
            "deepseek-v3", roomy("gb200-x64"), batch=64, ep=64, tp=1, recompute=recompute, dtype=dtype, costs="roofline"
        ).step
        return 61 * step.stages[0].layers[10].kept_bytes / 2**30

    assert kept("none", "bf16") - kept("mla_up_proj", "bf16") == pytest.approx(30.4, rel=0.01)
    assert kept("none", "mxfp8") - kept("moe_act", "mxfp8") == pytest.approx(3.8, rel=0.05)
    assert kept("none", "bf16") - kept("layernorm", "bf16") == pytest.approx(8.2, rel=0.25)  # it counts small ones too


RECOMPUTED = {
    "llama-3-8b": ("none", "layernorm", "alternate", "layernorm,mlp", "full:4", "full"),
    "kimi-linear-48b-a3b": ("none", "gdn_norm_out", "gdn_norm_out,layernorm", "full:4", "full"),
    "deepseek-v3": ("none", "mla_up_proj", "mla_up_proj,moe_act", "mla_up_proj,moe_act,layernorm", "full:4", "full"),
}


@pytest.mark.parametrize("model", list(RECOMPUTED))
def test_what_keeps_less_takes_longer(model: str) -> None:
    """Recomputation; larger micro-batches keep more, narrower formats are faster and keep less, and more devices cost their exchanges at most."""

    def step(nodes: int = 1, **options: Any) -> TrainingStep:
        usual = {
            "batch": 64 * nodes,
            "seq": 4096,
            "ep": None if model == "llama-3-8b" else 64,
            "tp": 1,
            "recompute": "none",
        }
        return train(model, roomy(f"gb200-{nodes}x64"), **usual | options).step

    ways = [step(recompute=way) for way in RECOMPUTED[model]]
    modules, whole = ways[:-2], [ways[0], *ways[-2:]]  # whole layers are another series
    for a, b in [*pairwise(modules), *pairwise(whole)]:
        assert a.seconds < b.seconds
        assert a.memory.activations > b.memory.activations
    assert all(a.flops.hardware < b.flops.hardware for a, b in pairwise(whole))
    states = [step(moment_bits=bits).memory.optimizer for bits in (8, 16, 32)]
    assert states == pytest.approx([states[0] * n for n in (1, 8 / 6, 2)])
    short, long = (step(gradient_bits=bits) for bits in (16, 32))
    assert long.memory.gradients == 2 * short.memory.gradients
    assert long.seconds >= short.seconds
    logits = 4096 * load_model(model).vocab
    assert step(loss="unfused").memory.working == 12 * logits
    sizes = [step(batch=256, micro_batch=n).memory.total for n in (1, 2, 4)]
    assert sizes == sorted(sizes)
    for a, b in pairwise(step(dtype=dtype) for dtype in ("bf16", "mxfp8", "nvfp4")):
        assert a.seconds > b.seconds
        assert a.memory.activations > b.memory.activations
    one, two = step(1), step(2)
    waits = sum(took for name, took in two.by_stream.items() if name.endswith("parallel"))
    assert two.seconds <= one.seconds + waits


def test_layers_may_stay_in_16_bits() -> None:
    """Their time and weights are those of a BF16 step; other layers, embedding, head and MTP keep the format."""

    def step(dtype: str, **options: Any) -> TrainingStep:
        usual: dict[str, Any] = {
            "model": "llama-3-8b",
            "batch": 128,
            "seq": 1024,
            "tp": 1,
            "zero": 3,
            "recompute": "none",
        }
        return train(system=roomy("gb200-1x64"), dtype=dtype, **usual | options).step

    wide, narrow, some = step("bf16"), step("nvfp4"), step("nvfp4", bf16_first=1, bf16_last=3)
    for n, passes in enumerate(some.stages[0].layers):
        like = narrow if 1 <= n < 29 else wide
        assert (passes, some.stages[0].gathers[n]) == (like.stages[0].layers[n], like.stages[0].gathers[n])
    layers = 4 * (4096 * (4096 * 2 + 1024 * 2 + 14336 * 3 + 2))
    assert some.memory.weights - narrow.memory.weights == pytest.approx(layers * 0.875 / 64)
    assert some.memory.gathered == wide.memory.gathered
    for options, layers in (
        ({"pp": 2, "interleave": 2, "bf16_first": 2, "bf16_last": 1}, [0, 1, 31]),
        ({"model": "deepseek-v3", "ep": 64, "bf16_last": 61}, [*range(61)]),
    ):
        stages, plain = (step("mxfp8", **options | others).stages for others in ({}, {"bf16_first": 0, "bf16_last": 0}))
        pairs = [pair for s, p in zip(stages, plain, strict=True) for pair in zip(s.layers, p.layers, strict=True)]
        assert [n for n, (a, b) in enumerate(pairs) if a.forward_s > b.forward_s] == layers
    head = step("bf16", tp=2, overlap_tp=False).stages[0].head
    assert head is not None
    assert head.forward["tensor parallel"] > head.backward["tensor parallel"]  # the sums of the loss


def test_frameworks_keep_logits_and_whole_gradients() -> None:
    """PyTorch's last stage keeps 16-bit logits of all micro-batches; FSDP the gradients of two layers (mlp, attention, norms), in 32 bits."""
    model = load_model("llama-3-8b")

    def memory(pp: int = 1, zero: int = 1, loss: str = "unfused") -> TrainingMemory:
        options = {"seq": 1024, "tp": 1, "gradient_bits": 32, "recompute": "none", "costs": "roofline"}
        return train(model, roomy("h100-x8"), batch=64, pp=pp, zero=zero, loss=loss, **options).step.stages[-1].memory  # type: ignore[arg-type]

    logits = 2 * 1024 * model.vocab * 64 / 4  # of 16 micro-batches on each of four ranks
    assert memory(pp=2).activations - memory(pp=2, loss="fused").activations == pytest.approx(logits)
    assert memory().activations == memory(loss="fused").activations
    layer = 4096 * (4096 * 2 + 1024 * 2 + 14336 * 3 + 2)
    assert [memory(zero=z).gathered for z in range(4)] == [0, 0, 2 * 4 * layer, 2 * (4 + 2) * layer]


def test_auto_recomputes_what_is_faster_of_modules_and_layers() -> None:
    """Llama-3.1-405B in FP8 on 128 GB200: norms alone do not fit, and with dense blocks it takes 17 % longer than with one layer of each stage."""
    options: dict[str, Any] = {"batch": 768, "seq": 8192, "tp": 4, "pp": 16, "interleave": 4, "dtype": "fp8"}
    auto, modules = (
        train("llama-3.1-405b", "gb200-2x64", recompute=way, **options) for way in ("auto", "layernorm,mlp")
    )
    assert auto.options.recompute == "full:1"
    assert auto.step.seconds < 0.9 * modules.step.seconds


def test_context_parallel_ranks_share_a_sequence() -> None:
    """Two ranks have half of the tokens and of the pairs each: half of the work, for half of the ranks of data."""
    one, two = (
        train("llama-3-8b", roomy("h100-x8"), batch=16, seq=8192, tp=1, cp=cp, costs="roofline", recompute="none")
        for cp in (1, 2)
    )
    assert (one.layout.dp, two.layout.dp, two.layout.copies) == (8, 4, 8)
    assert two.step.by_stream["compute"] == pytest.approx(one.step.by_stream["compute"], rel=0.02)
    assert two.step.memory.activations == pytest.approx(one.step.memory.activations / 2, rel=1e-9)


def test_biases_of_gated_experts_take_separate_kernels() -> None:
    """22 and 32 values of 16 bits for each of a row, whose inner and outer width are equal; a graph of the whole pass fuses them.

    The host waits for the tokens of experts, and for each copy of the activation's offset.
    """
    biased = load_model("gpt-oss-20b")
    plain = biased.map_layers(lambda layer: replace(layer, ffn=replace(layer.ffn, expert_bias=False)))  # type: ignore[type-var]

    def step(model: ModelSpec, graphs: str, way: str = "none") -> TrainingStep:
        return train(model, roomy("h100-x8"), batch=8, seq=1024, tp=1, ep=8, graphs=graphs, costs="roofline", recompute=way).step  # fmt: skip

    def seconds(model: ModelSpec, graphs: str) -> float:
        return sum(p.forward["moe"] + p.backward["moe"] for p in step(model, graphs).stages[0].layers)

    rate = load_system("h100-x8").device.memory.bandwidth_bytes_per_s
    moved = (22 + 32) * 24 * 1024 * 4 * 2880 * 2.0
    assert seconds(biased, "partial") - seconds(plain, "partial") == pytest.approx(moved / rate, rel=0.25)
    assert seconds(biased, "full") == pytest.approx(seconds(plain, "full"))
    for way, waits, calls in (
        ("moe_act", 3, 84),
        ("moe", 4, 126),
        ("full", 4, 126),
    ):  # kernels of the forward pass again
        again = step(biased, "partial", way).by_stream["host"]
        assert again == pytest.approx(24 * (waits * SYNC_S + calls * LAUNCH_S))


def test_attention_trains_with_other_kernels_than_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a step is attention, which takes a fourth less (NVIDIA/cudnn-frontend, benchmark/attention_training)."""
    seconds = []
    for kernels in (CUDNN, {}):
        monkeypatch.setattr("opbyte.simulator.training.layers.CUDNN", kernels)
        seconds.append(train("llama-3-8b", "gb200-x8", batch=8, seq=8192, tp=2).step.seconds)
    assert seconds[0] == pytest.approx(0.95 * seconds[1], rel=0.02)


def test_offloaded_layers_leave_memory_and_wait_for_the_host() -> None:
    base, less = (
        train("llama-3-8b", "h100-x8", batch=16, seq=4096, tp=1, recompute="none", offload=n, costs="roofline").step
        for n in (0, 16)
    )
    assert base.memory.activations - less.memory.activations == pytest.approx(16 * base.stages[0].layers[0].kept_bytes)
    assert less.by_stream["offload"] > 0
    assert less.seconds - base.seconds == pytest.approx(less.by_stream["offload"])


def test_groups_that_share_states_keep_more() -> None:
    one, two = (
        train("llama-3-8b", roomy("h100-2x8"), batch=16, tp=1, zero=3, replicas=n, costs="roofline").step
        for n in (1, 2)
    )
    assert two.memory.optimizer == pytest.approx(2 * one.memory.optimizer)


@given(st.integers(1, 4), st.integers(2, 4), st.floats(0.1, 9), st.floats(1, 3), st.floats(0.01, 0.99))
def test_dualpipe_takes_its_closed_form(half: int, rounds: int, f: float, more: float, share: float) -> None:
    """(p/2 - 1) (F&B + B - 3W), as DeepSeek-V3's paper (arXiv 2412.19437, table 2), where F, W and the rest of B are equal; less where W is short."""
    ranks, micro = 2 * half, 2 * half * rounds

    def bubble(f: float, b: float, w: float) -> float:
        done = schedule([[f]] * ranks, [[b]] * ranks, micro, weights=[w] * ranks, dual=True)
        assert done.busy == pytest.approx([micro * (f + b)] * ranks)
        return max(done.ends) - micro * (f + b)

    assert bubble(f, 2 * f, f) == pytest.approx((half - 1) * (f + 2 * f + 2 * f - 3 * f), abs=1e-6)
    late, b = share * f, (more + share) * f
    assert -1e-6 <= bubble(f, b, late) <= (half - 1) * (f + 2 * b - 3 * late) + 1e-6

    change = {"F": 1, "B": -1, "W": -1, "I": 0}
    for rank in range(ranks):  # as many as of its two stages with 1F1B: p - s and s + 1
        tasks = [kind for tasks in dual_order(rank, ranks, micro) for kind, _ in tasks]
        assert max(accumulate(change[kind] for kind in tasks)) == ranks + 1


def test_dualpipe_has_two_stages_on_a_rank() -> None:
    """Twice the weights and gradients; ZeRO shares the optimizer's states over both copies. Its bubble is below ZB-H1's."""
    ways = [
        train("llama-2-70b", roomy("h100-8x8"), batch=128, tp=8, pp=8, schedule=way, recompute="none").step
        for way in ("1f1b", "zero-bubble", "dualpipe")
    ]
    assert ways[0].by_stream["pipeline"] > ways[1].by_stream["pipeline"] > ways[2].by_stream["pipeline"] > 0
    assert ways[2].memory.optimizer == pytest.approx(ways[0].memory.optimizer, rel=0.02)
    assert ways[2].memory.weights == pytest.approx(2 * ways[0].memory.weights, rel=0.05)
    with pytest.raises(InputError, match="needs an even --pp, not 4, and an even number of micro-batches of a rank, 8"):
        train("llama-2-70b", "h100-8x8", batch=8, tp=8, pp=4, schedule="dualpipe")


def test_modules_are_offloaded_as_megatron_names_them() -> None:
    """160 of 448 KiB of a token of DeepSeek-V3 are queries, keys, values (128) and the output of attention (32); of experts 112 and 64."""

    def layer(modules: str, recompute: str = "none") -> float:
        step = train(
            "deepseek-v3",
            roomy("gb200-x64"),
            batch=64,
            ep=64,
            tp=1,
            recompute=recompute,
            offload_modules=modules,
            costs="roofline",
        ).step
        return step.stages[0].layers[10].kept_bytes / 4096 / 1024  # fmt: skip

    moved = {
        "core_attn": 128,
        "attn_proj": 32,
        "core_attn,attn_proj": 160,
        "expert_fc1": 112,
        "moe_act": 64,
        "attn_norm,mlp_norm": 28,
        "qkv_linear": 14,
    }
    for modules, size in moved.items():
        assert layer("") - layer(modules) == pytest.approx(size, rel=1e-6), modules
    assert layer("", "mla_up_proj") - layer("core_attn,attn_proj", "mla_up_proj") == pytest.approx(32)
    with pytest.raises(InputError, match="--offload-modules mlp: must be some of attn_norm"):
        layer("mlp")


@pytest.mark.parametrize("model", ["llama-3-70b", "deepseek-v3"])
def test_context_parallel_ranks_exchange_keys(model: str) -> None:
    """A ring hides behind attention to long sequences; a gather and Ulysses are waited for, and bytes are those of keys and values."""

    def waits(how: str, seq: int = 32768) -> float:
        step = train(
            model,
            roomy("gb200-x64"),
            batch=16,
            seq=seq,
            cp=8,
            tp=1,
            pp=1,
            cp_exchange=how,
            recompute="none",
            costs="roofline",
        ).step
        return step.by_stream["context parallel"] / step.seconds  # fmt: skip

    assert waits("ring") == 0.0 < waits("all-to-all")
    assert waits("all-gather") > 0.0
    assert waits("ring", 1024) < waits("all-gather", 1024)


def test_longer_runs_of_a_pipeline_take_proportionally_longer() -> None:
    """From some round on a schedule repeats itself, which is not simulated round by round."""
    uneven = [[1.0, 2.0], [1.5, 1.0], [2.0, 2.5], [1.0, 4.0]]
    exact, long = (schedule(uneven, uneven, micro, send_s=0.1) for micro in (44, 4 * 1000))
    rounds = max(exact.ends) - max(schedule(uneven, uneven, 40, send_s=0.1).ends)
    assert max(long.ends) == pytest.approx(max(exact.ends) + (1000 - 11) * rounds)
