"""Does an answer of two pools that come and go tell them apart, in its text, its JSON and its files?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opbyte import capacity, simulate
from opbyte.analysis.studies.sweep.point import metrics_of
from opbyte.devices.catalog import load_device

from .conftest import Ask

LINE = (
    "simulate", "llama-3-8b", "--prefill", "h100-x1", "--decode", "h100-x1", "--rate", "20", "--requests", "40",
    "--input-len", "64", "--output-len", "8", "--prefill-autoscale", "1:1,slo=0.5",
    "--decode-autoscale", "1:3,by=requests:2,start=0.2,every=0.2",
)  # fmt: skip


def price_per_hour(device: str) -> float:
    price = load_device(device)[0].price_USD_per_hour
    assert price is not None
    return price


def test_an_answer_tells_both_pools_apart(ask: Ask, tmp_path: Path) -> None:
    found = ask(*LINE, "--json", "--out", tmp_path / "out").json()
    entry = found["autoscale"]
    assert entry["prefill"]["slo_attained"] == 1.0
    assert (entry["decode"]["least"], entry["decode"]["most"]) == (1, 3)
    assert entry["decode"]["device_hours"] >= entry["prefill"]["device_hours"] > 0
    for own in entry.values():
        assert own["usd"] == pytest.approx(own["device_hours"] * price_per_hour("h100"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"prefill-replicas.csv", "decode-replicas.csv", "decode-replicas.png"} <= names
    assert "prefill-replicas.png" not in names
    text = ask(*LINE).out
    (line,) = (line for line in text.splitlines() if line.startswith("Autoscaling, prefill: "))
    assert "mean replicas 1.000, most at once 1, " in line
    assert "\nAutoscaling, decode: rule requests, " in text


@pytest.mark.parametrize(("rule", "least", "most"), [("requests:15", 140.0, 170.0), ("queue:10", 40.0, 50.0)])
def test_replicas_that_start_do_not_decide_a_capacity(rule: str, least: float, most: float) -> None:
    """It named 50 requests/s of begin=1 where begin=3 names 157.7; a rule that keeps one replica serves one's load."""
    work: dict[str, Any] = {"input_len": 512, "output_len": 64, "lengths": "lognormal", "router": "least-loaded"}
    scales = [f"1:3,by={rule},start=5,every=5,hold=10{begin}" for begin in ("", ",begin=3")]
    first, second = (
        capacity("llama-3-8b", "h100-x1", "tpot_p99=0.03", tolerance=0.05, workers=1, autoscale=text, **work).found[0]
        for text in scales
    )
    assert first.load_per_s == second.load_per_s
    assert least < (first.load_per_s or 0.0) < most
    brief = simulate("llama-3-8b", "h100-x1", autoscale=scales[0], rate=40.0, requests=600, **work)
    assert metrics_of(brief)["stationary"] is None
