"""Do predictions of published systems hold where results are given, and do they use none of them?

Given values stand in analysis/papers/values/, each file with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.answers.compare import compare
from opbyte.analysis.papers import (
    attacc,
    bam,
    cent,
    deepseekmoe,
    dsmoe,
    expertflow,
    flightllm,
    hg_pipe,
    mixlora,
    moa,
    mode,
    published,
    read_me,
    rmoe,
    scmoe,
    stratum,
    z_code,
)
from opbyte.analysis.papers.cent import Mapping as Blocks
from opbyte.analysis.papers.cent import decode_tokens_s, exchanges, token, vector
from opbyte.analysis.papers.kinds.gemv import BankGemv
from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import Reproduction, Row, figures_of
from opbyte.devices.catalog import load_device, load_system
from opbyte.simulator.deploy.layout import make_layout
from opbyte.workloads.catalog import load_model

EXPERIMENTS = {
    "attacc": attacc,
    "cent": cent,
    "stratum": stratum,
    "hg-pipe": hg_pipe,
    "flightllm": flightllm,
    "dsmoe": dsmoe,
    "z-code": z_code,
    "bam": bam,
    "moa": moa,
    "mixlora": mixlora,
    "rmoe": rmoe,
    "mode": mode,
    "scmoe": scmoe,
    "deepseekmoe": deepseekmoe,
}
"""Name -> module whose `predictions` simulates."""
OFFLOADED = {"expertflow": expertflow, "read-me": read_me}
"""The same of experts behind a link, which have figures of their own."""
FAILING = {"attacc.MT-530B.w1.2048-2048.b49.bank.step_ms", "moa.7b.8k.tokens_per_s.vllm"}
"""Given rows that are missed, each with its reason in docs/published-systems.md or its own note."""


@cache
def reproduced(name: str) -> Reproduction:
    """With figures, made once for all tests."""
    return reproduce(name, seeds=(0,), figures=True)


def rows(name: str) -> Mapping[str, Row]:
    found = {row.id: row for row in reproduced(name).table}
    assert len(found) == len(reproduced(name).table)
    return found


@pytest.mark.parametrize("name", [*EXPERIMENTS, *OFFLOADED])
def test_given_rows_hold_and_every_given_value_has_a_row(name: str) -> None:
    found = rows(name)
    assert set(published.published(name)["rows"]) <= set(found)
    failed = {row.id for row in found.values() if row.status == "fail"}
    assert failed == {id for id in FAILING if id in found}
    assert all(row.note for row in found.values() if row.status == "fail")
    assert {row.status for row in found.values()} <= {"pass", "fail", "prediction"}
    assert all(figure.axes for figure in figures_of(reproduced(name)).values())


@pytest.mark.parametrize("name", [*EXPERIMENTS, *OFFLOADED])
def test_what_is_simulated_does_not_depend_on_what_is_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither file nor folder of published values is there while predictions are made."""

    def missing(_: Any) -> Any:
        raise AssertionError("published values were read")

    known, experiment = rows(name), (EXPERIMENTS | OFFLOADED)[name]
    monkeypatch.setattr(published, "VALUES", Path("nowhere"))
    monkeypatch.setattr(published, "published", missing)
    monkeypatch.setattr(experiment, "published", missing, raising=False)
    found = {row.id: row.value for row in experiment.predictions()}
    assert len(found) > 2
    assert found == {id: known[id].simulated for id in found}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_figures_show_judged_rows_and_parts_of_a_step(name: str) -> None:
    result = reproduced(name)
    drawn = figures_of(result)
    judged = any(row.published and row.tolerance for row in result.table)
    assert set(drawn) == ({"given", "steps"} if judged else {"steps"})
    for figure in drawn.values():
        (axes,) = figure.axes
        assert axes.get_yticklabels()
    assert result.to_dict()["assumptions"]


