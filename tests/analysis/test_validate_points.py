"""Does ``opbyte validate runs`` simulate the deployments that a table of serving points describes?"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from opbyte.analysis.validate.points import predict as predicting
from opbyte.analysis.validate.points.engines import NAMES, settings, with_experts
from opbyte.analysis.validate.points.predict import FIRST_USE_S, MEAN, REQUESTS, Prediction, deployed, predict, requests
from opbyte.analysis.validate.points.table import WorkerGroup, read_points
from opbyte.analysis.validate.runs.basis import check_of
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.kernel_sets import shared_parameters
from opbyte.devices.calibrated.model import CalibratedModel
from opbyte.devices.catalog import load_device
from opbyte.simulator.frameworks.engines import exchange_of
from opbyte.simulator.frameworks.kernels import formats
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

from ..tables import tables
from .conftest import Ask

TABLES = tables(__file__)

ROW: dict[str, Any] = TABLES["row"]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """A table with one line for every given change of `ROW`."""

    def write(*changes: dict[str, Any]) -> Path:
        path = tmp_path / "points.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROW))
            writer.writeheader()
            writer.writerows(ROW | change for change in changes)
        return path

    return write


def test_layouts_come_from_columns_and_notes(table: Callable[..., Path]) -> None:
    split = "a; prefill 2x(tp1 dp4 ep4) decode 1x(tp8 dp1 ep8); b"
    points, skipped = read_points(
        table(
            {"gpus": 8, "tp": 2, "attention_dp": 4, "ep": 8},
            {"mode": "disagg", "gpus": 16, "tp": 8, "ep": 8, "notes": split},
            {"mode": "disagg", "gpus": 24, "tp": 8, "ep": 8, "notes": split},
            {"mode": "disagg", "gpus": 16},
            {"device": "Z9000"},
            {"mode": "disagg", "gpus": 16, "tp": 8, "pp": 2, "notes": split},
            {"gpus": 4},
            {"notes": "TTFT suspect: far above prefill time"},
            {"pp": 2, "gpus": 2},
        )
    )
    assert [p.line for p in points] == [2, 3, 9, 10]
    assert points[0].workers == WorkerGroup(1, 2, 4, 8)
    assert (points[1].prefill, points[1].workers) == (WorkerGroup(2, 1, 4, 4), WorkerGroup(1, 8, 1, 8))
    assert points[1].gpus == 16
    assert points[3].workers == WorkerGroup(1, 1, 1, 1, pp=2)
    assert [p.suspect for p in points] == [False, False, True, False]
    assert [s.line for s in skipped] == [4, 5, 6, 7, 8]
    reasons = ["24", "notes", "Z9000", "pipeline", "4 GPUs"]
    assert all(word in s.reason for word, s in zip(reasons, skipped, strict=True))


def test_formats_by_checkpoint() -> None:
    deepseek, llama = load_model("deepseek-v3"), load_model("llama-3-8b")
    assert formats(deepseek, "nvfp4", "fp8").weights == (("ffn", "nvfp4"), ("experts", "nvfp4"))
    assert formats(llama, "nvfp4", "fp8").weight_format("attention") == "nvfp4"
    assert formats(llama, "fp8", "fp8").weight_format("ffn") == "fp8"
    assert formats(deepseek, "fp8", "fp8").weight_format("experts") == "fp8_block"
    gpt_oss = load_model("gpt-oss-20b")
    assert formats(gpt_oss, "mxfp4", "bf16").weights == (("experts", "mxfp4"),)
    mixed = formats(gpt_oss, "mxfp4", "bf16", mixed=True)
    assert mixed.compute("experts") == "fp8"
    assert mixed.weight_bytes("experts") == 4.25 / 8
    assert [formats(llama, w, "unknown").kv for w in ("nvfp4", "fp8")] == ["fp8", "bf16"]
    for model, name in ((deepseek, "nvfp4"), (llama, "fp8"), (llama, "bf16")):
        numerics = formats(model, name, "fp8")
        assert numerics.weight_format("head") == "bf16"
        assert numerics.kv == "fp8"
    with pytest.raises(InputError, match="weight_dtype"):
        formats(llama, "fp5", "fp8")


def test_prefill_workers_have_chunks_of_their_own_layout(
    table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang splits a chunk among the ranks of data-parallel attention; that of a tp 4 worker is whole."""
    split = {"mode": "disagg", "gpus": 8, "notes": "prefill 1x(tp4 dp1 ep1) decode 1x(tp1 dp4 ep4)"}
    ranks = {"framework": "SGLang", "model": "mixtral-8x7b", "tp": 1, "attention_dp": 4, "ep": 4}
    path = table(split | ranks)
    serve = MagicMock(wraps=predicting.serve)
    monkeypatch.setattr(predicting, "serve", serve)
    predict(read_points(path)[0][0], path.parent)
    run = serve.call_args.args[0]
    assert run.policy.token_budget == 4 * run.pools.policy.token_budget


