"""Are runs read as their clients printed them, and simulated by the command and the engine's file in the row?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opbyte import simulate, validate_runs
from opbyte.analysis.validate.runs.client_runs import acceptance, read_client_runs, sampled
from opbyte.workloads.errors import InputError

from .conftest import Ask

COLUMNS = (
    "id", "model", "gpu", "count", "engine", "version", "tp", "weights", "concurrency", "ttft_mean_ms", "tpot_p50_ms",
    "output_tok_s", "e2e_mean_s", "accept_len", "score", "note", "engine_json", "opbyte",
)  # fmt: skip
ENGINE = {"engine": "vllm", "version": "0.15.0", "tensor_parallel_size": 1}
OWN = {
    "id": "a-1", "model": "qwen3-8b", "gpu": "h100", "count": 1, "engine": "vllm", "version": "0.15.0", "tp": 1,
    "weights": "bf16", "concurrency": 4, "ttft_mean_ms": 20, "tpot_p50_ms": 7, "output_tok_s": 500, "score": "yes",
    "note": "power 420 W a GPU", "engine_json": json.dumps(ENGINE),
    "opbyte": "opbyte simulate qwen3-8b --system h100-x1 --engine engine.json --closed-loop 4 --requests 24 "
    "--input-len 128 --output-len 32 --lengths fixed --json",
}  # fmt: skip


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "client_2026.csv"
    quoted = (('"' + str((OWN | row).get(name, "")).replace('"', '""') + '"' for name in COLUMNS) for row in rows)
    path.write_text("\n".join([",".join(COLUMNS), *map(",".join, quoted)]) + "\n", encoding="utf-8")
    return path


def test_a_row_is_read_in_si_units(tmp_path: Path) -> None:
    runs, left = read_client_runs(table(tmp_path, {}, {"score": "no"}, {"model": ""}))
    (run,) = runs
    assert run.measured == {"ttft_mean": 0.02, "tpot_p50": 0.007, "output_tokens_per_s": 500.0, "power_all_gpus": 420.0}
    assert (run.table, run.load.kind, run.load.size) == ("client", "closed", "2 to 16")
    assert run.options["closed_loop"] == 4
    assert run.options["lengths"] == "fixed"
    assert [text.rsplit(": ", 1)[1] for text in left] == ["score is no", "not in the catalog"]


def test_formats_and_acceptance_that_the_command_leaves_out(tmp_path: Path) -> None:
    (run,), _ = read_client_runs(table(tmp_path, {"weights": "fp8_block", "accept_len": 2.5}))
    assert run.options["dtype"] == "fp8_block"
    assert run.options["speculative"] == "mtp:3"
    (chance, *_) = (float(x) for x in run.options["acceptance"].split(","))
    assert 1 + chance + chance**2 + chance**3 == pytest.approx(2.5, abs=0.01)
    assert acceptance(1.0) == 0.0
    assert acceptance(4.0) == 1.0


def test_submissions_of_one_layout_are_one_run(tmp_path: Path) -> None:
    rows = [{"score": "layout assumed", "output_tok_s": x} for x in (300, 100, 200)]
    runs, _ = read_client_runs(table(tmp_path, *rows))
    assert [r.measured["output_tokens_per_s"] for r in runs] == [200.0]


@pytest.mark.parametrize(("row", "says"), [
    ({"opbyte": "opbyte simulate qwen3-8b --system"}, "opbyte: must be a command, a model and options"),
    ({"tpot_p50_ms": "1e-320"}, "tpot_p50_ms: must be a number from 1e-09 to 1,000,000,000"),
    ({"output_tok_s": -5}, "output_tok_s: must be a number"),
])  # fmt: skip
def test_a_command_or_figure_that_is_none(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_client_runs(table(tmp_path, row))


def test_samples_spread_over_the_load() -> None:
    loads = [1, 2, 4, 8, 16, 32]
    chosen = sampled(loads, 3, lambda _: "", lambda x: (float(x),))
    assert chosen[0] == 1
    assert chosen[-1] == 32
    assert len(chosen) == 3
    assert sampled(loads, None, lambda _: "", lambda x: (float(x),)) == loads


def test_figures_are_those_of_simulate(tmp_path: Path, ask: Ask) -> None:
    path, engine = table(tmp_path, {}), tmp_path / "engine.json"
    engine.write_text(json.dumps(ENGINE))
    found = validate_runs([path]).to_dict()
    alone = simulate(
        "qwen3-8b",
        "h100-x1",
        engine=str(engine),
        closed_loop=4,
        requests=24,
        input_len=128,
        output_len=32,
        lengths="fixed",
    )
    metrics = found["runs"][0]["metrics"]
    assert metrics["output_tokens_per_s"]["simulated"] == alone.run.output_tokens_per_s
    assert metrics["tpot_p50"]["simulated"] == pytest.approx(alone.run.tpot_s.p50, rel=0.02)
    for axis, value in (
        ("source", "client"),
        ("device", "h100"),
        ("engine", "vllm 0.15.0"),
        ("concurrency", "2 to 16"),
    ):
        rows = {(row[axis], row["metric"]): row for row in found["by"][axis]}
        own = rows[value, "output_tokens_per_s"]
        assert own["median_ape"] == abs(metrics["output_tokens_per_s"]["error"])
        assert own["width"] > 1.0
    shown = ask("validate", "runs", path).out
    assert "by concurrency" in shown
    assert "must be each or a source of these runs: client" in ask("validate", "runs", path, "--without", "x").refused()


def test_coverage_by_source_on_given_data(data: Path) -> None:
    """A few rows of two sources: each by widths fitted to all sources; `--without each` on all rows is on docs/accuracy.md."""
    folder = data / "real_runs_2026_11"
    found = validate_runs([folder / "sgl_cookbook_2026.csv", folder / "angelslim_verify_h20_2026.csv"], sample=1)
    inside = [
        e.within(name) for e in found.entries for name in e.factors if name.startswith(("tpot", "ttft", "verify"))
    ]
    assert len(inside) > 20
    assert sum(map(bool, inside)) / len(inside) >= 0.6
