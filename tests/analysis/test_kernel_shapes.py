"""Do the shapes to measure say what the ops say, and does the script fill them, without a GPU?

Expected quantities are those that the kernel models take from the ops themselves; the script runs on a
stand-in for torch whose clock counts multiplications.
"""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.answers.kernel_shapes import kernel_shapes, table_row
from opbyte.analysis.answers.step import step_of
from opbyte.analysis.reference.kinds import measuring_script
from opbyte.devices.calibrated.family import families
from opbyte.workloads.errors import InputError
from opbyte.workloads.kernel_schemas import SCHEMAS, TEXT
from opbyte.workloads.kernel_tables import KernelTable, read_tables

from .conftest import Ask, Write

CASES = [
    ("llama-3-8b", "h100-x1", {}),
    ("llama-3-70b", "h200-x4", {"dtype": "fp8"}),
    ("deepseek-v3", "h200-x8", {}),
    ("gpt-oss-20b", "h100-x1", {}),
    ("mixtral-8x7b", "a100-80gb-x4", {"dp": 2}),
    ("qwen3-30b-a3b", "h100-x2", {"tp": 2}),
]
COMPARED = {
    "gemm": ("m", "n", "k", "batch", "format", "quantised"),
    "attention_decode": ("batch", "keys", "heads_q", "heads_kv", "head_dim", "kv_bytes"),
    "attention_prefill": ("batch", "q", "keys", "kv", "heads_q", "heads_kv", "head_dim"),
    "mla": ("prefill", "batch", "q", "keys", "kv", "heads"),
    "moe": ("slots", "routed", "hidden", "inter", "matrices", "local_experts", "active_experts", "format"),
    "norm": ("rows", "cols", "kernel_class"),
}
"""Quantities of each family that tell of the shape; the others of how a time came about."""


def table_of(family: str, row: dict[str, Any]) -> KernelTable:
    given = {"source": "torch-2", "measured_s": 1.0, **row}
    columns = {name: np.array([value], dtype=object if name in TEXT else np.float64) for name, value in given.items()}
    return KernelTable(family, columns, np.array(["-"], dtype=object), np.array([2]))


@pytest.mark.parametrize(("model", "system", "options"), CASES, ids=lambda c: str(c))
def test_rows_say_what_the_ops_say(model: str, system: str, options: dict[str, Any]) -> None:
    seen = set()
    for step in ((64, 2048, 0), (1, 300, 0), (0, 0, 777)):
        deployment, stage = step_of(model, system, *step, options)
        for placed in stage.ops:
            found = table_row(placed.op, deployment, step[1] + 1)
            if found is None or not found[1]:
                continue
            if placed.op.loads is not None and placed.op.loads.routed < 1.0:
                assert (found[1]["tokens"], found[1]["active_experts"]) == (1, 1)
                continue
            family = families()[found[0]]
            from_row = family.from_table(table_of(*found))[0]
            from_op = family.from_op(placed.op)
            assert from_op is not None
            which = [i for i, q in enumerate(family.quantities) if q in COMPARED[family.name]]
            assert len(which) == len(COMPARED[family.name]), family.quantities
            close = {"rtol": 0.02 if family.name == "moe" else 1e-5}  # its tokens are whole numbers
            np.testing.assert_allclose(from_row[which], from_op[which], **close, err_msg=str(found))
            seen.add(family.name)
    assert "gemm" in seen
    assert {"attention_decode", "mla"} & seen


def test_rows_are_distinct_and_read_as_tables(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    printed = ask("kernels", "shapes", "gpt-oss-20b", "--system", "h100-x1", "--batches", "1,4",
                  "--contexts", "64,500", "--prompts", "", "--out", out, "--json").json()  # fmt: skip
    assert {p.stem for p in out.glob("*.csv")} == set(printed["tables"])
    for path in out.glob("*.csv"):
        lines = path.read_text().splitlines()
        assert len(lines) == len(set(lines)) == len(printed["tables"][path.stem]) + 1
        assert all(line.endswith(",event,") for line in lines[1:])
        path.write_text("\n".join([lines[0], *(line + "1e-3" for line in lines[1:])]) + "\n")
    tables, skipped = read_tables([out])
    assert not skipped
    assert set(tables) == {"gemm", "attention_decode", "moe", "norm"}
    decode = tables["attention_decode"]
    assert sorted(set(decode["kv_len"].tolist())) == [65, 501]  # a decode reads its own key too
    assert set(decode["window"].tolist()) == {0, 128}


# The script, on a stand-in for torch

RATE = 1e9


class Tensor(np.ndarray):
    def transpose(self, a: int, b: int) -> np.ndarray:  # type: ignore[override]
        return self.swapaxes(a, b)


class Clock:
    """Seconds that pass as products are computed."""

    def __init__(self) -> None:
        self.now = 0.0

    def bmm(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        assert a.shape[0] == b.shape[0]
        assert a.shape[2] == b.shape[1]
        self.now += 2.0 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2] / RATE
        return np.matmul(a, b)

    def attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, is_causal: bool = False, enable_gqa: bool = False
    ) -> None:
        assert k.shape == v.shape
        assert enable_gqa
        assert q.shape[1] % k.shape[1] == 0
        share = 0.5 if is_causal else 1.0
        self.now += share * 4.0 * q.shape[0] * q.shape[1] * q.shape[2] * q.shape[3] * k.shape[2] / RATE

    def norm(self, x: np.ndarray, shape: tuple[int, ...], scale: np.ndarray, *_: float) -> None:
        assert shape == (x.shape[-1],) == scale.shape
        self.now += x.size / RATE


