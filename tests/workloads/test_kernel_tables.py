"""Does the reader of kernel tables keep what is right and name what is wrong?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.kernel_tables import framework, read_tables

HEAD = "source,device,kernel,dtype,m,n,k,batch,timing,measured_s"
GOOD = "lab,h100,gemm,bf16,64,4096,4096,1,graph,1e-5"
MORE = GOOD.replace(",64,", ",128,")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_good_rows_are_read_with_their_lines(tmp_path: Path) -> None:
    tables, skipped = read_tables([write(tmp_path / "gemm.csv", HEAD, GOOD, MORE)])
    assert not skipped
    assert tables["gemm"].line.tolist() == [2, 3]
    assert tables["gemm"]["m"].tolist() == [64.0, 128.0]


def test_lines_are_counted_over_comments_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "gemm.csv", "# made by hand", HEAD, GOOD, "", MORE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()[15:])
    tables, skipped = read_tables([path])
    assert not skipped
    assert tables["gemm"].line.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (GOOD.replace("1e-5", "0"), "measured_s is '0', not a positive number"),
        (GOOD.replace("1e-5", "-1e-5"), "measured_s"),
        (GOOD.replace("1e-5", "fast"), "measured_s is 'fast'"),
        (GOOD.replace("1e-5", "nan"), "measured_s"),
        (GOOD.replace("1e-5", ""), "measured_s"),
        (GOOD.replace(",64,", ",-64,"), "m is '-64'"),
        (GOOD.replace(",gemm,", ",gem,"), "unknown kernel 'gem'; did you mean 'gemm'?"),
        (GOOD.replace("bf16", "bf17"), "unknown dtype 'bf17'"),
        (GOOD.replace("graph", "guess"), "unknown timing 'guess'"),
        (GOOD.replace("1e-5", "inf"), "measured_s is 'inf', not a positive number"),
        (GOOD.replace(",64,", ",64.5,"), "m is '64.5', not a whole number"),
        (GOOD, "repeats line 2"),
        (GOOD + ",7", "row has 11 cells where the header has 10"),
        ("lab,h100", "row has 2 cells"),
        ('"lab', "is not a CSV row"),
    ],
)
def test_a_bad_row_is_named_and_left_out(tmp_path: Path, bad: str, says: str) -> None:
    path = write(tmp_path / "gemm.csv", HEAD, GOOD, bad, MORE)
    tables, skipped = read_tables([path])
    assert tables["gemm"].line.tolist() == [2, 4]
    assert len(skipped) == 1
    assert str(skipped[0]).startswith(f"{path}:3: ")
    assert says in skipped[0].reason


def test_a_file_without_its_columns_is_skipped_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "gemm.csv", HEAD.replace(",k,", ",depth,"), GOOD)
    tables, skipped = read_tables([path])
    assert not tables
    assert str(skipped[0]) == f"{path}: lacks the columns k"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (HEAD + "\n", "has no rows"),
        (f"{HEAD}\n{GOOD}\n".replace(",", ";"), "fields are separated by ';'; use commas"),
        (f"{HEAD}\n{GOOD}\n".replace(",", "\t"), "fields are separated by '\\t'; use commas"),
    ],
)
def test_a_file_without_a_table_is_skipped_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "gemm.csv"
    path.write_text(text)
    tables, skipped = read_tables([path])
    assert not tables
    assert str(skipped[0]).startswith(f"{path}: ")
    assert says in skipped[0].reason


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ((HEAD + "\n" + GOOD).encode("utf-16"), "is not UTF-8 text"),
        (HEAD.replace("batch", "m").encode(), "column 'm' appears twice"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "gemm.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_tables([path])


@pytest.mark.parametrize("name", ["gemn.csv", "missing/gemm.csv"])
def test_a_path_that_is_no_table_is_refused(tmp_path: Path, name: str) -> None:
    if "/" not in name:
        write(tmp_path / name, HEAD, GOOD)
    with pytest.raises(InputError, match=name.rpartition("/")[2]):
        read_tables([tmp_path / name])


def test_layer_profiles_of_serving_runs_are_read(tmp_path: Path) -> None:
    write(tmp_path / "gemm.csv", "source,device,op,dtype,m,n,k,measured_s",
          "sim,rtx-4090,qkv_proj,bf16,1,6144,4096,5e-5")  # fmt: skip
    write(tmp_path / "elementwise.csv", "source,device,op,dtype,tokens,width,measured_s",
          "sim,rtx-4090,layernorm,bf16,1,4096,3e-6", "sim,rtx-4090,sampler,bf16,1,4096,3e-6")  # fmt: skip
    tables, skipped = read_tables([tmp_path])
    assert tables["gemm"]["kernel"].tolist() == ["gemm"]
    assert tables["norm"]["kernel"].tolist() == ["fused_add_rmsnorm"]
    assert tables["norm"]["rows"].tolist() == [1.0]
    assert [s.line for s in skipped] == [3]


def test_the_framework_of_a_source() -> None:
    assert framework("aiconfigurator/vllm-0.24.0") == "aiconfigurator/vllm"
    assert framework("vidur/Llama-2-7b") == "vidur"
    assert framework("aiter") == "aiter"


def test_all_measured_rows_are_read_in_seconds(data_set: Callable[[str], Path]) -> None:
    folder = data_set("measured")
    began = time.perf_counter()
    tables, skipped = read_tables([folder])
    assert time.perf_counter() - began < 10  # about 0.5 s on an idle machine
    read = sum(len(table) for table in tables.values())
    assert read + len(skipped) == 36077  # its README
    assert len(skipped) == 30  # TensorRT-LLM's nvfp4 experts of a B200
    assert all("means of two kernels" in str(row) for row in skipped)
