"""Does ``opbyte placement`` keep its contract, and do other answers agree with it?"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from opbyte import placement, roofline, simulate

from .conftest import Ask

LINE = ("placement", "deepseek-v2-lite", "--system", "h100-x8", "--tp", "1", "--batch", "64",
        "--routing", "power_law:0.8")  # fmt: skip


def test_the_answers_keys_and_files(ask: Ask, tmp_path: Path) -> None:
    found = ask(*LINE, "--period", 100, "--json", "--out", tmp_path / "out").json()
    rows = {(row["placement"], row["redundant_experts"]): row for row in found["placements"]}
    before, best = rows["in order", 0], rows["balanced, 8 copies", 8]
    assert before["moved_bytes"] == before["copies_bytes"] == 0.0
    assert 1.0 <= best["max_over_mean"] <= best["max_over_mean_of_a_step"] < 1.2
    assert best["max_over_mean"] < before["max_over_mean"]
    assert best["weights_bytes"] - before["weights_bytes"] == pytest.approx(best["copies_bytes"])
    assert found["chosen"] in {name for name, _ in rows}
    for row in rows.values():
        shared = row["step_s"] + row["moving_s"] / 100
        assert row["step_with_moving_s"] == pytest.approx(shared)
        after = row["pays_after_steps"]
        assert (after is None) == (row["step_s"] >= before["step_s"])
        if after:
            assert after * (before["step_s"] - row["step_s"]) >= row["moving_s"]
    layers = {row["layer"] for row in found["layers"]}
    for layer in layers:
        own = [row for row in found["layers"] if row["layer"] == layer]
        assert sum(row["before"] for row in own) == pytest.approx(8)
        assert sum(row["after"] for row in own) == pytest.approx(8)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"map.csv", "loads.csv", "placement.png", "report.html", "placement.json"} <= written
    again = ask("roofline", *LINE[1:], "--expert-placement", f"file:{tmp_path / 'out' / 'map.csv'}", "--json").json()
    chosen = next(row for row in found["placements"] if row["placement"] == found["chosen"])
    assert again["step_seconds"] == pytest.approx(chosen["step_s"], rel=1e-9)
    assert [*again["made_by"]["files"]] == [str(tmp_path / "out" / "map.csv")]
    with open(tmp_path / "out" / "map.csv", encoding="utf-8") as file:
        assert {int(row["expert"]) for row in csv.DictReader(file)} == set(range(64))


def test_roofline_says_the_same_step() -> None:
    """Two answers about one step agree, and so does one without any placement."""
    own = {"tp": 1, "batch": 64, "routing": "power_law:0.8"}
    found = placement("deepseek-v2-lite", "h100-x8", expert_placement="sorted", **own)
    step = roofline("deepseek-v2-lite", "h100-x8", expert_placement="sorted", **own)
    assert step.step_seconds == found.found[0].step_s
    assert roofline("deepseek-v2-lite", "h100-x8", **own).step_seconds == found.before.step_s
    assert step.to_dict()["expert_placement"]["max_over_mean"] == found.found[0].long_run


def test_simulate_takes_a_placement() -> None:
    load = {"closed_loop": 64, "requests": 128, "input_len": 512, "output_len": 32}
    own = {"tp": 1, "routing": "power_law:1.0"}
    plain = simulate("deepseek-v2-lite", "h100-x8", **load, **own).to_dict()
    even = simulate("deepseek-v2-lite", "h100-x8", **load, **own, expert_placement="even").to_dict()
    better = simulate("deepseek-v2-lite", "h100-x8", **load, **own, redundant_experts=8).to_dict()
    name = "output_tokens_per_s"
    assert even[name] == plain[name]
    assert better["expert_placement"]["policy"] == "balanced"
    assert better[name] > plain[name]
