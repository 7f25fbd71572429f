"""Do tables of published points read as their header says, and are their figures those of `simulate`?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opbyte import simulate, validate_runs
from opbyte.analysis.answers.error_factors import NO_FACTORS
from opbyte.analysis.answers.interval import Interval
from opbyte.analysis.answers.usual import as_usual
from opbyte.analysis.validate.check import by_chance
from opbyte.analysis.validate.runs.published import read_published
from opbyte.analysis.validate.runs.published_run import _both, _options, replay_published
from opbyte.devices.catalog import load_system
from opbyte.simulator.frameworks.engines import upkeep_of
from opbyte.simulator.scenario import Scenario
from opbyte.workloads.errors import InputError

HEADER = "source,device,count,model,framework,precision,parallelism,isl,osl,load,metric,value,unit,note"
POINT = "set,NVIDIA H100-SXM-80GB,1,Qwen/Qwen3-8B,vllm 0.30.0,bf16,tp1,128,32,{load},{metric},{value},{unit},{note}"


def table(folder: Path, *rows: str) -> Path:
    path = folder / "points.csv"
    path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    return path


def row(load: str, metric: str, value: object, unit: str = "ms", note: str = "") -> str:
    return POINT.format(load=load, metric=metric, value=value, unit=unit, note=note)


def test_rows_of_one_load_are_one_point(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        row("concurrency=4", "itl_p50", 7, note="num_prompts=50"),
        row("concurrency=4", "power_all_gpus", 423, "W", "num_prompts=50"),
        row("rate=2 requests=9", "ttft_mean", 20),
        row("all at once", "ttft_mean", 20),
        row("rate=2", "ttft_mean", 20).replace("H100-SXM-80GB", "V100-SXM-32GB"),
    )
    runs, left = read_published(path)
    assert [(r.load.kind, r.load.level, r.load.requests) for r in runs] == [("closed", 4.0, 50), ("open", 2.0, 9)]
    assert runs[0].measured == {"itl_p50": 0.007, "power_all_gpus": 423.0}
    assert runs[0].layout == {"tp": 1}
    assert (runs[0].framework, runs[0].version) == ("vllm", "0.30.0")
    assert len(left) == 2
    assert "load 'all at once' is none of" in left[0]
    assert "'NVIDIA V100-SXM-32GB' is not in the catalog" in left[1]


def test_figures_are_those_of_simulate(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        row("concurrency=4", "itl_p50", 7, note="num_prompts=40"),
        row("concurrency=4", "output_tokens_per_s", 500, "1/s", "num_prompts=40"),
        row("concurrency=4", "power_all_gpus", 423, "W", "num_prompts=40"),
        row("concurrency=4", "wind", 3, "1/s", "num_prompts=40"),
    )
    found = validate_runs([path]).to_dict()
    metrics = found["runs"][0]["metrics"]
    alone = simulate(
        "Qwen/Qwen3-8B", "h100-x1", framework="vllm@0.30.0", closed_loop=4, requests=40, input_len=128, output_len=32
    )
    assert set(metrics) == {"itl_p50", "output_tokens_per_s", "power_all_gpus"}
    assert metrics["itl_p50"]["simulated"] == alone.run.tbt_s.p50
    rows = alone.run.requests
    whole = rows.output_tokens.sum() / (rows.last_token_s.max() - rows.arrival_s.min())
    assert metrics["output_tokens_per_s"]["simulated"] == pytest.approx(whole)
    assert metrics["power_all_gpus"]["simulated"] == alone.run.watts_per_device
    error = metrics["itl_p50"]["error"]
    summary = next(own for own in found["by"]["source"] if own["metric"] == "itl_p50")
    assert summary["median_ape"] == abs(error)
    assert alone.intervals is not None
    assert alone.run.tbt_s.p50 is not None
    low, high = alone.intervals.tpot.of(alone.run.tbt_s.p50)
    assert high is not None
    assert summary["within"] == float(low <= 0.007 <= high)
    assert summary["systems"] == 1
    assert (summary["chance_least"], summary["chance_most"]) == (0.0, 1.0)  # of one point


def test_a_share_of_points_of_few_systems_says_little() -> None:
    """Of one system shares scatter far, of many systems, and of as many points, less; about 80 % throughout."""
    one, few, many = (by_chance([str(i % systems) for i in range(60)]) for systems in (1, 6, 60))
    ends = [(each["chance_least"], each["chance_most"]) for each in (one, few, many)]
    assert ends[0][0] < ends[1][0] < ends[2][0] < 0.8 < ends[2][1] < ends[1][1] <= ends[0][1]
    assert ends[2] == pytest.approx((0.8 - 1.645 * 0.4 / 60**0.5, 0.8 + 1.645 * 0.4 / 60**0.5), abs=0.02)
    assert by_chance([])["chance_least"] is None


def test_random_prompts_are_ten_requests_for_each_client(tmp_path: Path) -> None:
    path = table(tmp_path, row("concurrency=4", "itl_p50", 7).replace("set,", "inferencex x,", 1))
    assert read_published(path)[0][0].load.requests == 40


def test_prompts_of_a_faster_run_are_found_in_the_cache(tmp_path: Path) -> None:
    """The slower of two runs with equal prompts computes a block of each; a cache that does not hold a run, or a run alone, all of them."""
    loads = ("rate=8 requests=40", "rate=2 requests=40")
    fast, slow = (
        [row(load, f"ttft_{x}", 20).replace(",128,32,", ",4000,32,") for x in ("p50", "p99")] for load in loads
    )
    runs, _ = read_published(table(tmp_path, *fast, *slow))
    (alone,), _ = read_published(table(tmp_path, *slow))
    other, _ = read_published(table(tmp_path, *fast, *(x.replace(",4000,", ",3999,") for x in slow)))
    assert [r.again for r in (*runs, alone, *other)] == [False, True, False, False, False]
    small = replace(runs[1], device="rtx-4090")
    found, whole, crowded = (replay_published(r).simulated for r in (runs[1], alone, small))
    assert found["ttft_p99"] < 0.2 * whole["ttft_p99"]  # half of it finds tokens in the front end
    assert crowded["ttft_p50"] == pytest.approx(
        replay_published(replace(small, again=False)).simulated["ttft_p50"], rel=0.3
    )


@pytest.mark.parametrize(
    ("isl", "osl", "pp", "sequences", "tokens"),
    [(128, 2048, 1, 192, 2048), (128, 2048, 8, 256, 2048), (2048, 128, 8, 256, 4608), (20000, 2000, 8, 64, 20064)],
)
def test_who_names_no_limits_has_those_of_the_tool(
    tmp_path: Path, isl: int, osl: int, pp: int, sequences: int, tokens: int
) -> None:
    """By hand after ``finetune_setting``: eight cards of 96 GB hold 1,855 requests of 2,176 tokens, 232 a stage."""
    text = row("saturated", "output_tokens_per_s", 500, "1/s").replace("bf16,tp1,128,32", f"fp4,tp1 pp{pp},{isl},{osl}")
    text = text.replace(
        "H100-SXM-80GB,1,Qwen/Qwen3-8B,vllm 0.30.0", f"RTX-PRO-6000,{pp},Llama-3.3-70B,tensorrt-llm 1.0"
    )
    (run,), _ = read_published(table(tmp_path, text))
    options = _options(run, None)
    assert (options["max_seqs"], options["token_budget"]) == (sequences, tokens)


def test_rates_are_of_the_whole_run_only_where_its_requests_are_told(tmp_path: Path) -> None:
    """A run with all requests queued at once drains; one of a steady part does not."""
    path = table(
        tmp_path,
        row("saturated", "output_tokens_per_s", 500, "1/s", "num_requests=32"),
        row("max_num_seqs=8", "output_tokens_per_s", 500, "1/s"),
    )
    queued, steady = read_published(path)[0]
    assert (queued.load.level, queued.load.requests) == (32, 32)
    assert steady.load.requests is None
    chats = read_published(
        table(tmp_path, row("concurrency=32", "output_tokens_per_s", 500, "1/s", "num_requests=32"))
    )[0]
    clients = [
        "all requests at once" in replay_published(r).basis["output_tokens_per_s"].amounts for r in (queued, *chats)
    ]
    assert clients == [False, True]  # an engine's own benchmark has no client


def test_static_batches_of_an_early_engine_wait_for_its_host(tmp_path: Path) -> None:
    """One device: a gap a step and a share a sequence; with the same kernels, nothing else differs."""
    old, new = (
        row("static_batch=16", "batch_latency", 1, "s").replace("vllm 0.30.0", f"vllm {version}")
        for version in ("0.5.1", "0.30.0")
    )
    early, late = (
        e["metrics"]["batch_latency"]["simulated"] for e in validate_runs([table(tmp_path, old, new)]).to_dict()["runs"]
    )
    row_of = upkeep_of("vllm", (0, 5))
    assert early - late == pytest.approx(32 * (row_of.gap_s + 16 * row_of.sequence_s))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row("concurrency=4", "itl_p50", 7, unit="weeks"), "unit: must be one of"),
        (row("concurrency=4", "itl_p50", "x"), "value"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, bad: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        validate_runs([table(tmp_path, bad)])


def test_nothing_to_replay_says_why(tmp_path: Path) -> None:
    path = table(tmp_path, row("Offline", "tokens_per_s", 7, "1/s"))
    with pytest.raises(InputError, match=r"found nothing to replay: .*is none of MLPerf's"):
        validate_runs([path])


MLPERF = (
    'mlperf v4.1 {by},NVIDIA H200-SXM-141GB,{count},llama2-70b-99,"TensorRT 10.2.0, CUDA 12.4",fp16,,,,'
    "{load},tokens_per_s,3900,Tokens/s,note"
)


def test_mlperf_is_scored_as_its_benchmark_is(tmp_path: Path) -> None:
    """Eight replicas of one H200 do eight times what one does, Poisson arrivals no more, 500 W less."""
    path = table(
        tmp_path, *(MLPERF.format(by=by, count=n, load="Offline") for by, n in (("A", 1), ("B", 1), ("A", 8))),
        MLPERF.format(by="A", count=1, load="Server"),
        MLPERF.format(by="A", count=1, load="Offline").replace("note", "MaxQ"),
        MLPERF.format(by="A", count=1, load="Offline").replace("llama2-70b", "gptj"),
    )  # fmt: skip
    found = validate_runs([path]).to_dict()
    one, same, eight, served, less = (r["metrics"]["tokens_per_s"]["simulated"] for r in found["runs"])
    assert one == same
    assert eight == pytest.approx(8 * one)
    assert 0.9 * one < served <= one
    assert 0.8 * one < less < 0.9 * one
    assert "'gptj-99' is none of MLPerf's" in found["skipped"][0]


def test_a_framework_of_a_version_brings_its_own_scheduler() -> None:
    system = load_system("h100-x1")
    for name in ("sglang", "sglang@0.5", "trtllm@1.0"):
        asked = Scenario.of("llama-3.2-1b", system=system, framework=name)
        assert as_usual(asked).serving.policy is None


def test_a_degree_that_was_not_told_is_the_engines_and_the_interval_holds_the_guess_too(tmp_path: Path) -> None:
    """And prompts of random tokens are text of one kind."""
    told = row("saturated", "output_tokens_per_s", 7, "1/s").replace("tp1", "dp8 ep8")
    runs = read_published(table(tmp_path, told, told.replace("1/s,", "1/s,max_batch and ep not stated")))[0]
    assert [(r.layout["ep"], r.guess["ep"]) for r in runs] == [(8, 8), (1, 8)]
    assert _both(lambda _: Interval(0.9, 1.1), lambda _: Interval(0.8, 1.2), 2.0, NO_FACTORS) == Interval(0.9, 2.4)
    assert _both(lambda _: Interval(0.9, 1.1), lambda _: Interval(0.8, 1.2), 0.5, NO_FACTORS) == Interval(0.4, 1.1)
    random = [told.replace("set,", "inferencex,").replace("Qwen/Qwen3-8B", m) for m in ("gpt-oss-120b", "deepseek-v3")]
    others = read_published(table(tmp_path, *random, told.replace("set,", "inferencex,")))[0]
    routings = [_options(r, None)["routing"] for r in others]
    assert routings == ["power_law:0.91", "power_law:0.54", "uniform"]  # the last has no experts