def stand_in(clock: Clock) -> types.ModuleType:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock.now

        def synchronize(self) -> None: ...

        def elapsed_time(self, stop: Event) -> float:
            return (stop.at - self.at) * 1e3

    def randn(*shape: int, device: str, dtype: type) -> np.ndarray:
        if int(np.prod(shape)) > 1 << 20:
            raise RuntimeError("CUDA out of memory\nand more")
        return np.zeros(shape, dtype).view(Tensor)

    torch = types.ModuleType("torch")
    vars(torch).update(
        __version__="2.9.0", float16=np.float16, bfloat16=np.float16, float32=np.float32,
        randn=randn, bmm=clock.bmm,
        cuda=types.SimpleNamespace(
            is_available=lambda: True, synchronize=lambda: None, Event=Event
        ),
        nn=types.SimpleNamespace(functional=types.SimpleNamespace(
            scaled_dot_product_attention=clock.attend, silu=lambda x: x, rms_norm=clock.norm,
            layer_norm=clock.norm,
        )),
    )  # fmt: skip
    return torch


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setitem(sys.modules, "torch", stand_in(Clock()))
    module = types.ModuleType("measure_torch")
    exec(compile(measuring_script(), "measure_torch.py", "exec"), vars(module))  # noqa: S102
    vars(module).update(ROTATED_BYTES=1 << 12)
    return module


