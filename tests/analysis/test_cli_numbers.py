"""Are the numbers of inspect and roofline right, as seen from outside?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ask

INSPECT = {
    "model": str, "total_params": int, "active_params": int, "weight_bytes": int,
    "kv_bytes_per_token": int, "kv_window": list, "state_bytes_per_sequence": int, "layers": int,
    "moe_layers": int, "experts": int, "top_k": int, "attention": str,
}  # fmt: skip
OP = {"name", "layer", "kind", "count", "flops", "bytes", "op_per_byte", "processor", "seconds", "bound", "joules"}
SYSTEMS = ("h100-x8", "duplex-x8", "duplex-gpu-2x8", "duplex-plain-x8", "mi300x-x8")


@pytest.mark.parametrize("model", ["mixtral-8x7b", "llama-2-7b", "jamba-mini"])
def test_inspect_has_its_keys(ask: Ask, model: str) -> None:
    """Counts of every configuration are met in tests/workloads/test_hf_reference.py."""
    found = ask("inspect", model, "--json").json()
    for key, kind in INSPECT.items():
        optional = key in ("experts", "top_k") and found["moe_layers"] == 0
        assert found[key] is None if optional else type(found[key]) is kind, key
    assert len(found["kv_window"]) == found["layers"]
    assert all(w is None or type(w) is int for w in found["kv_window"])
    assert (found["state_bytes_per_sequence"] > 0) == (model == "jamba-mini")


def test_kv_bytes_are_in_16_bit_whatever_the_model_keeps(ask: Ask, tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024,
        "num_attention_heads": 8, "num_hidden_layers": 3, "vocab_size": 1000,
        "torch_dtype": "float32",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ask("inspect", tmp_path, "--json").json()["kv_bytes_per_token"] == 3 * 2 * 512 * 2


def roofline(ask: Ask, model: object, system: str, **options: object) -> dict[str, Any]:
    pairs = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v)]
    return ask("roofline", model, "--system", system, *pairs, "--json").json()


def op(found: dict[str, Any], name: str) -> dict[str, Any]:
    """The row of an op; of several processors', all have the same Op/B here."""
    return next(row for row in found["ops"] if row["name"] == name)


@pytest.mark.parametrize("system", SYSTEMS)
def test_op_per_byte_is_the_papers(ask: Ask, system: str) -> None:
    expected = {"mixtral-8x7b": ((8, 16, 32), 4), "grok-1": ((8, 16, 32), 6), "glam-143b": ((1.57, 2.30, 4.07), 1)}
    for model, (experts, group) in expected.items():
        for batch, published in zip((32, 64, 128), experts, strict=True):
            found = roofline(ask, model, system, batch=batch, context=2048)
            ranks = found["dp"]
            assert op(found, "experts")["op_per_byte"] == pytest.approx(published, rel=0.03)
            assert op(found, "attention_decode")["op_per_byte"] == pytest.approx(group, rel=0.03)
            assert op(found, "qkv")["op_per_byte"] == pytest.approx(batch / ranks, rel=0.2)


def test_mixtral_experts_leave_an_h100_idle(ask: Ask) -> None:
    for system in ("h100-x4", "duplex-gpu-x4"):
        found = roofline(ask, "mixtral-8x7b", system, batch=128, context=2048)
        experts = op(found, "experts")
        peak = found["processors"][0]["peak_flops"]
        assert experts["flops"] / experts["seconds"] < 0.11 * peak
        assert experts["bound"] == "memory"


