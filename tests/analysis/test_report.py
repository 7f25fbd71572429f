"""Are reports whole, harmless and small?

Expected contents are those of the result's own tables. What a browser makes of them:
`test_report_browser`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.answers.demo import Comparison, compare_demo
from opbyte.analysis.answers.evidence import used_sources
from opbyte.analysis.answers.seeds import simulate_seeds
from opbyte.analysis.answers.simulate import Simulation, simulate
from opbyte.analysis.report import report, scripts
from opbyte.analysis.report.sections import constant_rows
from opbyte.analysis.report.simulation import ops_by_share
from opbyte.analysis.reproduce.base import Reproduction, judged
from opbyte.analysis.show.record import code_version
from opbyte.simulator.results.record import Requests
from opbyte.workloads.catalog import load_model

from .conftest import Ask

EVIL = "<script>document.title='owned'</script>"
WORK: dict[str, Any] = {"rate": 4.0, "requests": 60, "input_len": 256, "output_len": 32}


@pytest.fixture(scope="module")
def run() -> Simulation:
    return simulate("mixtral-8x7b", "duplex-x4", lengths="lognormal", keep_stages=True, **WORK)


@pytest.fixture(scope="module")
def page(run: Simulation) -> str:
    return report(run)


class Elements(HTMLParser):
    """Start tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def figures(html: str) -> int:
    """Figures of a page, each with its picture."""
    tags = [tag for tag, _ in Elements(html).tags]
    assert tags.count("figure") == tags.count("svg")
    return tags.count("figure")


def assert_self_contained(html: str) -> None:
    """No script but those the policy names, no handlers, nothing from elsewhere, every id once."""
    found = Elements(html)
    assert not [tag for tag, _ in found.tags if tag in ("link", "iframe", "object", "embed")]
    ids = [a["id"] for _, a in found.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#"), (tag, value)
    known = (scripts.library(), scripts.own())
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    bodies = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert len(bodies) == sum(tag == "script" for tag, _ in found.tags)
    run = [body for kind, body in bodies if "application/gzip" not in kind]
    assert set(run) <= set(known)
    for body in run:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for kind, body in bodies:
        if "application/gzip" in kind:
            assert not set("<>&") & set(body)
            json.loads(gzip.decompress(base64.b64decode(body)))
    own = html.replace(scripts.library(), "", 1)
    assert not re.search(r"url\((?!#)", own)


def test_a_simulation_says_everything(run: Simulation, page: str) -> None:
    assert_self_contained(page)
    text = Elements(page).text
    for word in (
        "mixtral-8x7b on duplex-x4",
        code_version(),
        "logic-pim",
        "Roofline",
        "seed",
        "input_len",
        "lognormal",
    ):
        assert word in text
    assert figures(page) == 4
    for row in constant_rows(run.run.deployment.system, used_sources(run.sources, run.run.deployment.model.numerics)):
        assert " ".join(row["source"].split()) in text
    for entry in run.evidence:
        assert entry["cost_model"] in text


def test_it_is_small_without_the_library(page: str) -> None:
    """Of a demo with two runs 283 kB; words of figures are words, and can be found."""
    assert len(page) - len(scripts.library()) < 190_000
    assert ">Share of clock time (%)</text>" in page


def test_constants_have_their_values_back(run: Simulation) -> None:
    """In the units of their keys, as the YAML has them."""
    rows = {row["constant"]: row for row in constant_rows(run.run.deployment.system, run.sources)}
    multiple = rows["processors.logic-pim.bandwidth_multiple"]
    assert multiple["value"] == "4.000"
    assert rows["link.bandwidth_GBps"]["value"] == "450.0"
    assert rows["link.latency_us"]["kind"] == "assumed"
    assert not [row for row in rows.values() if row["value"] is None]


def test_clock_shares_add_up_to_the_clock(run: Simulation) -> None:
    """An op on two processors counts once, though its totals have two rows."""
    table = ops_by_share([run.run])
    split = table[table["name"] == "experts"]
    assert len(split) == 2
    once = {(op.layer, op.name, op.kind): op.wall_s for op in run.run.ops}
    assert table["wall_s"].sum() == pytest.approx(sum(once.values()), rel=1e-12)


def test_equal_runs_give_equal_reports(run: Simulation, page: str) -> None:
    assert report(run) == page


def test_what_users_type_is_harmless(tmp_path: Path) -> None:
    trace = tmp_path / "<img src=x onerror=alert(1)>.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,8,2\n1,8,2\n")
    model = replace(load_model("llama-3-8b"), name=EVIL)
    evil = simulate(model, "h100-x1", trace=trace, keep_stages=True)
    html = report(evil)
    assert_self_contained(html)
    assert EVIL not in html
    assert EVIL in Elements(html).text
    assert "<img" not in html


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return compare_demo(requests=40)


