"""Do ServeGen clients give the counts, gaps and lengths that their files state?"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import open_requests

from .test_requests_traces import gap_cv

TRACE = "0,1.0,1.0,Gamma,1.0,1.0\n600,0,0,,0,0\n1200,2.0,3.0,Weibull,0.4,0.2\n"
DATASET = {
    "0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{3: 1.0}"},
    "1200": {"input_tokens": "{}", "output_tokens": "{}"},
}

Client = Callable[..., Path]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Write the files of a client and return their common path."""

    def write(trace: str = TRACE, dataset: object = DATASET, name: str = "c") -> Path:
        (tmp_path / f"{name}-trace.csv").write_text(trace)
        text = dataset if isinstance(dataset, str) else json.dumps(dataset)
        (tmp_path / f"{name}-dataset.json").write_text(text)
        return tmp_path / name

    return write


def stated_rate(path: Path, seconds: float) -> float:
    """Requests that a trace file states for the windows before `seconds`."""
    with path.open() as file:
        return sum(600 * float(row[1]) for row in csv.reader(file) if float(row[0]) < seconds)


@pytest.mark.parametrize("model", ["reason.deepseek-r1", "language.m-small"])
def test_counts_follow_the_window_rates(data: Path, model: str) -> None:
    folder = data / "traces" / "servegen"
    stated = sum(stated_rate(path, 7200) for path in folder.glob(f"{model}*-trace.csv"))
    block = open_requests(folder / model, duration=7195.0).read()
    assert len(block) == pytest.approx(stated, rel=0.002)
    assert block.arrival_s[0] == 0
    assert (np.diff(block.arrival_s) >= 0).all()


def test_gaps_are_as_bursty_as_stated(data: Path) -> None:
    """First window of two clients: stated gap variation 5.3 (Weibull) and 1.03 (Gamma)."""
    folder = data / "traces" / "servegen"
    bursty = open_requests(folder / "language.m-small.chunk-14", duration=595.0).read()
    calm = open_requests(folder / "language.m-small.chunk-12", duration=595.0).read()

    # The fitted shape 0.405 gives a coefficient of 3.0; the stated one is the sample's.
    assert gap_cv(bursty) == pytest.approx(3.0, rel=0.2)
    assert gap_cv(calm) == pytest.approx(1.03, rel=0.05)


def test_lengths_follow_the_period_table(data: Path) -> None:
    prefix = data / "traces" / "servegen" / "reason.deepseek-r1.chunk-35"
    text = json.loads(Path(f"{prefix}-dataset.json").read_text())["0"]
    block = open_requests(prefix, duration=21_000.0).read()
    for tokens, name in ((block.input_tokens, "input"), (block.output_tokens, "output")):
        pairs = [item.split(":") for item in text[f"{name}_tokens"].strip("{}").split(",")]
        mean = sum(float(value) * float(weight) for value, weight in pairs)
        assert tokens.mean() == pytest.approx(mean, rel=0.02)


def test_a_folder_holds_all_clients(data: Path) -> None:
    folder = data / "traces" / "servegen"
    stated = sum(stated_rate(path, 1200) for path in folder.glob("*-trace.csv"))
    assert len(open_requests(folder, duration=1199.0).read()) == pytest.approx(stated, rel=0.005)


def test_small_client(client: Client) -> None:
    block = open_requests(client()).read()
    assert len(block) == 600 + 1200
    assert set(block.input_tokens) == {10, 20}
    assert set(block.output_tokens) == {3}
    first = block.arrival_s < 600
    assert first.sum() == 600
    assert (block.input_tokens == 20).mean() == pytest.approx(0.75, abs=0.05)


def test_seed_and_block_size(client: Client) -> None:
    path = client()
    one = open_requests(path, seed=1).read()
    again = open_requests(path, seed=1, block_size=100).read()
    other = open_requests(path, seed=2).read()
    assert one.arrival_s.tobytes() == again.arrival_s.tobytes()
    assert one.arrival_s.tobytes() != other.arrival_s.tobytes()


def test_rate_scale_multiplies_counts(client: Client) -> None:
    path = client()
    assert len(open_requests(path, rate_scale=3.0).read()) == 3 * 1800
    assert len(open_requests(path, rate_scale=0.1).read()) == 180
    with pytest.raises(InputError, match="requests in a window"):
        open_requests(path, rate_scale=1e9).read()


def test_clients_are_independent_and_merged(client: Client, tmp_path: Path) -> None:
    alone = open_requests(client(name="a")).read()
    client(TRACE.replace("0,1.0", "0,9.0", 1), {"0": dict.fromkeys(DATASET["0"], "{7: 1}")}, "b")
    both = open_requests(tmp_path).read()
    assert (np.diff(both.arrival_s) >= 0).all()
    ours = both.input_tokens != 7
    assert np.array_equal(both.input_tokens[ours], alone.input_tokens)
    shift = both.arrival_s[ours][0]
    assert both.arrival_s[ours] - shift == pytest.approx(alone.arrival_s, abs=1e-9)


def test_a_trace_file_names_its_client(client: Client) -> None:
    path = client()
    assert len(open_requests(path.with_name("c-trace.csv")).read()) == 1800


BAD_TRACES = {
    "0,1.0,1.0,Gamma,1.0\n": "row has 5 cells",
    "0,1.0,1.0,Pareto,1.0,1.0\n": "pattern 'Pareto'",
    "0,x,1.0,Gamma,1.0,1.0\n": "rate 'x' is not a number",
    "0,-1,1.0,Gamma,1.0,1.0\n": "rate '-1' must be",
    "0,1,1.0,Gamma,nan,1.0\n": "shape 'nan' must be",
    "0,1,1.0,Gamma,0,1.0\n": "shape '0' must be",
    "inf,1,1.0,Gamma,1,1.0\n": "window start 'inf' must be",
    "0,0,0,,0,0\n": "has no requests, and no other",
    "": "is empty",
}


@pytest.mark.parametrize("text", BAD_TRACES)
def test_bad_trace(client: Client, text: str) -> None:
    with pytest.raises(InputError, match=BAD_TRACES[text]):
        open_requests(client(text)).read()


def test_overlapping_windows(client: Client) -> None:
    with pytest.raises(InputError, match=r"c-trace\.csv:2: this time window starts before"):
        open_requests(client("0,1,1,Gamma,1,1\n300,1,1,Gamma,1,1\n")).read()


def table(text: str) -> dict[str, dict[str, str]]:
    return {"0": {"input_tokens": text, "output_tokens": "{1: 1}"}}


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ("{", r"c-dataset\.json:1: is not valid JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 100_000, "nested too deep"),
        ({"0": 5}, "0.input_tokens must be a text"),
        ({"x": DATASET["0"]}, "period start 'x' is not a number"),
        (table("{}"), "no length distribution"),
        (table("{a: 1}"), "not a table"),
        (table("{1}"), "not a table"),
        (table("{1: nan}"), "out of range"),
        (table("{1: -1}"), "out of range"),
        (table("{1.5: 1}"), "out of range"),
        (table("{1: 0}"), "out of range"),
        (table("{99999999999: 1}"), "out of range"),
    ],
)
def test_bad_dataset(client: Client, dataset: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_requests(client(dataset=dataset)).read()


def test_missing_dataset(client: Client) -> None:
    path = client()
    path.with_name("c-dataset.json").unlink()
    with pytest.raises(InputError, match=r"needs the file c-dataset\.json in the same folder"):
        open_requests(path)