def test_engine_settings_by_framework_and_script(table: Callable[..., Path]) -> None:
    """Rules that let prompts wait are those of the engine, switched on by the launch script."""
    script = {"source": "InferenceX", "isl": 1024, "osl": 1024, "batch_or_concurrency": 64}
    trt = {"framework": "TensorRT-LLM", "framework_version": "1.1.0rc2.post2"}
    experts = {"model": "mixtral-8x7b", "weight_dtype": "fp8", "gpus": 4, "tp": 4}
    b200 = {"device": "B200-SXM-180GB"}
    ranks = {"tp": 1, "attention_dp": 4, "ep": 4}
    split = {"mode": "disagg", "gpus": 8, "notes": "prefill 1x(tp4 dp1 ep1) decode 1x(tp4 dp1 ep1)"}
    rows = [
        trt | script, trt | script | {"osl": 512}, trt, trt | script | experts,
        trt | script | experts | b200 | {"framework_version": "1.2.0"},
        trt | script | experts | ranks, trt | experts | ranks,
        script | experts | b200 | {"framework": "SGLang", "gpus": 8, "tp": 8}, script | {"framework": "SGLang"},
        script | experts | split | {"framework": "SGLang"}, trt | script | experts | split | {"framework_version": "0.8.1"},
        script, script | b200, b200, script | b200 | experts,
    ]  # fmt: skip
    points, skipped = read_points(table(*rows))
    assert not skipped
    found = []
    for p in points:
        w = p.workers
        own = deployed(Path("."), p.device, p.model, p.weight_dtype, p.kv_dtype, (w.tp, w.dp, w.ep))
        found.append(settings(p, own).policy)
    rules = [(p.gather_steps, p.gather_tokens, p.even_steps, p.poll_steps) for p in found]
    assert rules == [
        (20, 14_745, 0, 1), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 1), (40, 6553, 0, 1),
        (0, 0, 60, 1), (0, 0, 0, 1), (0, 0, 0, 30), (0, 0, 0, 1), (0, 0, 0, 1),
        *[(0, 0, 0, 1)] * 5,
    ]  # fmt: skip
    assert [p.token_budget for p in found] == [
        16_384, 16_384, 8192, 1152, 8192, 1152, 8192, 32_768, 32_768, 8192, *[8192] * 5
    ]  # fmt: skip
    assert [p.prompts_alone for p in found] == [False] * 7 + [True] * 3 + [False] * 5
    # A split run's version is its container's: Dynamo 0.8.1 is no TensorRT-LLM 0.8, whose host adds 1.2 ms a step.
    assert points[10].version == ()
    assert found[10].host == found[0].host
    # Dense models for Blackwell under vLLM: graphs for decodes only, of one flattened model.
    assert [p.pieces > 0 for p in found[12:]] == [False, True, True]


def test_scripts_of_vllm_schedule_ahead(table: Callable[..., Path]) -> None:
    """Before 0.14 only where they are told to."""
    script = {"source": "InferenceX", "framework_version": "0.10.2"}
    points, _ = read_points(table(script, {"framework_version": "0.10.2"}, {}))
    own = deployed(Path("."), points[0].device, points[0].model, "bf16", "bf16", (1, 1, 1))
    assert [settings(p, own).policy.ahead for p in points] == [True, False, True]


def test_what_other_sources_launched_is_not_guessed(table: Callable[..., Path]) -> None:
    first = {"framework": "TensorRT-LLM", "framework_version": "1.0.0rc3"}
    (point,), _ = read_points(table(first | {"batch_or_concurrency": 9}))
    own = deployed(Path("."), point.device, point.model, "bf16", "bf16", (1, 1, 1))
    assert settings(point, own).policy.max_sequences > 9


