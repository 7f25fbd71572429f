"""Images one after another: do tasks switch for free, do queues form, does skew reach the cache?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device
from opbyte.simulator.fpga.deploy import FpgaDeployment, deploy_fpga
from opbyte.simulator.fpga.frames import run_image, serve_images
from opbyte.simulator.parts.expert_cache.cache import ExpertCache
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.vit_requests import arrivals, make_image_router, task_sequence


@pytest.fixture(scope="module")
def edge() -> FpgaDeployment:
    return deploy_fpga(load_model("edge-moe-cityscapes"), load_device("zcu102")[0])


@pytest.fixture(scope="module")
def cached(edge: FpgaDeployment) -> FpgaDeployment:
    """Edge-MoE's engine with room for four experts."""
    device = edge.device.model_copy(deep=True)
    processor = device.processors["fabric"]
    assert processor.engine is not None
    engine = processor.engine
    assert engine.cache is not None
    engine = engine.model_copy(update={"cache": engine.cache.model_copy(update={"experts": 4})})
    processor = processor.model_copy(update={"engine": engine})
    return deploy_fpga(edge.model, device.model_copy(update={"processors": {"fabric": processor}}))


@settings(max_examples=15)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.sampled_from(["uniform", "power_law:1"]))
def test_switching_tasks_is_free_when_reordered(tasks: list[int], routing: str) -> None:
    """Images in any order of tasks take exactly what each takes alone on an idle engine."""
    d = deploy_fpga(load_model("edge-moe-cityscapes"), load_device("zcu102")[0])
    together = serve_images(d, np.array(tasks), routing=routing)
    alone = [run_image(d, routing=routing, image=i, task=t).cycles for i, t in enumerate(tasks)]
    assert [run.cycles for run in together.runs] == alone
    assert together.cycles == sum(alone)


@pytest.mark.parametrize("routing", ["uniform", "power_law:1"])
def test_switching_tasks_costs_a_cache(cached: FpgaDeployment, routing: str) -> None:
    def cycles(order: str, forget: bool = True) -> int:
        tasks = task_sequence(order, 6, 2)
        return serve_images(cached, tasks, schedule="cache", routing=routing, forget=forget).cycles

    cost = cycles("round-robin") - cycles("round-robin", forget=False)
    load = 64 + 2 * 192 * 384 * 2 / 16
    # At most a cold cache in each of 6 layers after each of 5 switches; restoring, were there
    # something to restore, hides behind the attention.
    assert 0 < cost <= 5 * 6 * 4 * load
    assert cycles("single", forget=True) == cycles("single", forget=False)


def test_hit_rate_follows_the_skew(cached: FpgaDeployment) -> None:
    """More popular favourites, more hits, less time; uniform: below size / experts."""
    rates, cycles = [], []
    for routing in ("uniform", "power_law:0.5", "power_law:1", "power_law:1.5"):
        run = run_image(cached, schedule="cache", routing=routing, seed=2)
        rates.append(run.hits / (run.hits + run.misses))
        cycles.append(run.cycles)
    assert rates == sorted(rates)
    assert cycles == sorted(cycles, reverse=True)
    assert rates[-1] > rates[0] + 0.2
    # A token's second expert cannot hit the slot its first one took: between 3/15 and 4/16.
    assert 0.18 < rates[0] < 0.26


def test_reordered_is_never_slower_than_its_cache(cached: FpgaDeployment) -> None:
    for routing in ("uniform", "power_law:1.5"):
        reordered, cache = (run_image(cached, schedule=s, routing=routing).cycles for s in ("reordered", "cache"))
        assert reordered < cache


def test_lru_by_hand_and_its_inclusion() -> None:
    cache = ExpertCache(2)
    assert [cache.ask(e) for e in (0, 1, 0, 2, 1, 0, 0)] == [False, False, True, False, False, False, True]
    fifo = ExpertCache(2, "fifo")
    assert [fifo.ask(e) for e in (0, 1, 0, 2, 0)] == [False, False, True, False, False]
    lfu = ExpertCache(2, "lfu")
    assert [lfu.ask(e) for e in (0, 0, 1, 2, 0)] == [False, True, False, False, True]


def test_frame_rate_below_and_above_what_is_served(edge: FpgaDeployment) -> None:
    """D/D/1: no queue below the service rate; above it the n-th waits n times the shortfall."""
    tasks = task_sequence("single", 5, 2)
    service = serve_images(edge, tasks).runs
    seconds = np.array([run.cycles for run in service]) / 300e6
    slow = serve_images(edge, tasks, arrivals=arrivals(5, 10.0))
    assert slow.latency_s == pytest.approx(seconds)
    assert slow.makespan_s == pytest.approx(0.4 + seconds[-1])
    assert slow.joules == pytest.approx(14.54 * slow.makespan_s)
    fast = serve_images(edge, tasks, arrivals=arrivals(5, 100.0))
    assert fast.latency_s == pytest.approx(np.cumsum(seconds) - np.arange(5) / 100)


def test_closed_loop_keeps_images_in_flight(edge: FpgaDeployment) -> None:
    tasks = task_sequence("single", 6, 2)
    one, three = (serve_images(edge, tasks, in_flight=k) for k in (1, 3))
    assert one.makespan_s == pytest.approx(three.makespan_s)
    seconds = np.array([run.cycles for run in three.runs]) / 300e6
    assert one.latency_s == pytest.approx(seconds)
    # With three in flight an image waits for the two before it.
    assert three.latency_s[2:] == pytest.approx(seconds[2:] + seconds[1:-1] + seconds[:-2])


def test_sequences_are_distinct_experts_with_the_routing_s_popularity() -> None:
    router = make_image_router("power_law:1", tasks=2, layers=3, experts=8, top_k=2, seed=5)
    sequence = router.sequence(0, 1, 2, 20_000)
    assert all(len(set(row)) == 2 for row in sequence[:200].tolist())
    share = np.bincount(sequence[:, 0], minlength=8) / 20_000
    assert share == pytest.approx(router.prob[1, 2], abs=0.01)
    assert not np.array_equal(router.prob[0, 2], router.prob[1, 2])
    assert np.array_equal(sequence, router.sequence(0, 1, 2, 20_000))
    with pytest.raises(InputError, match="tokens: must be at least 1, not 0"):
        router.sequence(0, 0, 0, 0)


def test_bad_requests_are_one_line(edge: FpgaDeployment) -> None:
    with pytest.raises(InputError, match=r"--images: must be in \[1, 1,000,000\], not 0"):
        task_sequence("single", 0, 2)
    with pytest.raises(InputError, match=r"--tasks '0,2': task 2 is not in \[0, 1\]"):
        task_sequence("0,2", 3, 2)
    with pytest.raises(InputError, match=r"must be a task order.*did you mean 'random'"):
        task_sequence("randon", 3, 2)
    with pytest.raises(InputError, match="--rate: must be at least 1e-09"):
        arrivals(3, 0)
    with pytest.raises(InputError, match="unknown schedule; did you mean 'reordered'"):
        serve_images(edge, np.zeros(1, int), schedule="reorderd")
    with pytest.raises(InputError, match="--in-flight: must be at least 1"):
        serve_images(edge, np.zeros(1, int), in_flight=0)
    with pytest.raises(InputError, match=r"must be in \[0, 1\] for edge-moe"):
        serve_images(edge, np.array([0, 5]))