def test_cents_three_fitted_numbers_come_from_rows_that_are_not_judged() -> None:
    """Least squares on the PIM time of blocks on 2, 4 and 8 devices gives the stored ones."""
    names = ("row_extra_s", "load_s", "step_extra_s")
    stored = load_device("cent")[0].processors["banks"].parameters
    given = published.published("cent")["parts"]

    def pim(values: Mapping[str, float], channels: int, context: int) -> float:
        u = BankGemv(**{**stored, **values})
        products = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
        own = sum(u.gemv_s(n, k, channels) for n, k in products)
        return own + u.attention_s(32, 32, context, 128, channels)

    none = dict.fromkeys(names, 0.0)
    left, right = [], []
    for devices in (2, 4, 8):
        for context in (128, 1024, 2048, 4096):
            plain = pim(none, 32 * devices, context)
            left.append([pim({**none, n: 1e-9}, 32 * devices, context) - plain for n in names])
            right.append(given[f"{8 // devices}x{devices}.l{context}"]["pim_us"] * 1e-6 - plain)
    fitted = np.linalg.lstsq(np.array(left) / 1e-9, np.array(right), rcond=None)[0]
    for name, value in zip(names, fitted, strict=True):
        assert stored[name] == pytest.approx(value, rel=1e-3)


def test_cents_exchanges_and_controllers_by_hand() -> None:
    """18 lanes of 4 GiB/s: 43 flits of 256 B take 0.1424 us after a hop of 0.18 us."""
    given = published.published("cent")["parts"]
    for stages, devices in ((32, 1), (8, 1), (4, 2), (2, 4)):
        blocks = Blocks("llama-2-7b", 8, stages)
        theirs = given[f"{stages}x{devices}.l2048"]
        assert exchanges(blocks, 4096, 11008) * 1e6 == pytest.approx(theirs["cxl_us"], rel=2e-3)
        ours = token(blocks, 2048)
        assert ours.accelerators * 1e6 == pytest.approx(theirs["accelerators_us"], rel=2e-3)
    assert vector(4096, 8) == pytest.approx(0.18e-6 + 43 * 256 / (18 * 4 * 2**30))


def test_cents_blocks_share_devices_or_take_them_whole() -> None:
    """32 / ceil(blocks / devices) channels a block; whole devices where stages are fewer."""
    found = [(Blocks(m, d, s).channels(32), Blocks(m, d, s).blocks_a_device) for m, d, s in (
        ("llama-2-7b", 8, 32), ("llama-2-7b", 8, 8), ("llama-2-7b", 8, 2), ("llama-2-13b", 20, 40),
        ("llama-2-13b", 20, 20), ("llama-2-70b", 32, 80), ("llama-2-70b", 32, 32),
    )]  # fmt: skip
    assert found == [(8, 4), (32, 1), (128, 1), (16, 2), (32, 1), (10, 3), (32, 1)]
    blocks = Blocks("llama-2-7b", 8, 32)
    slowest, fastest = token(blocks, 4096).seconds, token(blocks, 640).seconds
    assert 32 / slowest < decode_tokens_s(blocks) < 32 / fastest


def test_attaccs_parts_that_have_closed_forms() -> None:
    """All-reduce 2 x 7 x (6.06 us + 9 ps a byte), vector operations, products: GPT-175B's."""
    given = published.published("attacc")["parts"]
    for batch, lengths in ((54, (2048, 2048)), (1, (2048, 128)), (42, (128, 128))):
        case = attacc.Case("GPT-175B", 2, *lengths, batch)
        step, theirs = attacc.decode_step(case, "gpu"), given[f"{case.id}.gpu"]
        by_hand = 96 * 14 * (6.06e-6 + 9e-12 * batch * 12288 * 2 / 8)
        assert step.all_reduce == pytest.approx(by_hand)
        assert step.all_reduce * 1e3 == pytest.approx(theirs["all_reduce_ms"], rel=1e-3)
        assert step.vector * 1e3 == pytest.approx(theirs["vector_ms"], rel=1e-3)
        assert step.fc * 1e3 == pytest.approx(theirs["fc_ms"], rel=1e-3)
        joules, told = attacc.step_joules(case, "gpu"), theirs["energy_mJ"] / 1e3
        assert joules == pytest.approx(told, rel=0.03)
        assert attacc.step_joules(case, "bank") < joules
        near = attacc.decode_step(case, "bank")
        assert (near.fc, near.vector) == (step.fc, step.vector)
        assert attacc.overlapped(case, "bank") <= near.seconds


