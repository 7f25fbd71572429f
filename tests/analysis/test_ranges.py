"""Is what lies outside the measured rows counted, named with its range, and refused where asked?

Expected values: the cells of measured rows themselves, and calls made to lie beyond them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opbyte import InputError, capacity, compare, plan, roofline, simulate, sweep
from opbyte.devices.calibrated.behind import ANY, BASE, SPANS, _read, behind
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.hardware import CODES
from opbyte.devices.catalog import load_device

from .conftest import Ask

FAR = 2_000_000


@pytest.mark.parametrize("name", ["norm", "gemm", "attention_decode", "mla", "moe"])
def test_calls_of_measured_sizes_lie_inside_and_larger_ones_do_not(name: str) -> None:
    spec, family = load_device("h100")[0], families()[name]
    columns = [family.quantities.index(size) for size in SPANS[name]]
    held = _read("h100")[name, "typical"]
    format_ = next(iter(held))
    x = np.ones(len(family.quantities))
    if format_ != ANY:
        x[family.quantities.index("format")] = CODES[format_]
    for cell in held[format_].at:
        x[columns] = BASE**cell
        inside = behind(spec, family, "typical", x)
        assert inside is not None
        assert inside.near > 0
        assert not inside.beyond
    for column, size in zip(columns, SPANS[name], strict=True):
        far = x.copy()
        far[column] = BASE**12
        found = behind(spec, family, "typical", far)
        assert found is not None
        assert found.near == 0
        assert f"{size} {BASE**12:,.0f}, measured about" in found.beyond


def test_long_contexts_lie_beyond_the_rows() -> None:
    found = roofline("llama-3-8b", "h100-x1", batch=1, context=FAR)
    assert found.ranges is not None
    first = found.ranges.outside[0]
    assert (first.op, first.calls) == ("attention_decode", 32)
    assert first.beyond.startswith(f"keys {FAR + 1:,}, measured about 1 to ")
    assert first.share == pytest.approx(
        sum(op.seconds * op.count for op in found.ops if op.name == first.op) / found.step_seconds
    )
    assert 0.9 < found.ranges.share <= 1.0
    assert any("h100-x1" in str(block) and "OUT OF RANGE" in str(block) for block in found.blocks())
    assert found.to_dict()["out_of_range"]["ops"][0]["op"] == "attention_decode"
    assert {"applies_to", "basis", "error"} <= found.to_dict()["evidence"][0].keys()


def test_what_rests_on_no_rows_or_inside_them_is_not_counted() -> None:
    for model, system in (("mixtral-8x7b", "duplex-x4"), ("deepseek-v3", "h200-x8")):
        found = roofline(model, system, batch=64, context=4096, framework="typical", strict=True).ranges
        assert found is not None
        assert not found.outside
        assert not found.text()


def test_a_run_counts_its_calls() -> None:
    # The head of Llama 3, 128,256 columns, is wider than any measured product, and what is drawn from it than any row.
    made = simulate("llama-3-8b", "h100-x1", closed_loop=4, requests=8, input_len=64, output_len=8)
    ranges = made.ranges
    assert ranges is not None
    assert [each.op for each in ranges.outside] == ["logits", "sampling"]
    assert "n 128,256, measured about" in ranges.outside[0].beyond
    head = [op for op in made.run.ops if op.name == "logits"]
    assert ranges.outside[0].calls == sum(op.runs for op in head)
    assert ranges.calls == sum(op.runs for op in made.run.ops)
    assert 0.0 < ranges.share < 0.2
    assert made.to_dict()["out_of_range"]["outside_share"] == ranges.share


def test_calls_beyond_kernel_tables_count(data_set: Callable[[str], Path]) -> None:
    folder = data_set("serving_runs") / "rtx4090--llama-3.1-8b"
    made = simulate(folder, "rtx-4090-x1", closed_loop=1, requests=2, input_len=30_000, output_len=4,
                    kernels=folder / "kernels")  # fmt: skip
    ranges = made.ranges
    assert ranges is not None
    outside = {op.name: op.outside for op in made.run.ops if op.outside}
    assert outside
    assert {each.op: each.calls for each in ranges.outside} == pytest.approx(outside)
    assert all("calls are beyond the tables" in each.beyond for each in ranges.outside)
    assert 0.0 < ranges.share <= 1.0


def test_a_step_names_the_shapes_that_tables_lack(tmp_path: Path) -> None:
    """Finding U20: `roofline` said that all was in range, `simulate` that half of the time was not."""
    rows = "".join(f"own,h100,gemm,bf16,{m},4096,14336,1,graph,1e-4\n" for m in (1, 64, 256))
    (tmp_path / "gemm.csv").write_text("source,device,kernel,dtype,m,n,k,batch,timing,measured_s\n" + rows)
    ranges = roofline("llama-3-8b", "h100-x1", kernels=tmp_path).ranges
    assert ranges is not None
    outside = {each.op for each in ranges.outside}
    assert "gate_up" in outside
    assert "down" not in outside


@pytest.mark.parametrize("call", ["simulate", "roofline", "compare", "capacity", "plan"])
def test_strict_refuses_with_op_and_range(call: str) -> None:
    work = {"requests": 8, "input_len": 64, "output_len": 8}
    calls = {
        "simulate": lambda: simulate("llama-3-8b", "h100-x1", rate=1.0, strict=True, **work),
        "roofline": lambda: roofline("llama-3-8b", "h100-x1", strict=True),
        "compare": lambda: compare("llama-3-8b", ["h100-x1"], strict=True),
        "capacity": lambda: capacity("llama-3-8b", "h100-x1", "ttft_p99=1", strict=True, **work),
        "plan": lambda: plan("llama-3-8b", "h100-x1", "ttft_p99=1", load=1.0, strict=True, **work),
    }
    with pytest.raises(InputError, match=r"logits on xpu of h100-x1 .* of GEMM in bf16: n 128,256"):
        calls[call]()


def test_the_command_says_it_in_a_line(ask: Ask, tmp_path: Path) -> None:
    told = ask("roofline", "llama-3-8b", "--system", "h100-x1", "--strict").refused()
    assert told.startswith("--strict: logits on xpu of h100-x1 is out of the range of GEMM in bf16")
    study = tmp_path / "study.yaml"
    study.write_text(
        "title: t\nbase: {model: llama-3-8b, system: h100-x1, closed_loop: 1, requests: 2, input_len: 32,"
        " output_len: 4}\naxes: {strict: [true, false]}\n"
    )
    found = sweep(study, tmp_path / "out", workers=1).frame()
    assert "--strict" in found["error"][0]
    assert 0.0 < found["outside_share"][1] < 0.2