ROWS = {
    "gemm": [",h100,gemm,bf16,16,32,64,1,event,", ",h100,gemm,bf16,2,32,64,4,event,",
             ",h100,linear_actquant,fp8_block,16,32,64,1,event,",
             ",h100,gemm,bf16,65536,65536,64,1,event,"],
    "attention_decode": [",h100,decode_attention,bf16,bf16,2,50,8,2,16,0,event,",
                         ",h100,decode_attention,bf16,bf16,2,50,8,2,16,20,event,",
                         ",h100,decode_attention,bf16,fp8,2,50,8,2,16,0,event,"],
    "attention_prefill": [",h100,prefill_attention,bf16,bf16,1,40,0,8,2,16,0,1,event,",
                          ",h100,prefill_attention,bf16,bf16,1,40,10,8,2,16,0,1,event,"],
    "mla": [",h100,mla_decode,bf16,bf16,4,1,65,16,event,"],
    "moe": [",h100,fused_moe,bf16,8,64,32,8,2,1,2,1,uniform_random,3.6,event,"],
    "norm": [",h100,rmsnorm,bf16,5,64,event,", ",h100,rope,bf16,5,64,event,"],
}  # fmt: skip
FILLED = {
    "gemm": [2 * 16 * 32 * 64, 4 * 2 * 2 * 32 * 64, None, None],
    "attention_decode": [4 * 2 * 8 * 50 * 16, None, None],
    "attention_prefill": [2 * 8 * 40 * 16 * 40, None],
    "mla": [None],
    "moe": [2 * 4 * 2 * 64 * 32 * 3],  # 8 x 2 pairs, half of them here, over 4 experts: 2 each
    "norm": [5 * 64, None],
}
"""Work of each row as its shape says; None where the script must leave it empty."""


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    for family, rows in ROWS.items():
        head = ["source", "device", "kernel", "dtype", *SCHEMAS[family].shape, "timing", "measured_s"]
        (tmp_path / f"{family}.csv").write_text("\n".join([",".join(head), *rows]) + "\n")
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_script_fills_what_torch_can(
    script: types.ModuleType, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shapes / "out"
    tables = sorted(map(str, shapes.glob("*.csv")))
    script.main([*tables, "--out", str(out), "--device", "A100-SXM-80GB"])
    told = capsys.readouterr()
    assert "CUDA out of memory" in told.err
    assert "and more" not in told.err
    for family, work in FILLED.items():
        rows = read(out / f"{family}.csv")
        times = [float(r["measured_s"]) if r["measured_s"] else None for r in rows]
        assert times == [None if w is None else pytest.approx(w / RATE, rel=1e-5) for w in work]
        assert {(r["source"], r["device"]) for r in rows if r["measured_s"]} <= {("torch-2.9.0", "A100-SXM-80GB")}
    (moe,) = read(out / "moe.csv")
    assert (moe["kernel"], moe["active_experts"], moe["distribution"]) == ("moe_experts", "4", "balanced")
    found, skipped = read_tables([out])
    assert {name: len(t) for name, t in found.items()} == {
        name: sum(w is not None for w in work) for name, work in FILLED.items()
    }
    assert len(skipped) == 5  # one line for the empty rows of a table
    assert f"{out / 'gemm.csv'}: 2 of 4 rows have a time" in told.out


def test_the_script_goes_on_and_leaves_its_input(script: types.ModuleType, shapes: Path) -> None:
    before = (shapes / "gemm.csv").read_bytes()
    line = [str(shapes / "gemm.csv"), "--out", str(shapes / "out")]
    script.main(line)
    first = (shapes / "out" / "gemm.csv").read_text()
    (shapes / "out" / "gemm.csv").write_text(first.replace("6.5536e-05", "1.25"))
    script.main(line)
    assert (shapes / "out" / "gemm.csv").read_text() == first.replace("6.5536e-05", "1.25")
    assert (shapes / "gemm.csv").read_bytes() == before
    assert not list(shapes.rglob("*.part"))


def test_the_script_says_what_it_lacks(script: types.ModuleType, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [str(shapes / "gemm.csv"), "--out", str(shapes / "out")]
    monkeypatch.setattr(sys.modules["torch"].cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        script.main(line)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="not installed"):
        script.main(line)
    assert not (shapes / "out").exists()


def test_the_script_is_printed_alone(ask: Ask) -> None:
    printed = ask("kernels", "measure-torch").out
    assert printed == measuring_script()
    assert "import opbyte" not in printed


# Tables that are filled in part, or have any name

HEAD = "source,device,kernel,dtype,m,n,k,batch,timing,measured_s"
FULL = [f"me,h100,gemm,bf16,{m},4096,4096,1,event,{4e-5 + m * 4e-8:.4g}" for m in range(16, 256, 16)]


def test_a_table_filled_in_part_is_one_line(ask: Ask, write: Write) -> None:
    empty = [row[: row.rindex(",") + 1] for row in FULL[8:]]
    path = write("gemm.csv", "\n".join([HEAD, *FULL[:8], *empty]) + "\n")
    done = ask("validate", "kernels", path)
    warning = f"{path}:10: measured_s is empty here and in 6 more of 15 rows: not measured yet"
    assert done.err == f"opbyte: warning: skipped {warning}\n"
    assert "gemm" in done.out
    path = write("gemm.csv", "\n".join([HEAD, *empty]) + "\n")
    for line in (("validate", "kernels", path), ("calibrate", path, "--device", "h100")):
        told = ask(*line).refused()
        assert f"{path}:2: measured_s is empty here and in 6 more of 7 rows" in told


def test_any_name_with_its_family(ask: Ask, write: Write) -> None:
    named = write("gemm.csv", "\n".join([HEAD, *FULL]) + "\n")
    other = write("my times.csv", named.read_text())
    assert "or add --family" in ask("validate", "kernels", other).refused()
    for command in (("validate", "kernels"), ("calibrate", "tables")):
        more = ("--device", "h100", "--date", "2026-01-31") if command[0] == "calibrate" else ()
        first = ask(*command, named, *more, "--json")
        second = ask(*command, other, *more, "--family", "gemm", "--json")
        assert first.out
        a, b = (x.out.replace(str(named), "").replace(str(other), "").partition('"made_by"')[0]
                for x in (first, second))  # fmt: skip
        assert a == b
    assert "did you mean 'gemm'?" in ask("validate", "kernels", other, "--family", "gem").refused()
    assert "cannot be used for a folder" in ask("validate", "kernels", named.parent, "--family", "moe").refused()


def test_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="at least one step"):
        kernel_shapes("llama-3-8b", "h100-x1", batches=(), prompts=())