def test_comparisons_and_seeds(compared: Comparison) -> None:
    html = report(compared)
    assert_self_contained(html)
    text = Elements(html).text
    assert " ".join(compared.verdict().split()) in text
    assert figures(html) == 5
    several = simulate_seeds("llama-3-8b", "h100-x1", seeds=2, **{**WORK, "requests": 10})
    assert "95 % interval" in Elements(report(several)).text


def test_any_result_has_a_report() -> None:
    rows = (judged("a<b", "speed-up", "1", 2.0, 2.5, "5 %"), judged("c", "x", "s", None, 1.0))
    html = report(Reproduction("paper", rows, 3, 1.5))
    assert_self_contained(html)
    assert "a&lt;b" in html
    assert '<td class="fail">fail</td>' in html
    assert '<td class="prediction">prediction</td>' in html


def test_a_million_requests_fit(run: Simulation) -> None:
    """Figures are drawn from bins and thinned curves, whatever the run's length."""
    n, few = 1_000_000, run.run.requests
    at = np.arange(n) % len(few.request_id)
    shift = np.arange(n) // len(few.request_id) * 20.0
    stamps = ("arrival_s", "scheduled_s", "first_token_s", "last_token_s")
    columns = {name: getattr(few, name)[at] for name in Requests.__slots__ if name != "count"}
    columns |= {name: columns[name] + shift for name in stamps}
    stages = {name: np.tile(column, 2000) for name, column in run.run.stages.items()}
    length = len(run.run.stages["start_s"])
    later = np.repeat(np.arange(2000) * 20.0, length)
    stages |= {name: stages[name] + later for name in ("start_s", "end_s")}
    big = replace(run, run=replace(run.run, requests=Requests(**columns), stages=stages))
    assert len(report(big).encode()) < 5e6 / 2


def test_commands_write_reports(ask: Ask, tmp_path: Path) -> None:
    ask("simulate", "llama-3-8b", "--system", "h100-x1", "--rate", 4, "--requests", 10,
        "--input-len", 64, "--output-len", 8, "--out", tmp_path / "run")  # fmt: skip
    ask("roofline", "llama-3-8b", "--system", "h100-x1", "--out", tmp_path / "roof")
    for name in ("run", "roof"):
        html = (tmp_path / name / "report.html").read_text()
        assert_self_contained(html)
        assert html.count(scripts.library()) == 1
        assert len(html) - len(scripts.library()) < 300_000


def test_reports_of_one_folder_share_the_library(ask: Ask, tmp_path: Path) -> None:
    ask("simulate", "llama-3-8b", "--system", "h100-x1", "--rate", 4, "--requests", 10, "--seeds", 2,
        "--input-len", 64, "--output-len", 8, "--out", tmp_path)  # fmt: skip
    shared = list(tmp_path.rglob("*.js"))
    assert shared == [tmp_path / scripts.SHARED]
    assert shared[0].read_text() == scripts.library()
    version = re.search(r" v([\d.]+)\n", scripts.library())
    assert version is not None
    assert version[1] in scripts.SHARED
    pages = list(tmp_path.rglob("report.html"))
    assert len(pages) == 3
    for page in pages:
        html = page.read_text()
        assert_self_contained(html)
        assert scripts.library() not in html
        assert len(html) < 300_000
        told = next(attributes for tag, attributes in Elements(html).tags if tag == "body")
        assert (page.parent / str(told["data-library"])).resolve() == shared[0].resolve()
