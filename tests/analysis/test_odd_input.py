"""Is odd input refused in one line, or answered: pipes, huge counts, spoilt tables, names with control characters?

The bound or the reason is the library's. Wrong command lines are in `refused.txt`.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.workloads.errors import visible
from opbyte.workloads.textfile import open_regular, read_regular

from ..processes import environment
from .conftest import Ask

S = "simulate llama-3-8b --system h100-x1"
SMALL = f"{S} --rate 20 --requests 20 --input-len 64 --output-len 8"
Write = Callable[[str, "str | bytes"], Path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(
    "line",
    ["simulate llama-3-8b --system h100-x1 --trace {}", "sweep {}",
     "roofline mixtral-8x7b --system duplex-x4 --routing trace:{}",
     "roofline llama-3-8b --system {}", "roofline {} --system h100-x1", "validate runs {}", "validate schedules {}"],
)  # fmt: skip
def test_pipes_and_devices_are_no_files(ask: Ask, tmp_path: Path, line: str) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for name in (pipe, "/dev/zero"):
        assert str(name) in ask(*line.format(name).split()).refused()


def test_files_are_read_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5, "x") == b"12345"
    with pytest.raises(Exception, match="larger than 0 MiB; not a description"):
        read_regular(path, 4, "a description")
    with pytest.raises(Exception, match="is a folder"):
        open_regular(tmp_path)


def test_too_many_experts(ask: Ask, write: Write) -> None:
    """640 GiB of probabilities, once; published models have up to 512."""
    text = (
        '{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 64, '
        '"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, '
        '"intermediate_size": 64, "vocab_size": 64, "num_local_experts": 100000000, '
        '"num_experts_per_tok": 2}'
    )
    refused = ask("roofline", write("config.json", text), "--system", "duplex-x4").refused()
    assert "num_local_experts: must be at most 16384" in refused


def test_counts_whose_sum_overflows(ask: Ask, write: Write) -> None:
    path = write("c.csv", "layer," + ",".join(f"e{i}" for i in range(8)) + "\n0" + ",1e308" * 8)
    line = ("roofline", "mixtral-8x7b", "--system", "duplex-x4", "--routing", f"trace:{path}")
    assert f"{path}:2: e0 '1e308' must be a number from 0 to 1e+18" in ask(*line).refused()


TINY = (
    '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, '
    '"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, '
    '"intermediate_size": 64, "vocab_size": 64}'
)
HEADER = "source,device,kernel,dtype,m,n,k,timing,measured_s\n"


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("a/b-1,rtx-4090,gemm,bf16,64,4096,4096,event,1e-15", "beats the device's roofline"),
        ("a/b-1,rtx-4090,gemm,bf16,64,4096,4096,event,1e6", "far above"),
        ("a/b-1,rtx-409,gemm,bf16,64,4096,4096,event,1e-4", "did you mean 'rtx-4090'"),
    ],
)
def test_kernel_tables_of_times_that_cannot_be(ask: Ask, write: Write, row: str, wrong: str) -> None:
    write("gemm.csv", HEADER + row + "\n")
    norm = "source,device,kernel,dtype,rows,cols,timing,measured_s\n"
    folder = write("norm.csv", norm + "a/b-1,rtx-4090,fused_add_rmsnorm,bf16,64,4096,event,1e-5\n").parent
    line = "simulate llama-3-8b --system rtx-4090-x1 --rate 2 --requests 2 --kernels"
    refused = ask(*line.split(), folder).refused()
    assert "gemm.csv" in refused
    assert wrong in refused


@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[31mred", "\u202eltr".encode()])
def test_names_that_a_terminal_must_not_get(ask: Ask, tmp_path: Path, name: bytes) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder.mkdir()
    (folder / "config.json").write_text(TINY)
    done = ask("roofline", folder, "--system", "h100-x1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (done.out, page):
        assert text == visible(text)


def test_an_encoding_without_a_name_s_letters(tmp_path: Path) -> None:
    folder = tmp_path / "Llamä"
    folder.mkdir()
    (folder / "config.json").write_text(TINY)
    env = environment(PYTHONIOENCODING="ascii")
    done = subprocess.run([sys.executable, "-m", "opbyte", "inspect", folder], env=env,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "Llam\\xe4" in done.stdout


def test_too_little_memory_is_one_line(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise MemoryError("Unable to allocate 640 GiB")

    monkeypatch.setattr("opbyte.analysis.answers.inspect.inspect", refuse)
    assert "too little memory (Unable to allocate 640 GiB)" in ask("inspect", "grok-1").refused()


def test_a_full_disk_is_not_blamed_on_standard_output(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("opbyte.analysis.answers.inspect.inspect", full)
    assert "cannot continue (No space left on device)" in ask("inspect", "grok-1").refused()


def test_misspelt_settings_of_an_engine_are_named(write: Write) -> None:
    text = '{"tensor_parallel_size": 1, "max_num_seq": 8, "vllm_version": "0.11", "x": 1}'
    (doubt,) = read_engine(write("engine.json", text)).doubts
    assert doubt.endswith("max_num_seq is not read; did you mean 'max_num_seqs'?")


def test_stamps_out_of_order_are_refused(write: Write) -> None:
    from opbyte.analysis.validate.serving import _requests
    from opbyte.workloads.errors import InputError

    head = "request_id,input_tokens,output_tokens,queued_s,first_token_s,last_token_s\n"
    path = write("requests.csv", f"{head}0,8,2,0,1,2\n1,8,2,0,1e6,3\n")
    with pytest.raises(InputError, match=r"requests.csv:3: first_token_s '1e6' lies after last_token_s"):
        _requests(path)


def test_what_is_known_is_said_once(ask: Ask) -> None:
    assert ask("init", "zzz").refused().count("known:") == 1


def test_a_cap_above_the_limit_says_nothing(ask: Ask) -> None:
    step = ("roofline", "llama-3.2-1b", "--system", "h100-x1", "--power-cap")
    assert ask(*step, "700").err == ""
    assert "capped at 500 W" in ask(*step, "500").err


def test_a_class_s_key_that_is_no_text(ask: Ask, write: Write) -> None:
    path = write("c.yaml", "chat: {share: 1, 5: 1}\n")
    assert "chat.5" in ask(*SMALL.split(), "--classes", path).refused()


def test_formats_as_vllm_spells_them(write: Write) -> None:
    assert read_engine(write("engine.json", '{"dtype": "float32"}')).dtype == "fp32"


KERNELS = "base: {kernel: best, model: llama-3.2-1b, system: h100-x1, batch: 2, context: 64}\n"


@pytest.mark.parametrize("objectives", ["", "[a]", "a", "true"])
def test_objectives_of_kernels_that_are_no_names(ask: Ask, write: Write, objectives: str) -> None:
    axes = "axes: {device.shared_memory_KiB: [228]}\n"
    path = write("s.yaml", f"{KERNELS}{axes}objectives: {objectives}\n")
    assert "objectives: must be a mapping" in ask("sweep", path).refused()


def test_a_device_s_number_that_is_none(ask: Ask, write: Write) -> None:
    path = write("s.yaml", f"{KERNELS}axes: {{device.shared_memory_KiB: [x, 228]}}\n")
    data = ask("sweep", path, "--json", "--out", path.parent / "out").json()
    assert (data["done"], data["failed"]) == (1, 1)
    assert "device.shared_memory_KiB: must be a number" in next(iter(data["errors"]))


NEAR = (
    "device,tokens,experts,topk,hidden,inter,block_m,block_n,block_k,group_m,warps,stages,measured_s\n"
    "H100-SXM-80GB,1,8,2,1024,512,16,64,64,1,4,3,7e-06\n"
)
SHAPES = (
    "device,tokens,experts,topk,hidden,inter,best_s,default_block_m,default_block_n,default_block_k,"
    "default_group_m,default_warps,default_stages,default_s,grid_median_s\n"
    "H100-SXM-80GB,1,8,2,1024,512,7e-06,16,32,64,1,4,3,{},1.3e-05\n"
)


@pytest.mark.parametrize(
    ("cell", "grid", "said"),
    [("8e-6", "16,128,128,1", "no times for the configurations"),
     ("0x1", "16,64,64,1", "fused_moe_shapes.csv:2: default_s '0x1' is not a number"),
     ("None", "16,64,64,1", "fused_moe_shapes.csv:2: default_s 'None' is not a number")],
)  # fmt: skip
def test_tables_of_configurations(ask: Ask, write: Write, cell: str, grid: str, said: str) -> None:
    write("k/fused_moe_near_best.csv", NEAR)
    write("k/fused_moe_shapes.csv", SHAPES.format(cell))
    folder = write("k/fused_moe_grid.csv", f"block_m,block_n,block_k,group_m\n{grid}\n").parent
    assert said in ask("validate", "configs", folder).err
