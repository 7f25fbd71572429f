"""Does ``opbyte train`` keep its contract: keys, files, one line for bad input, and physics?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opbyte import fastest_training, train

if TYPE_CHECKING:
    from conftest import Ask

LINE = ("train", "mixtral-8x7b", "--system", "h100-2x8", "--batch", "32", "--seq", "2048")


def test_the_answers_keys_and_files(ask: Ask, tmp_path: Path) -> None:
    found = ask(*LINE, "--tp", 2, "--pp", 2, "--json", "--out", tmp_path / "out").json()
    assert {"step_seconds", "tokens_per_s", "mfu", "memory_bytes", "exposed_seconds"} <= set(found)
    assert found["tokens_per_s"] == pytest.approx(32 * 2048 / found["step_seconds"])
    memory = found["memory_bytes"]
    assert memory.pop("total") == pytest.approx(sum(memory.values()))
    assert sum(found["seconds"].values()) == pytest.approx(found["step_seconds"])
    assert set(found["exposed_seconds"]) == set(found["seconds"]) - {"compute"}
    assert (found["tp"], found["pp"], found["dp"], found["ep"]) == (2, 2, 4, 8)
    assert 0 < found["mfu"] < found["hfu"] < 1
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"parts.csv", "training.png", "report.html", "training.json"} <= written


def test_the_evidence_says_what_is_predicted(ask: Ask) -> None:
    rows = ask(*LINE, "--json").json()["evidence"]
    by = {row["applies_to"]: row for row in rows}
    assert by["GEMM"]["basis"] == "fitted"
    assert by["MoE experts"]["basis"] == "fitted"
    assert by["backward passes"]["basis"] == "assumed"
    assert "decode attention" not in by
    shown = ask(*LINE).out
    assert "backward kernels are predicted from forward ones" in shown
    assert "Hidden:" in shown


def test_512_h100() -> None:
    """MFU of two models, printed in docs/training.md; bounds only: nothing is tuned to runs."""
    for model, options in (("llama-2-70b", {}), ("mixtral-8x7b", {"tp": 2, "pp": 4})):
        found = train(model, "h100-64x8", batch=1024, seq=4096, **options)
        assert found.devices == 512
        assert 0.25 < found.mfu < found.hfu < 0.65
        assert found.step.seconds > found.step.flops.hardware / found.peak_flops_per_s


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--zero", "4"), "--zero 4: must be 0, 1, 2 or 3"),
        (("--tp", "8", "--batch", "33"), "--batch 33: must be a multiple of 2"),
        (("--seq", "0"), "--seq: must be a whole number from 1"),
        (("--recompute", "half"), "--recompute: must be none, selective or full, not 'half'"),
        (("--all-to-all", "flatt"), "did you mean 'flat'?"),
        (("--tp", "5"), "--tp/--dp: tp 5 x dp 3 must be the 16 devices"),
        (("--system", "u280-x1"), "is an FPGA, whose designs run only forward passes"),
        (("--system", "flightllm-x1"), "is an FPGA, whose designs run only forward passes"),
        (("--system", "attacc-x8"), "training"),
        (("--dtype", "fp7"), "unknown number format"),
    ],
)
def test_bad_input_is_one_line(ask: Ask, options: tuple[str, ...], line: str) -> None:
    assert line in ask(*LINE, *options).refused()


def test_better_devices_and_formats_are_never_slower() -> None:
    base = train("llama-3-8b", "a100-80gb-x8", batch=16, seq=2048, tp=2)
    better = train("llama-3-8b", "h100-x8", batch=16, seq=2048, tp=2)
    eight = train("llama-3-8b", "h100-x8", batch=16, seq=2048, tp=2, dtype="fp8")
    full = train("llama-3-8b", "h100-x8", batch=16, seq=2048, tp=2, recompute="full")
    assert eight.step.seconds < better.step.seconds < base.step.seconds
    assert full.step.seconds > better.step.seconds
    assert full.step.memory.total < better.step.memory.total


@pytest.mark.parametrize(
    "cards",
    [2, pytest.param(4, marks=pytest.mark.xfail(strict=True, reason="a ring of four is as slow with either host"))],
)
def test_a_host_without_peer_copies_is_slower(cards: int) -> None:
    fast, slow = (
        train("llama-3-8b", f"a100-pcie-80gb-x{cards}", batch=16, seq=1024, tp=cards, host=host).step
        for host in ("pcie-peer", "pcie-host")
    )
    assert fast.by_stream["compute"] == pytest.approx(slow.by_stream["compute"])
    assert fast.by_stream["tensor parallel"] < slow.by_stream["tensor parallel"]


def test_images_train_at_their_own_length(ask: Ask) -> None:
    line = ("train", "deit-tiny", "--system", "h100-x1", "--batch", "64", "--micro-batch", "64")
    assert ask(*line, "--json").json()["seq"] == 197
    assert "must be the 197 tokens of an image" in ask(*line, "--seq", 64).refused()


def test_a_search_is_never_slower_than_what_it_may_choose(ask: Ask) -> None:
    """Every candidate fits and is of a way of its own; what is given stays."""
    found = fastest_training("llama-3-8b", "h100-x8", batch=16, seq=2048)
    for tp in (2, 4, 8):
        assert found.step.seconds <= train("llama-3-8b", "h100-x8", batch=16, seq=2048, tp=tp).step.seconds
    ways = [tuple(list(row.values())[:6]) for row in found.tried]
    assert len(set(ways)) == len(ways) == min(5, found.candidates)
    fixed = ask(*LINE, "--search", "--tp", 4, "--micro-batch", 2, "--json").json()
    assert (fixed["tp"], fixed["micro_batch"]) == (4, 2)
    assert {(row["tp"], row["micro_batch"]) for row in fixed["tried"]} == {(4, 2)}
    assert fixed["tried"][0]["step_seconds"] == fixed["step_seconds"]


def test_a_search_recomputes_where_nothing_else_fits() -> None:
    options = {"batch": 512, "seq": 8192, "pp": 8, "tp": 8}
    found = fastest_training("llama-3.1-405b", "h100-64x8", micro_batch=1, **options)
    assert found.options.recompute == "full"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--system", "h100-x1"), "training mixtral-8x7b does not fit"),
        (("--batch", "0"), "--batch: must be a whole number from 1"),
        (("--system", "h100-x8", "--tp", "3"), "must be the 8 devices"),
    ],
)
def test_a_search_without_a_candidate_says_why(ask: Ask, options: tuple[str, ...], line: str) -> None:
    assert line in ask(*LINE, *options, "--search").refused()
