"""Do answers say what each class was promised and got, as counted by hand from its requests?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from opbyte import simulate
from opbyte.analysis.answers.simulate import Simulation
from opbyte.analysis.studies.capacity import capacity
from opbyte.analysis.studies.loads import BACKLOG, judged, read_level
from opbyte.analysis.studies.plan.search import plan
from opbyte.analysis.studies.sweep.file import read_sweep
from opbyte.workloads.errors import InputError

CLASSES = "chat:share=0.7,ttft_p90=0.06,tpot=0.02;batch:share=0.3,priority=1,max_waiting=3,e2e=2"


@cache
def run(policy: str, classes: str = CLASSES, **options: float) -> Simulation:
    return simulate(
        "llama-3-8b", "h100-x1", policy=policy, rate=60.0, requests=300, input_len=512, output_len=64,
        lengths="lognormal", max_seqs=32, classes=classes, **options,
    )  # fmt: skip


def test_shares_and_goodput_are_counted() -> None:
    found = run("vllm+priority")
    table, r = found.requests(), found.run
    ttft = table.first_token_s - table.arrival_s
    tpot = (table.last_token_s - table.first_token_s) / np.maximum(table.output_tokens - 1, 1)
    chat = table["class"] == "chat"
    good = np.where(chat, (ttft <= 0.06) & (tpot <= 0.02), table.last_token_s - table.arrival_s <= 2)
    kinds = {c.name: c for c in r.parts["classes"].kinds}
    assert kinds["batch"].refused > 0
    assert kinds["chat"].refused == 0
    assert sum(c.sent for c in r.parts["classes"].kinds) == 300 == len(table) + kinds["batch"].refused
    assert 0 < good[chat].mean() < 1
    assert kinds["chat"].attained == pytest.approx(good[chat].mean())
    lost = kinds["batch"].refused
    assert kinds["batch"].attained == pytest.approx(good[~chat].sum() / ((~chat).sum() + lost))
    assert r.parts["classes"].attained == pytest.approx(good.sum() / 300)
    kept = kinds["chat"].kept[0]
    assert kept.share == pytest.approx((ttft[chat] <= 0.06).mean())
    assert kept.met is (kept.share >= 0.9)
    within = (table.last_token_s >= r.window.start_s) & (table.last_token_s <= r.window.end_s)
    rate = (good & within).sum() / r.window.length_s
    assert r.parts["classes"].goodput_per_s == pytest.approx(rate)
    parts = [c.goodput_per_s for c in r.parts["classes"].kinds]
    assert sum(x for x in parts if x is not None) == pytest.approx(rate)
    told = found.to_dict()
    assert told["goodput_per_s"] == r.parts["classes"].goodput_per_s
    assert [row["class"] for row in told["classes"]] == ["chat", "batch"]


def test_a_requests_table_plays_again(tmp_path: Path) -> None:
    """What a run wrote of its requests are its classes, priorities and tenants when it is read."""
    first = run("vllm+vtc", "a:share=0.6;b:share=0.4,priority=4,tenants=2")
    path = tmp_path / "requests.csv"
    first.requests().to_csv(path, index=False)
    again = simulate("llama-3-8b", "h100-x1", policy="vllm+vtc", trace=str(path), max_seqs=32)
    one, other = first.run.parts["classes"], again.run.parts["classes"]
    assert one is not None
    assert other is not None
    sent = [dict(zip(c.tenants.names, c.tenants.sent.tolist(), strict=True)) for c in (one, other)]
    assert sent[0] == sent[1]
    assert first.requests()["last_token_s"].tolist() == again.requests()["last_token_s"].tolist()


def test_the_engine_and_the_router_turn_the_same_away() -> None:
    """A failure long after the end lets the router judge, one request at a time; without asynchronous
    scheduling, which plans a step ahead of what a router sees, nothing else changes."""
    bounds = "a:share=0.5,max_waiting=2;b:share=0.5,max_wait=0.05"
    whole, judged = run("chunked", bounds), run("chunked", bounds, mtbf=1e9)
    assert 0 < len(whole.run.parts["classes"].refused_id) < 300
    assert np.array_equal(whole.run.parts["classes"].refused_id, judged.run.parts["classes"].refused_id)
    assert whole.requests().equals(judged.requests())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"policy": "sglang+vtc"}, "has one queue"),
        ({"policy": "sglang+priority"}, "has one queue for all classes: remove max_waiting"),
        ({"policy": "vllm+shortest-prompt"}, "has one queue for all classes: remove max_waiting"),
        ({"closed_loop": 4, "rate": None}, "max_waiting and max_wait need open-loop arrivals"),
        ({"turns": 2.0}, "max_waiting and max_wait need open-loop arrivals"),
        ({"classes": "a:max_waiting=0"}, "rejects every request"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], part: str) -> None:
    base = {"rate": 9.0, "requests": 9, "input_len": 50, "output_len": 5, "classes": "a:max_waiting=1"}
    with pytest.raises(InputError, match=part):
        simulate("llama-3-8b", "h100-x1", **{**base, **options})  # type: ignore[arg-type]


def test_goodput_needs_promises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class 'b' has no latency"):
        judged(run("vllm+vtc", "a:share=0.6,ttft=1;b:share=0.4").run, 1.0, {"attainment": 0.9})
    with pytest.raises(InputError, match="needs --classes"):
        judged(replace(run("vllm+priority").run, parts={}), 1.0, {"attainment": 0.9})
    with pytest.raises(InputError, match="--slo attainment"):
        read_level("attainment=90")
    with pytest.raises(InputError, match="is not supported by plan"):
        plan("llama-3-8b", "h100-x1", "attainment=0.9", load="3")
    study = "base: {{model: llama-3-8b, system: h100-x1, classes: '{}'}}\naxes: {{rate: [1, 2]}}\n"
    path = tmp_path / "s.yaml"
    path.write_text(study.format("a:priority=1") + "objectives: {goodput_per_s: max}\n")
    with pytest.raises(InputError, match="class 'a' has no latency"):
        read_sweep(path)
    path.write_text(study.format("a:ttft=1") + "constraints: ['attainment > 0.9']\n")
    assert read_sweep(path).size == 2


def test_capacity_by_attainment() -> None:
    """The load found keeps the share; the next one does not, or is not sustained; bounds of classes do not hide it."""
    found = capacity(
        "llama-3-8b", "h100-x1", "attainment=0.9", policy="vllm+priority", requests=200, input_len=512,
        output_len=64, tolerance=0.3, workers=1, max_seqs=32,
        classes="a:share=0.5,ttft=0.1;b:share=0.5,priority=1,max_waiting=2,ttft=1",
    ).found[0]  # fmt: skip
    tried = {t.load_per_s: t for t in found.tried}
    assert found.load_per_s is not None
    assert found.next_load_per_s is not None
    assert (tried[found.load_per_s].figures["attainment"] or 0.0) >= 0.9
    missed = tried[found.next_load_per_s]
    assert BACKLOG in missed.missed or (missed.figures["attainment"] or 0.0) < 0.9
