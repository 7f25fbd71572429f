"""Does the event engine take the cycles that closed forms say, for designs drawn at random?

The closed forms are those of the papers' timing (M3ViT and Edge-MoE; docs/fpga.md lists them),
written out here as arithmetic without events.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.papers.m3vit import encoder_macs
from opbyte.devices.catalog import load_device
from opbyte.devices.fpga_engine import EngineSpec
from opbyte.simulator.fpga.deploy import FpgaDeployment, deploy_fpga, image_program
from opbyte.simulator.fpga.engine import Caches, ExternalMemory, run_frame
from opbyte.simulator.fpga.frames import run_image
from opbyte.simulator.fpga.lowering import FpgaTarget
from opbyte.simulator.fpga.schedules import ExpertBlock, ExpertLoad, Tile, UnitPass
from opbyte.simulator.parts.expert_cache.cache import ExpertCache
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.ops import Loads
from opbyte.workloads.vit_requests import make_image_router, queue_lengths

PLENTY = 1e15  # external memory that never is the limit [B/s]


def engine(**changes: object) -> EngineSpec:
    """A small design; keys of `changes` replace whole blocks."""
    keys: dict[str, object] = {
        "clock_Hz": 1e8,
        "linear": {"inputs": 8, "outputs": 8, "dsp_per_mac": 1},
        "buffers": {"weights_bytes": 1e9},
        "ports": {"kernel_bits": 128, "port_bits": 64, "weights": 1, "data": 3},
        "weight_bits": 16,
        "activation_bits": 16,
    }
    return EngineSpec.model_validate(keys | changes)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[ExpertBlock, np.ndarray, float]:
    """A MoE layer, its tokens' experts, and the cycles of its gate."""
    experts = draw(st.integers(1, 12))
    top_k = draw(st.integers(1, min(4, experts)))
    tokens = draw(st.integers(1, 40))
    parts = tuple(
        ExpertLoad(16.0 * draw(st.integers(1, 500)), float(draw(st.integers(1, 300))), 1.0)
        for _ in range(draw(st.integers(1, 2)))
    )
    block = ExpertBlock("experts", "moe", 0, experts, top_k, tokens, parts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sequence = np.array([rng.permutation(experts)[:top_k] for _ in range(tokens)])
    return block, sequence, float(draw(st.integers(0, 4000)))


def load_cycles(size: float, spec: EngineSpec) -> float:
    """Words of the kernel, each as many cycles as its port is narrower; latency first."""
    words = math.ceil(size / (spec.ports.kernel_bits / 8))
    return spec.ports.latency_cycles + words * max(1, spec.ports.kernel_bits / spec.ports.port_bits)


@settings(max_examples=80)
@given(blocks(), st.sampled_from([32, 64, 128]), st.sampled_from([0.0, 64.0]))
def test_reordered_layer(drawn: tuple[ExpertBlock, np.ndarray, float], port: int, wait: float):
    """T = gate + load(1) + sum of max(compute(j), load(j + 1)) + compute(J) over non-empty queues."""
    block, sequence, gate = drawn
    spec = engine(ports={"kernel_bits": 128, "port_bits": port, "latency_cycles": wait})
    program = (UnitPass("gate", "moe", "gate", gate), block)
    run = run_frame(program, spec, PLENTY, routes=lambda _: sequence)
    visits = [
        (load_cycles(part.weight_bytes, spec), part.cycles * n)
        for n in queue_lengths(sequence, block.experts)
        for part in block.parts
        if n
    ]
    inner = sum(max(comp, load) for (_, comp), (load, _) in pairwise(visits))
    expected = gate + visits[0][0] + inner + visits[-1][1]
    assert run.cycles == pytest.approx(expected, rel=0.005)
    assert run.cycles == math.ceil(expected - 1e-3)


@settings(max_examples=40)
@given(blocks(), st.integers(0, 6), st.sampled_from(["lru", "fifo", "lfu", "random"]))
def test_cached_layer(drawn: tuple[ExpertBlock, np.ndarray, float], size: int, policy: str):
    """T = gate + visits x compute + misses x load, in series; misses counted by replay."""
    block, sequence, gate = drawn
    spec = engine(cache={"experts": size, "policy": policy})
    program = (UnitPass("gate", "moe", "gate", gate), block)
    run = run_frame(program, spec, PLENTY, schedule="cache", routes=lambda _: sequence)
    cache = ExpertCache(size, policy)
    misses = sum(not cache.ask(int(e)) for e in sequence.ravel())
    compute = sequence.size * sum(p.cycles for p in block.parts)
    assert run.misses == misses
    assert run.hits == sequence.size - misses
    assert run.cycles == gate + compute + misses * load_cycles(block.weight_bytes, spec)


@settings(max_examples=40)
@given(blocks())
def test_layer_with_all_experts_on_chip(drawn: tuple[ExpertBlock, np.ndarray, float]):
    """Once everything is loaded a layer takes its arithmetic alone."""
    block, sequence, _ = drawn
    spec = engine()
    every = block.experts * load_cycles(block.weight_bytes, spec)
    program = (UnitPass("attention", "attention", "qk", every), block)
    run = run_frame(program, spec, PLENTY, schedule="on-chip", routes=lambda _: sequence)
    assert run.cycles == every + sequence.size * sum(p.cycles for p in block.parts)


@st.composite
def encoders(draw: st.DrawFn) -> FpgaDeployment:
    """A small encoder on a small design."""
    heads, head_dim = draw(st.integers(1, 3)), 8 * draw(st.integers(1, 3))
    experts = draw(st.integers(2, 8))
    keys = {
        "architectures": ["M3ViT"], "image_size": [16 * draw(st.integers(1, 4)), 32],
        "patch_size": 16, "hidden_size": heads * head_dim, "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 4)), "intermediate_size": draw(st.integers(8, 96)),
        "num_experts": experts, "num_experts_per_tok": draw(st.integers(1, 2)),
        "moe_intermediate_size": draw(st.integers(8, 64)),
    }  # fmt: skip
    spec = engine(
        linear={"inputs": draw(st.integers(1, 16)), "outputs": draw(st.integers(1, 16)),
                "dsp_per_mac": 1},
        attention={"queries": draw(st.integers(1, 8)), "features": draw(st.integers(1, 16)),
                   "dsp_per_mac": 1},
        ports={"kernel_bits": draw(st.sampled_from([64, 128])),
               "port_bits": draw(st.sampled_from([32, 64, 128])), "data": 4},
        load_unit=draw(st.sampled_from(["matrix", "expert"])),
        activations=draw(st.sampled_from(["on-chip", "external"])),
        norm_cycles_per_value=draw(st.sampled_from([0.0, 0.5])),
        gate_cycles_per_token=draw(st.sampled_from([0.0, 7.0])),
    )  # fmt: skip
    model = model_from_keys(keys, name="small", where="test")
    device = load_device("zcu102")[0]
    return FpgaDeployment(model, device, FpgaTarget(spec, draw(st.sampled_from([1.0, 0.8]))), ())


def pass_cycles(cycles: float, streams: tuple[float, ...], spec: EngineSpec) -> float:
    """Arithmetic or the longest stream through a port of its own."""
    rate = min(spec.ports.kernel_bits, spec.ports.port_bits) / 8
    return max([cycles, *(size / rate for size in streams)])


def chain_cycles(deployment: FpgaDeployment, sequences: list[np.ndarray]) -> float:
    """End of the last pass: loads in order, two buffers ahead at most, experts after their gate."""
    spec, loaded, done = deployment.engine, 0.0, 0.0
    freed: dict[str, list[float]] = {"pair": [0.0, 0.0], "router": [0.0, 0.0]}

    def tile(size: float, region: str, took: float, earliest: float = 0.0) -> None:
        nonlocal loaded, done
        loaded = max(loaded, freed[region][-2], earliest) + load_cycles(size, spec)
        done = max(loaded, done) + took
        freed[region].append(done)

    for item in image_program(deployment):
        if isinstance(item, UnitPass):
            done += pass_cycles(item.cycles, item.streams, spec)
        elif isinstance(item, Tile):
            took = pass_cycles(item.work.cycles, item.work.streams, spec)
            tile(item.weight_bytes, item.region, took)
        else:
            gated = done
            for n in queue_lengths(sequences[item.index], item.experts):
                for part in item.parts if n else ():
                    streams = tuple(s * n for s in part.streams)
                    took = pass_cycles(part.cycles * n, streams, spec)
                    tile(part.weight_bytes, "pair", took, gated)
    return done


@settings(max_examples=60)
@given(encoders(), st.integers(0, 99))
def test_whole_encoder(deployment: FpgaDeployment, seed: int):
    moe = deployment.moe
    experts, top_k = (moe.experts, moe.top_k) if moe else (1, 1)
    router = make_image_router("uniform", tasks=1, layers=max(deployment.model.moe_layers, 1),
                               experts=experts, top_k=top_k, seed=seed)  # fmt: skip
    tokens = deployment.front.tokens
    sequences = [router.sequence(0, 0, i, tokens) for i in range(deployment.model.moe_layers)]
    run = run_frame(image_program(deployment), deployment.engine, PLENTY, routes=lambda b: sequences[b.index])
    assert run.cycles == pytest.approx(chain_cycles(deployment, sequences), rel=0.005, abs=2)


@pytest.mark.parametrize("queries", [1, 3, 4, 8])
@pytest.mark.parametrize("port_bits", [64, 128, 256])
def test_attention_with_parallel_queries(queries: int, port_bits: int):
    """ceil((N + p - 1) / p) x N x (C / F) x stretch for the scores and again for the values."""
    device, _ = load_device("zcu102")
    found = deploy_fpga(load_model("edge-moe-cityscapes"), device)
    old = found.engine
    assert old.attention is not None
    spec = old.model_copy(update={
        "attention": old.attention.model_copy(update={"queries": queries, "softmax_cycles": 0.0}),
        "ports": old.ports.model_copy(update={"port_bits": port_bits}),
    })  # fmt: skip
    d = replace(found, target=replace(found.target, engine=spec))
    run = run_frame(image_program(d), spec, PLENTY, routes=lambda b: np.zeros((b.tokens, 1), int))
    n, passes = 129, math.ceil((129 + queries - 1) / queries)
    one = passes * n * (192 // 8) * (256 / port_bits)
    assert run.unit("qk", "pv") == pytest.approx(12 * 2 * one, rel=0.005)


def test_a_memory_shared_by_more_than_it_feeds():
    """Max-min shares: 10 B/cycle for ports of 2, 6 and 6 give 2, 4 and 4."""
    env = simpy.Environment()
    memory = ExternalMemory(env, 10.0)
    ends = {}

    def one(name: str, size: float, limit: float):
        yield memory.move(size, limit)
        ends[name] = env.now

    for name, size, limit in (("a", 20, 2), ("b", 40, 6), ("c", 100, 6)):
        env.process(one(name, size, limit))
    env.run()
    # a and b end at 10; c has 60 left and the memory, so its port's 6 a cycle: 10 more.
    assert ends == {"a": pytest.approx(10), "b": pytest.approx(10), "c": pytest.approx(20)}
    assert memory.moved == 160


def test_break_even_queue_hides_the_load():
    """M3ViT's engine: one 512-bit word, 32 weights, a cycle against P MACs: 48 tokens."""
    d = deploy_fpga(load_model("m3vit-pascal"), load_device("zcu104")[0])
    block = next(i for i in image_program(d) if isinstance(i, ExpertBlock))
    load = load_cycles(block.weight_bytes, d.engine)
    assert load == 9240
    assert load / block.parts[0].cycles == pytest.approx(48, rel=0.01)


def test_speculation_on_an_expert_nobody_visits_is_given_back():
    spec = engine(first_expert="speculative")
    part = ExpertLoad(1600.0, 10.0, 1.0)
    block = ExpertBlock("experts", "moe", 0, 3, 1, 4, (part,))
    gate, load = 1000.0, load_cycles(1600.0, spec)
    for expert, expected in ((0, gate + 40), (2, gate + load + 40)):
        sequence = np.full((4, 1), expert)
        run = run_frame((UnitPass("gate", "moe", "gate", gate), block), spec, PLENTY, routes=lambda _, s=sequence: s)
        assert run.cycles == expected


def test_a_load_larger_than_its_buffer_is_refused():
    spec = engine(buffers={"weights_bytes": 100.0})
    work = UnitPass("w", "ffn", "linear", 1.0)
    with pytest.raises(CapacityError, match=r"needs 200 bytes, 100 available"):
        run_frame((Tile(work, 200.0),), spec, PLENTY)


def test_token_order_needs_a_sequence():
    block = ExpertBlock("experts", "moe", 0, 2, 1, 3, (ExpertLoad(16.0, 1.0, 1.0),),
                        Loads(np.array([1.0, 2.0]), np.ones(2)))  # fmt: skip
    assert run_frame((block,), engine(), PLENTY).cycles == 2 + max(1, 2) + 2
    with pytest.raises(InputError, match="token order needs a sequence of experts"):
        run_frame((block,), engine(), PLENTY, schedule="cache")


def test_caches_of_layers_come_back_as_they_were():
    """The second image of a task asks the cache that the first left, and pays for bringing it back."""
    d = deploy_fpga(load_model("edge-moe-cityscapes"), load_device("zcu102")[0])
    caches = Caches(4, "lru")
    sequence = np.tile(np.array([[0, 1], [2, 3]]), (65, 1))[:129]
    runs = [
        run_frame(image_program(d), d.engine, PLENTY, schedule="cache", caches=caches, routes=lambda _: sequence)
        for _ in range(2)
    ]
    assert [run.misses for run in runs] == [6 * 4, 0]
    size = 2 * 192 * 384 * 2  # both matrices of an expert at 16 bit
    assert runs[0].memory_bytes == pytest.approx(runs[1].memory_bytes)
    assert runs[0].cycles - runs[1].cycles == pytest.approx(24 * (64 + size / 16), rel=0.005)


@pytest.mark.parametrize("schedule", ["reordered", "cache", "on-chip"])
@pytest.mark.parametrize(("model", "device"), [("m3vit-pascal", "zcu104"), ("edge-moe-cityscapes", "zcu102")])
def test_every_schedule_does_the_model_s_work(schedule: str, model: str, device: str):
    """Multiply-accumulates are conserved, and no array does more a cycle than it has."""
    d = deploy_fpga(load_model(model), load_device(device)[0])
    run = run_image(d, schedule=schedule)
    done = sum(share.macs for share in run.parts.values())
    assert done == pytest.approx(encoder_macs(d.model), rel=1e-9)
    for (_, unit), share in run.parts.items():
        if unit in ("linear", "embedding"):
            assert share.macs <= d.engine.macs * d.target.utilisation * share.busy * (1 + 1e-9)


def test_images_are_repeatable():
    d = deploy_fpga(load_model("edge-moe-cityscapes"), load_device("zcu102")[0])
    one, same, other = (run_image(d, routing="power_law:1", seed=s) for s in (3, 3, 4))
    assert one == same
    assert one.cycles != other.cycles
