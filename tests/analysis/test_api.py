"""Do the functions of a script or notebook answer as the commands do?"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import opbyte
from opbyte import InputError, inspect, load_model, load_system, roofline, simulate
from opbyte.analysis.answers.simulate import Simulation
from opbyte.analysis.show.output import to_json
from opbyte.extend import models

from .conftest import Ask

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def run() -> Simulation:
    return simulate("llama-3-8b", "h100-x1", rate=20.0, requests=50, keep_stages=True)


def test_all_public_names_are_there() -> None:
    for name in opbyte.__all__:
        assert getattr(opbyte, name) is not None
    assert dir(opbyte) == sorted(opbyte.__all__)
    assert {"Attention", "declared", "TYPE_CHECKING"} & {*dir(models)} == {"Attention"}


def test_functions_say_what_commands_say(ask: Ask, run: Simulation) -> None:
    line = "simulate llama-3-8b --system h100-x1 --rate 20 --requests 50 --json"
    shown, found = ask(*line.split()).json(), json.loads(to_json(run.to_dict()))
    made = shown.pop("made_by")
    assert made["command"] == f"opbyte {line.removesuffix(' --json')}"
    assert made["options"]["rate"] == 20
    assert shown == found
    assert "output tokens/s" in repr(run)
    shown = ask("roofline", "grok-1", "--system", "duplex-x8", "--batch", "9", "--json").json()
    found = roofline("grok-1", "duplex-x8", batch=9).to_dict()
    del shown["made_by"]
    assert shown == json.loads(to_json(found))
    shown = ask("inspect", "grok-1", "--json").json()
    del shown["made_by"]
    assert shown == json.loads(to_json(inspect("grok-1").to_dict()))


def test_specs_and_names_are_interchangeable() -> None:
    by_name = roofline("mixtral-8x7b", "duplex-x4", batch=5)
    by_spec = roofline(load_model("mixtral-8x7b"), load_system("duplex-x4"), batch=5)
    # An object does not carry the sources of its file's numbers, which the evidence names.
    assert by_name.to_dict() | {"evidence": None} == by_spec.to_dict() | {"evidence": None}


def test_frames_hold_numbers(run: Simulation) -> None:
    ops = roofline("mixtral-8x7b", "h100-x4").frame()
    assert {"name", "count", "flops", "bytes", "op_per_byte", "seconds", "joules"} <= set(ops)
    assert ops["seconds"].dtype == np.float64
    requests = run.requests()
    assert len(requests) == 50
    assert requests["output_tokens"].sum() == run.run.output_tokens
    assert len(run.stages()) > 0
    assert {"processor", "busy_s", "op_per_byte"} <= set(run.ops())
    figures = run.frame().set_index("metric")["value"]
    assert figures["ttft_s_p99"] == run.run.ttft_s.p99


def test_tables_of_a_notebook_escape_names() -> None:
    model = replace(load_model("llama-3-8b"), name=EVIL, source=EVIL)
    for result in (
        inspect(model),
        roofline(model, "h100-x1"),
        simulate(model, "h100-x1", rate=1.0, requests=2, input_len=5, output_len=2),
    ):
        text = result._repr_html_()
        assert text.startswith("<table>")
        assert "<script" not in text
    assert "&lt;script&gt;" in inspect(model)._repr_html_()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"batch": 1.5}, "batch"),
        ({"batch": True}, "batch"),
        ({"batch": "64"}, "batch"),
        ({"context": None}, "context"),
        ({"prefill": -1}, "prefill"),
        ({"placement": 3}, "placement"),
        ({"tp": 1.0}, "tp"),
    ],
)
def test_wrong_types_are_input_errors(options: dict[str, object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        roofline("llama-3-8b", "h100-x1", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"rate": "5"}, "rate"),
        ({"rate": 5, "requests": 2.0}, "requests"),
        ({"rate": 5, "warmup": True}, "warmup"),
        ({"rate": 5, "sede": 1}, "sede: unknown option; did you mean 'seed'"),
        ({"concurrency": 5}, "concurrency: unknown option; did you mean 'closed_loop'"),
        ({"rate": 5, "lengths": 3}, "lengths: must be text"),
        ({"rate": 5, "fail": "0@1"}, "fail: must be a list"),
        ({"rate": 5, "seed": None}, "seed"),
        ({"rate": 5, "seed": "1"}, "seed"),
        ({"rate": 5, "token_budget": 2.5}, "token_budget"),
    ],
)
def test_wrong_types_of_simulate_are_input_errors(options: dict[str, object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        simulate("llama-3-8b", "h100-x1", **options)  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    plain = roofline("llama-3-8b", "h100-x1", batch=8)
    assert roofline("llama-3-8b", "h100-x1", batch=np.int64(8)).to_dict() == plain.to_dict()
