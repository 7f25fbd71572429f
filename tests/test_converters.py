"""Do the converters of docs/data.md turn original rows into the rows our readers take?

Originals are a few published rows, named with file and commit; expected rows follow by hand:
seconds from the first stamp, microseconds times 1e-6, shapes from the model's config.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
# casys-kaist/LLMServingSim@5daddb21, bench/examples/RTXPRO6000/Llama-3.1-8B/vllm/requests.jsonl,
# lines 1, 2 and 17
REQUESTS = [
    ("bench-0", 2358, 531, 1777142838.338653, 479748.340626232, 479748.34067238, 479748.510151426, 479764.054028055),
    ("bench-1", 1034, 769, 1777142838.6237123, 479748.625554681, 479748.625559334, 479748.688143559, 479772.123050648),
    ("bench-16", 1355, 769, 1777142839.9349942, 479749.976277892, 479750.033562477, 479750.310463048, 479774.777768642),
]
KEYS = ["request_id", "input_toks", "output_toks", "arrival_time", "queued_ts", "scheduled_ts",
        "first_token_ts", "last_token_ts"]  # fmt: skip


def converter(name: str) -> ModuleType:
    path = ROOT / "docs/converters" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of LLMServingSim in its original form, converted."""
    lines = [json.dumps(dict(zip(KEYS, row, strict=True))) for row in REQUESTS]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines) + "\n")
    settings = dict.fromkeys(converter("llmservingsim").SETTINGS, None)
    settings |= {"tensor_parallel_size": 1, "max_num_seqs": 128, "seed": 42}
    meta = {"model": "meta-llama/Llama-3.1-8B", "vllm_version": "0.19.0", "tick_seconds": 1.0}
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"engine_kwargs": settings}))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    # profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1 of the same repository
    (tmp_path / "dense.csv").write_text(
        "layer,tokens,time_us\nact_fn,1,2.592\ndown_proj,2,128.897\ngate_up_proj,1,247.292\n"
    )
    (tmp_path / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,1,1096.93\nsampler,1,25.001\n")
    (tmp_path / "attention.csv").write_text("prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,9.31067\n")
    out = tmp_path / "out"
    arguments = ["--run", tmp_path, "--perf", tmp_path, "--config", tmp_path / "config.json"]
    converter("llmservingsim").main([*map(str, arguments), "--device", "rtx-4090", "--out", str(out)])
    return out


def test_serving_run(run: Path) -> None:
    requests = read(run / "requests.csv")
    assert requests[1:3] == [
        ["bench-0", "0.000000", "2358", "531", "0.000000", "0.000046", "0.169525", "15.713402"],
        ["bench-1", "0.285059", "1034", "769", "0.284928", "0.284933", "0.347517", "23.782424"],
    ]
    engine = json.loads((run / "engine.json").read_text())
    assert engine["engine_version"] == "0.19.0"
    assert engine["max_num_seqs"] == 128
    assert "seed" not in engine
    mark = ["llmservingsim", "rtx-4090"]
    assert read(run / "kernels/gemm.csv")[1:] == [
        [*mark, "down_proj", "bf16", "2", "4096", "14336", "0.000128897"],
        [*mark, "gate_up_proj", "bf16", "1", "28672", "4096", "0.000247292"],
        [*mark, "lm_head", "bf16", "1", "128256", "4096", "0.00109693"],
    ]
    assert read(run / "kernels/elementwise.csv")[1:] == [
        [*mark, "act_fn", "bf16", "1", "14336", "2.592e-06"],
        [*mark, "sampler", "bf16", "1", "128256", "2.5001e-05"],
    ]
    assert read(run / "kernels/attention_mixed.csv")[1:] == [
        [*mark, "bf16", "32", "8", "128", "0", "0", "1", "16", "9.31067e-06"]
    ]


def test_serving_run_equals_the_data_set(run: Path, data_set: Callable[[str], Path]) -> None:
    """The converted rows are those of the folder the validation reads."""
    folder = data_set("serving_runs")
    theirs = read(folder / "rtxpro6000--llama-3.1-8b/requests.csv")
    ours = read(run / "requests.csv")
    assert ours[0] == theirs[0]
    assert ours[1:3] == theirs[1:3]
    assert ours[3] == theirs[17]
    for name in ("gemm.csv", "elementwise.csv", "attention_mixed.csv"):
        kernels = read(folder / "rtx4090--llama-3.1-8b/kernels" / name)
        converted = read(run / "kernels" / name)
        assert converted[0] == kernels[0]
        assert [row for row in converted if row not in kernels] == []


def test_linear_layer_profile() -> None:
    """microsoft/vidur@7d47513, data/profiling/compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv.

    The line of 3,936 tokens, means only. Both norms have one shape and merge to their median.
    """
    means = {
        "input_layernorm": 0.10140000000000002, "attn_pre_proj": 1.8486, "attn_rope": 0.14275,
        "attn_post_proj": 0.5925, "post_attention_layernorm": 0.10010000000000001,
        "mlp_up_proj": 3.2763999999999998, "mlp_act": 0.25514999999999993,
        "mlp_down_proj": 1.5987000000000002, "add": 0.053000000000000005,
    }  # fmt: skip
    shape = {
        "n_head": "32", "n_kv_head": "32", "n_embd": "4096", "n_expanded_embd": "11008",
        "use_gated_mlp": "True", "num_tokens": "3936", "num_tensor_parallel_workers": "1",
    }  # fmt: skip
    header = [*(f"time_stats.{stem}.mean" for stem in means), *shape]
    lines = [",".join(header), ",".join([*map(str, means.values()), *shape.values()])]
    rows = {(kernel, s): t for kernel, s, t in converter("vidur").convert(lines)}
    assert rows == {
        ("add", (3936, 4096)): pytest.approx(5.3e-5),
        ("gemm", (3936, 4096, 4096, 1)): pytest.approx(5.925e-4),
        ("gemm", (3936, 4096, 11008, 1)): pytest.approx(1.5987e-3),
        ("gemm", (3936, 12288, 4096, 1)): pytest.approx(1.8486e-3),
        ("gemm", (3936, 22016, 4096, 1)): pytest.approx(3.2764e-3),
        ("rmsnorm", (3936, 4096)): pytest.approx(1.0075e-4),
        ("rope", (3936, 8192)): pytest.approx(1.4275e-4),
        ("silu_mul", (3936, 11008)): pytest.approx(2.5515e-4),
    }
