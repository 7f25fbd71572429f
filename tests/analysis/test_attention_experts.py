"""Do MoA, MoH and BAM come out of layers, memories and devices, and do their parts have closed forms?

Given values stand in analysis/papers/values/, each file with its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.papers import bam, moa, moh, published
from opbyte.analysis.papers.bam import token_flops, with_top_k
from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import figures_of
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model

from .conftest import Ask


def test_mohs_predictions_hold_and_read_nothing_published(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict(published.published("moh")["rows"])

    def missing(_: Any) -> Any:
        raise AssertionError("published values were read")

    monkeypatch.setattr(published, "VALUES", Path("nowhere"))
    monkeypatch.setattr(published, "published", missing)
    found = {row.id: row for row in moh.predictions()}
    assert set(given) <= set(found)
    for id, told in given.items():
        assert found[id].value < told
    # 29 of 32 heads, 24, 16: shares of equal heads, whatever the tokens.
    for tokens in (256, 512):
        shares = [found[f"moh.{tokens}.h{p}.time_share"].value for p in (90, 75, 50)]
        assert shares == [29 / 32, 24 / 32, 16 / 32]
    assert found["moh.llama3.kv_read_share"].value == 1


def test_moh_reads_all_keys_so_decoding_gains_nothing() -> None:
    result = reproduce("moh", seeds=(0,), figures=True)
    assert [row.status for row in result.table] == ["pass"] * 3 + ["prediction"] * 4
    assert set(figures_of(result)) == {"steps"}
    ours, plain = (moh.step_parts(r, Batch.of([8191] * 32), "roofline") for r in (True, False))
    assert ours["scores"] == pytest.approx(plain["scores"], rel=1e-3)
    assert ours["projections"] > plain["projections"]
    prompt = Batch.of([], [(8192, 0)])
    ours, plain = (moh.step_parts(r, prompt, "roofline") for r in (True, False))
    assert ours["scores"] == pytest.approx(0.75 * plain["scores"], rel=0.01)


def test_bams_flops_by_the_papers_formulas() -> None:
    """E (6 d^2 + 2 n d + 2 d^2), 3 k d f and 2 E d a router; a causal mask sees (n + 1) / 2 keys."""
    d, f, n = 1024, 4096, 256
    attention = 8 * d * d + 2 * (n + 1) * d
    for model, experts, routers in (("btx-small", 1, 1), ("bam-small", 4, 2)):
        found = token_flops(load_model(model))
        assert found["attention"] == pytest.approx(experts * attention, rel=1e-12)
        assert found["feed-forward"] == pytest.approx(3 * d * f, rel=1e-12)
        assert found["routers"] == pytest.approx(routers * 2 * 4 * d, rel=1e-12)
    three = token_flops(with_top_k(load_model("btx-small"), 3))
    assert three["feed-forward"] == pytest.approx(9 * d * f, rel=1e-12)
    # Given: 587 M active in BTX, tables counted twice; BAM has three more attention blocks.
    btx, own = load_model("btx-small"), load_model("bam-small")
    table = 256_000 * d
    assert (btx.active_params + table) / 1e6 == pytest.approx(587, abs=0.5)
    more = own.active_params - btx.active_params
    assert more == 6 * (3 * 4 * d * d + 4 * d)


def test_bams_statement_on_the_printed_times() -> None:
    found = list(bam.predictions())
    row = bam.below_flops(found)
    assert (row.published, row.simulated, row.status) == (1.0, 1.0, "pass")
    assert "1.28 printed; FLOPs 2.24" in row.note


@pytest.mark.parametrize("length", [4096, 8192, 16384])
def test_moas_batches_by_hand(length: int) -> None:
    """84 GB less weights; 524,288 bytes a token of all keys, 3 x 11,008 values a token of a prompt."""
    left = 84e9 - load_model("vicuna-7b-moa").weight_bytes
    whole = 524_288 * length
    assert moa.batch_that_fits("7b", "vllm", length) == int(left / whole)
    density = sum(moa.densities("7b", length)) / 32
    room = 3 * 11_008 * 2 * length
    assert moa.batch_that_fits("7b", "moa", length) == int(left / (density * whole + room))
    read = moa.kv_read_bytes("7b", "moa", length)
    assert read == pytest.approx(density * whole)
    assert moa.kv_read_bytes("7b", "streaming", length) == pytest.approx(0.5 * whole)


def test_moas_gain_lies_within_what_bytes_allow() -> None:
    """No more than fewer bytes a token give: weights over a larger batch, and half of the keys."""
    for size in ("7b", "13b"):
        for length in moa.LENGTHS.values():
            fits = {kind: moa.batch_that_fits(size, kind, length) for kind in ("vllm", "moa")}
            weights = load_model(moa.MODELS[size]).weight_bytes
            a_token = {kind: weights / fits[kind] + moa.kv_read_bytes(size, kind, length) for kind in fits}
            rates = {kind: moa.tokens_per_s(size, kind, length, fits[kind]) for kind in fits}
            assert 1 < rates["moa"] / rates["vllm"] < 1.05 * a_token["vllm"] / a_token["moa"]


def test_quick_is_one_seed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def noted(*args: Any, seeds: Sequence[int], **more: Any) -> Any:
        seen.append(list(seeds))
        return reproduce(*args, seeds=seeds, **more)

    monkeypatch.setattr("opbyte.analysis.reproduce.reproduce", noted)
    assert ask("reproduce", "bam", "--quick").code == ask("reproduce", "bam").code
    assert seen == [[0], [0, 1, 2, 3, 4]]