@pytest.mark.parametrize(
    ("device", "framework", "dtype", "ranks", "kernels"), TABLES["whose expert kernels a run calls"]
)
def test_whose_expert_kernels_a_run_calls(
    table: Callable[..., Path], device: str, framework: str, dtype: str, ranks: int, kernels: str
) -> None:
    change = {"device": device, "framework": framework, "weight_dtype": dtype, "gpus": 4,
              "model": "mixtral-8x7b", "tp": 4 // ranks, "attention_dp": ranks, "ep": ranks}  # fmt: skip
    path = table(change)
    (point,), _ = read_points(path)
    side = deployed(path.parent, point.device, point.model, dtype, "bf16", (4 // ranks, ranks, ranks))
    found = with_experts(point, side)
    if not kernels:
        assert found is side
        return
    family = families()["moe"]
    (processor,) = found.device.processors.values()
    assert isinstance(processor.model, CalibratedModel)
    expected = shared_parameters(found.system.device, family).under[NAMES[kernels]].fit.values
    assert processor.model.models["experts"].known.fit.values.tolist() == expected.tolist()


@pytest.mark.parametrize(("device", "framework", "ranks", "expected"), TABLES["how ranks share experts"])
def test_how_ranks_share_experts(
    table: Callable[..., Path], device: str, framework: str, ranks: int, expected: str
) -> None:
    change = {"device": device, "framework": framework, "gpus": ranks, "attention_dp": ranks, "ep": ranks}
    (point,), _ = read_points(table(change))
    w = point.workers
    assert exchange_of(NAMES.get(framework, ""), load_device(point.device)[0], w.dp, w.ep) == expected


def test_one_client_waits_for_its_own_steps_only(table: Callable[..., Path]) -> None:
    (point,), _ = read_points(table({"batch_or_concurrency": 1}))
    got = predict(point, Path("."))
    from opbyte.simulator.step.explicit import explicit_stage
    from opbyte.workloads.batch import Batch

    d = deployed(Path("."), "h100", "llama-3-8b", "bf16", "bf16", (1, 1, 1))
    lengths = requests(point, 0).read()
    inputs, outputs = lengths.input_tokens.tolist(), lengths.output_tokens.tolist()
    step = cache(lambda context: explicit_stage(d, [Batch.of([context])]).seconds)
    tpot = [np.mean([step(i + k) for k in range(o - 1)]) for i, o in zip(inputs, outputs, strict=True)]
    prompt = np.mean([explicit_stage(d, [Batch.of([], [(i, 0)])]).seconds for i in inputs])
    assert 0.8 * 256 / MEAN - 1 <= min(inputs) <= max(inputs) <= 256 / MEAN
    assert np.mean(inputs) == pytest.approx(256, rel=0.05)  # as asked for, on average
    assert got.requests == REQUESTS
    assert got.tpot_s == pytest.approx(np.mean(tpot), rel=1e-6)
    # The engine plans a step ahead: a prompt may wait for the end of the last step, never longer.
    assert prompt * (1 - 1e-9) <= got.engine_ttft_s <= prompt + 2 * step(max(inputs) + 31)
    assert got.ttft_s == got.engine_ttft_s + got.request_s


def test_the_public_benchmark_draws_shorter_lengths_than_it_names(table: Callable[..., Path]) -> None:
    points, _ = read_points(table(*({"source": s, "batch_or_concurrency": 64} for s in ("InferenceX-db", "AIC-runs"))))
    for point, mean in zip(points, (0.9, 1.0), strict=True):
        drawn = requests(point, 0).read()
        for lengths, nominal in ((drawn.input_tokens, 256), (drawn.output_tokens, 32)):
            assert lengths.mean() == pytest.approx(mean * nominal, rel=0.02)
            assert 0.8 / 0.9 * mean * nominal - 1 <= lengths.min()
            assert lengths.max() <= mean / 0.9 * nominal + 1


def test_first_requests_wait_where_there_are_experts(table: Callable[..., Path]) -> None:
    rows = [{"ttft_s": 0.1 + i / 10} for i in range(5)]
    points, _ = read_points(table(*rows, {"notes": "TTFT suspect", "ttft_s": 9.0}))
    own = [Prediction(p.ttft_s - 0.207, 7e-3, 0.01, 1, 0, None, 0.5) for p in points]
    assert own[0].ttft_s == pytest.approx(own[0].engine_ttft_s + 7e-3 + 0.5 / REQUESTS)
    dense = [Prediction(0.1, 7e-3, 0.01, 1, 0) for _ in points]
    assert dense[0].ttft_s == 0.1 + 7e-3
    experts = {"model": "mixtral-8x7b", "framework": "SGLang", "gpus": 4, "tp": 4, "osl": 2}
    (point, _), _ = read_points(table(experts, {}))
    assert predict(point, Path(".")).first_use_s == FIRST_USE_S["SGLang"]


def test_errors_leave_out_suspect_ttft(table: Callable[..., Path]) -> None:
    points, _ = read_points(table({}, {"notes": "TTFT suspect"}))
    predicted = [predict(p, Path(".")) for p in points]
    known, suspect = (check.metrics() for check in map(check_of, points, predicted))
    assert set(suspect) == {"tpot_mean"}
    assert known["tpot_mean"]["error"] == pytest.approx(predicted[0].tpot_s / 0.01 - 1)
    assert known["ttft_mean"]["error"] == pytest.approx(predicted[0].ttft_s / 0.1 - 1)


def test_the_command(table: Callable[..., Path], tmp_path: Path, ask: Ask) -> None:
    split = "prefill 1x(tp1 dp1 ep1) decode 1x(tp1 dp1 ep1)"
    path = table({}, {"mode": "disagg", "gpus": 2, "notes": split}, {"framework": "LMDeploy"})
    out = tmp_path / "out"
    answer = ask("validate", "runs", path, "--json", "--out", out)
    printed = answer.json()
    assert [run["run"].split()[3] for run in printed["runs"]] == ["agg", "disagg"]
    assert [row["n"] for row in printed["by"]["engine"]] == [2, 2]
    assert "line 4" in printed["skipped"][0]
    assert "LMDeploy" in answer.err
    assert json.loads((out / "runs.json").read_text()) == printed
    rows = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert [row["metric"] for row in rows] == ["tpot_mean", "ttft_mean"] * 2
    assert ask("validate", "runs", path, "--json").json() == printed


@pytest.mark.parametrize(("changes", "words"), TABLES["bad tables are refused"])
def test_bad_tables_are_refused(table: Callable[..., Path], ask: Ask, changes: list[Any], words: str) -> None:
    said = ask("validate", "runs", table(*changes)).refused()
    assert all(word in said for word in words.split(" ", 1))
