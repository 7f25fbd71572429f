"""Do ExpertFlow and Read-ME come out, from simulations that know nothing of what they printed?

Given values stand in analysis/papers/values/, each file with its source.
"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.analysis.papers import expertflow, read_me
from opbyte.analysis.papers.expertflow import ALL, PRELOAD, ROUTING, deepseek, fits, qwen, resident_bytes, step, switch
from opbyte.analysis.papers.expertflow import expertflow as store
from opbyte.analysis.papers.read_me import StepTimes, model
from opbyte.devices.catalog import load_system
from opbyte.workloads.catalog import load_model


def test_models_have_the_sizes_of_expertflows_table_1() -> None:
    """Billions of weights and the share of experts, ExpertFlow, Table 1."""
    for found, billions, share, shared in (
        (switch(32, whole=True), 1.98, 0.9158, 0), (switch(64, whole=True), 3.79, 0.9561, 0),
        (switch(128, whole=True), 7.41, 0.9775, 0), (qwen(), 14.3, 0.8895, 0),
        (deepseek(), 16.4, 0.9414, 27 * 2 * 3 * 2048 * 1408),  # of the shared experts too
        (load_model("mixtral-8x7b"), 46.7, 0.9657, 0),
    ):  # fmt: skip
        experts = sum(w.total for layer in found.layers for part in layer.parts
                      for w in part.weights() if w.group == "experts")  # fmt: skip
        assert found.total_params / 1e9 == pytest.approx(billions, rel=0.005)
        assert (experts + shared) / found.total_params == pytest.approx(share, abs=0.02)


def test_expertflows_gain_falls_to_one_when_a_batch_touches_every_expert() -> None:
    gains = [expertflow.gain(32, batch, ROUTING, 0) for batch in (1, 8, 64, 512)]
    assert gains == sorted(gains, reverse=True)
    assert step(32, 512, store(16)).fetch.needed == pytest.approx(6 * 32, rel=0.01)
    assert gains[-1] == pytest.approx(1.0, abs=0.01)
    # However long it computes: with slots for all, only what the predictor does not name is waited for.
    ours, theirs = (step(32, 4096, s).seconds for s in (store(32), PRELOAD))
    assert 0.92 <= theirs / ours <= 1.0


def test_a_token_costs_what_crosses_the_link() -> None:
    """32 experts of 2 x 768 x 3072 weights of two bytes at 25 GB/s, 10 us each, in six layers."""
    one = 1e-5 + 2 * 768 * 3072 * 2 / 25e9
    whole, preloaded, ours = (step(32, 16, s) for s in (ALL, PRELOAD, store(16)))
    assert whole.fetch.bytes == whole.fetch.waited_s == 0.0
    assert preloaded.fetch.link_s == pytest.approx(6 * 32 * one, rel=1e-9)
    assert preloaded.seconds >= preloaded.fetch.link_s
    moved = ours.fetch.ahead + ours.fetch.misses
    assert ours.fetch.link_s == pytest.approx(moved * one, rel=1e-9)
    assert whole.seconds < ours.seconds <= whole.seconds + ours.fetch.link_s
    # A predictor that names no needless expert moves what the batch touches, each once.
    assert moved == pytest.approx(ours.fetch.needed, rel=1e-9)


def test_memory_is_what_is_not_an_expert_and_the_slots() -> None:
    found = load_model("mixtral-8x7b")
    expert = 3 * 4096 * 14336 * 2
    assert resident_bytes(found, 1) == pytest.approx(found.weight_bytes - 32 * 7 * expert)
    assert not fits(found)
    assert fits(qwen())


def test_read_mes_model_and_steps() -> None:
    found = model()
    assert found.active_params / 1e9 == pytest.approx(4.7, rel=0.01)
    times = StepTimes()
    few, many = times.seconds([16, 0, 0, 0, 0, 0]), times.seconds([3, 3, 3, 3, 2, 2])
    memory = load_system("a100-80gb-x1").device.memory
    one = 32 * 3 * 4096 * 5504 * 2 / memory.bandwidth_bytes_per_s
    assert many - few > 4 * one  # five experts more are read
    assert times.seconds([0, 16, 0, 0, 0, 0]) == few


def test_nothing_to_choose_nothing_to_gain() -> None:
    rows = read_me.batch_table((0,)).rows
    assert rows[0]["mean latency change"] == 0.0
    distinct = [row["experts, by_expert"] for row in rows]
    assert distinct == sorted(distinct, reverse=True)
    assert np.ptp([row["experts, fcfs"] for row in rows]) < 0.1
    # 16 tokens of six experts, drawn one by one: 6 (1 - (5/6)^16).
    assert rows[-1]["experts, fcfs"] == pytest.approx(6 * (1 - (5 / 6) ** 16), abs=0.06)