@pytest.mark.parametrize(
    ("model", "system", "options"),
    [
        ("mixtral-8x7b", "h100-x4", {}),
        ("mixtral-8x7b", "duplex-plain-x4", {"batch": 128, "prefill": 4096}),
        ("deepseek-v3", "h100-2x8", {"batch": 256, "dtype": "fp8"}),
        ("llama-3-70b", "duplex-x4", {"batch": 3, "context": 0}),
        ("glam-143b", "duplex-bankpim-2x8", {"attention": "unfused", "prefill": 77}),
        ("jamba-mini", "a100-80gb-x2", {"batch": 1, "context": 200_000}),
        ("gpt-oss-20b", "mi300x-x1", {"batch": 0, "prefill": 512}),
        ("opt-66b", "b200-x8", {"dp": 8, "batch": 17}),
    ],
)
def test_a_step_is_the_sum_of_its_ops_and_none_beats_its_roof(
    ask: Ask, model: str, system: str, options: dict[str, object]
) -> None:
    if "placement" not in options and "x4" in system and "duplex-x4" in system:
        options = {**options, "placement": "op-per-byte"}  # nothing overlaps
    found = roofline(ask, model, system, **options)
    total = sum(row["count"] * row["seconds"] for row in found["ops"])
    assert found["step_seconds"] == pytest.approx(total, rel=1e-12)
    roofs = {p["name"]: p for p in found["processors"]}
    for row in found["ops"]:
        assert set(row) == OP
        assert type(row["count"]) is int
        if row["layer"] == "communication":
            assert row["op_per_byte"] is None
            continue
        roof = roofs[row["processor"]]
        widest = roof["peak_flops"] * (4 if options.get("dtype") or "gpt" in model else 1)
        shortest = max(row["flops"] / widest, row["bytes"] / roof["bandwidth"])
        assert row["seconds"] >= shortest * (1 - 1e-12)
        assert row["op_per_byte"] == pytest.approx(row["flops"] / row["bytes"])
        assert roof["ridge_op_per_byte"] == pytest.approx(roof["peak_flops"] / roof["bandwidth"])
        assert row["joules"] > 0


def test_overlap_shortens_a_step(ask: Ask) -> None:
    found = roofline(ask, "mixtral-8x7b", "duplex-x4", batch=64)
    ends = [row for row in found["ops"] if row["name"] == "experts"]
    assert {row["processor"] for row in ends} == {"xpu", "logic-pim"}
    total = sum(row["count"] * row["seconds"] for row in found["ops"])
    shorter = min(row["count"] * row["seconds"] for row in ends)
    assert found["step_seconds"] == pytest.approx(total - shorter)


def test_roofline_warns_and_runs(ask: Ask) -> None:
    line = "roofline mixtral-8x7b --system h100-x1 --context 100000 --json"
    answer = ask(*line.split())
    assert answer.json()["step_seconds"] > 0
    lines = answer.err.splitlines()
    assert len(lines) == 2
    assert "needs 87.0 GiB" in lines[0]
    assert "71.7 GiB available" in lines[0]
    assert "100,001 tokens" in lines[1]
    assert "32,768" in lines[1]


def test_lists(ask: Ask) -> None:
    for kind in ("models", "devices", "systems", "policies", "placements", "routings"):
        found = ask("list", kind, "--json").json()
        assert found["kind"] == kind
        assert found["names"] == [item["name"] for item in found["items"]]
        assert found["names"] == sorted(found["names"])
        shown = ask("list", kind)
        assert shown.code == 0
        assert all(name in shown.out for name in found["names"])
    for kind in ("kernels", "experiments"):
        assert isinstance(ask("list", kind, "--json").json()["names"], list)
    papers = {"duplex-gpu-x4", "duplex-2xgpu-x8", "duplex-bankpim-x4", "duplex-bankgroup-x4",
              "duplex-plain-x4", "duplex-pe-x4", "duplex-x4", "duplex-2x8"}  # fmt: skip
    assert papers < set(ask("list", "systems", "--json").json()["names"])


def test_files_of_list_inspect_and_roofline(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    out = tmp_path / "new/folder"
    for command, name in (
        (("list", "models"), "models.json"),
        (("inspect", "grok-1"), "inspect.json"),
        (("roofline", "grok-1", "--system", "duplex-x8"), "roofline.json"),
    ):
        answer = ask(*command, "--json", "--out", out)
        assert json.loads((out / name).read_text()) == answer.json()
    assert drawn == ["roofline"]
    assert sorted(p.name for p in out.iterdir()) == [
        "inspect.json", "models.json", "ops.csv", "report.html", "roofline.json", "roofline.png",
    ]  # fmt: skip
    header, *rows = (out / "ops.csv").read_text().splitlines()
    assert set(header.split(",")) == OP
    assert len(rows) == len(json.loads((out / "roofline.json").read_text())["ops"])