def test_stratums_gain_lies_between_even_use_and_the_fastest_tier() -> None:
    """Experts alike: the mean over 7.2 of 8 tiers; skew helps, and never beyond the fastest tier."""
    tiers = stratum.tiers()
    took = np.array(tiers.rcd_s) + tiers.common_s
    even = took[-1] * 7.2 / (took[:7].sum() + 0.2 * took[7])
    model = load_model("mixtral-8x7b")
    assert stratum.tiering(model, 6, "uniform", 0) == pytest.approx(even)
    skewed = [stratum.tiering(model, 6, f"power_law:{s}", 0) for s in (0.5, 1.0, 2.0)]
    assert even < skewed[0] < skewed[1] < skewed[2] < took[-1] / took[0]
    assert tiers.slowness[-1] == pytest.approx(34.34 / 19.01, rel=1e-3)


def test_hg_pipes_operators_by_hand() -> None:
    """98 pairs of tokens: 16 x 32 passes of 12 x 24 multipliers; 196 columns of scores, 3 passes."""
    found = hg_pipe.operators()
    assert found["MLP, first product"] == found["MLP, second product"] == 98 * 16 * 32
    assert max(found.values()) == found["softmax"] == 98 * 196 * 3


def test_flightllms_one_fitted_number_gives_the_row_that_is_not_judged() -> None:
    given = published.published("flightllm")["rows"]["flightllm.u280.kv128.ms"]
    assert flightllm.step(flightllm.BOARDS["u280"], 128)[0] * 1e3 == pytest.approx(given, rel=1e-4)


def test_flightllms_steps_are_streams_and_instructions() -> None:
    """3.43 GB and 262,144 B a cached token at 65.9 % of 460 GB/s; instructions whatever the context."""
    rate = 0.659 * 460e9
    short, long = (flightllm.step("flightllm-x1", n) for n in (128, 512))
    assert long[0] - short[0] == pytest.approx(384 * 262_144 / rate, rel=1e-6)
    assert short[1] == pytest.approx((3.43e9 + 128 * 262_144) / rate, rel=0.01)
    assert long[2] == short[2]
    other = flightllm.step("flightllm-vhk158-x1", 128)
    assert other[1] / short[1] == pytest.approx(460 / 819)
    assert 0.7 * short[2] < other[2] < 0.75 * short[2]  # three quarters, and a tile at twice the rate


def test_a_pipeline_of_devices_holds_a_share_of_the_batch_in_each_stage() -> None:
    """Eight devices, four layers each: eight tokens take as long as one, and joules add up."""
    one, many = (compare("llama-2-7b", ["cent-x8"], batch=n, context=512).table[0] for n in (1, 8))
    assert one.latency_s == pytest.approx(many.latency_s)
    assert many.items_per_s == pytest.approx(8 * (one.items_per_s or 0))
    assert many.joules == pytest.approx(8 * (one.joules or 0))
    whole = make_layout(load_model("llama-2-7b"), load_system("cent-x8"))
    assert (whole.pp, whole.tp) == (8, 1)
    assert make_layout(load_model("llama-2-13b"), load_system("cent-x20")).pp == 20
    assert make_layout(load_model("llama-2-7b"), load_system("cent-x8"), pp=2).pp == 2


def test_compared_products_and_attention_are_those_of_the_prediction() -> None:
    """CENT at context 512: fused products load a vector's chunks once, authors' once a matrix.

    12 of 35 loads of 276 ns and half a chunk of scores: 4 us of a block's 65.
    """
    (row,) = compare("llama-2-7b", ["cent-x8"], context=511).table
    ours = token(Blocks("llama-2-7b", 8, 8), 512)
    busy = {part.layer: part.seconds for part in row.layers}
    both = busy["attention"] + busy["ffn"] + busy["norm"]
    assert both == pytest.approx(32 * (ours.pim + ours.accelerators - 4e-6), rel=0.01)


def test_images_follow_each_other_through_a_pipeline() -> None:
    """Twelve attention blocks hold the first image up; each further one takes one interval."""
    times = [compare("deit-tiny", ["hg-pipe-x1"], images=n).table[0].latency_s for n in (1, 2, 64)]
    first, second, last = (t or 0.0 for t in times)
    interval = second - first
    assert first == pytest.approx(13 * interval)
    assert last == pytest.approx(76 * interval)
    assert interval == pytest.approx(197 * 197 * 3 / 2 / 425e6)  # the class token counts here
