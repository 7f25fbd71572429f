"""Is every unusable model, device, trace or output folder one line, and nothing left behind?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.reference.kinds import TEMPLATES
from opbyte.devices.catalog import load_device
from opbyte.workloads.errors import MOST_SHOWN
from opbyte.workloads.specfile import SeveralErrors

from ..processes import environment
from .conftest import Ask

Write = Callable[[str, str | bytes], Path]

CONFIG = {
    "architectures": ["MixtralForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 1000,
    "max_position_embeddings": 64, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
OWN = "request_id,arrival_s,input_tokens,output_tokens\n"


def config(**changes: object) -> str:
    keys = {k: v for k, v in {**CONFIG, **changes}.items() if v is not ...}
    return json.dumps(keys)


MODELS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    # of many more: tests/workloads/test_hf_errors.py
    "not JSON": ("{num_hidden_layers: 2", ("config.json",)),
    "binary": (b"\xff\xfe\x00\x01", ("config.json", "UTF-8")),
    "deep": ("[" * 100_000, ("config.json",)),
    "key twice": (config()[:-1] + ', "vocab_size": 5}', ("config.json", "vocab_size")),
    "no layers": (config(num_hidden_layers=...), ("num_hidden_layers",)),
    "unknown class": (config(architectures=["MixtralForCausalLN"]),
                      ("MixtralForCausalLN", "share its keys: ", "MixtralForCausalLM (8 of 8)")),
    "very huge": (config(vocab_size=10**400), ("vocab_size",)),
    "format": (config(torch_dtype="float99"), ("torch_dtype", "float99")),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_bad_config(ask: Ask, write: Write, tmp_path: Path, name: str) -> None:
    content, parts = MODELS[name]
    path = write("model/config.json", content)
    for model in (path, path.parent):
        message = ask("inspect", model, "--json", "--out", tmp_path / "out").refused()
        for part in (str(tmp_path), *parts):
            assert part in message
    for command in ("roofline", "simulate"):
        assert ask(command, path, "--system", "h100-x1").refused() == message
    assert not (tmp_path / "out").exists()


def test_no_config(ask: Ask, tmp_path: Path) -> None:
    assert "config.json" in ask("inspect", tmp_path).refused()
    assert "no-such" in ask("inspect", tmp_path / "no-such/config.json").refused()


DEVICE = """\
name: mine
title: My device
memory:
  capacity_GiB: {value: 80, source: "the data sheet"}
  bandwidth_GBps: {value: 3000, source: "the data sheet"}
  usable_fraction: {value: 0.9, source: "assumed: vLLM's default"}
processors:
  xpu:
    kind: xpu
    peak_TFLOPS: {fp16: 900, bf16: 900, source: "the data sheet"}
    compute_efficiency: {value: 0.9, source: "assumed: as its kin"}
    memory_efficiency: {value: 0.9, source: "assumed: as its kin"}
    launch_us: {value: 2, source: "assumed: as its kin"}
    memory_pJ_per_bit: {value: 4, source: "assumed: as its kin"}
    compute_pJ_per_FLOP: {fp16: 0.4, bf16: 0.4, source: "assumed: as its kin"}
link: {name: wire, bandwidth_GBps: {value: 450, source: "the data sheet"}, latency_us: {value: 3, source: "the data sheet"}}
node_link: {name: net, bandwidth_GBps: {value: 50, source: "the data sheet"}, latency_us: {value: 5, source: "the data sheet"}}
"""

DEVICES = {
    # of many more: tests/devices/test_own_files.py
    "unknown key": (DEVICE.replace("launch_us", "lunch_us"), ("lunch_us", "did you mean")),
    "unit": (DEVICE.replace("capacity_GiB", "capacity_pounds"), ("capacity_pounds",)),
    "code": (DEVICE + "title: !!python/object/apply:os.system ['touch ran']\n", ("python",)),
    "no source": (DEVICE.replace(', source: "assumed: vLLM\'s default"', ""), ("source",)),
    "above one": (DEVICE.replace("value: 0.9,", "value: 1.5,"), ("fraction",)),
    "placement": (DEVICE + "placement: paper\n", ("placement is not part of a device", "mapping: {")),
    "missing": (DEVICE.replace("link: {name: wire", "wire: {name: wire"), ("wire", "link")),
    "binary": (b"\xff\xfe\x00", ("mine.yaml",)),
    "taken": (DEVICE.replace("name: mine", "name: h100"), ("h100", "catalog")),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nname: *b\n", ("mine.yaml",)),
}


@pytest.mark.parametrize("name", DEVICES)
def test_a_bad_device(ask: Ask, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    content, parts = DEVICES[name]
    path = write("mine.yaml", content)
    monkeypatch.chdir(tmp_path)
    for command in ("roofline", "simulate"):
        message = ask(command, "llama-3-8b", "--system", path, "--json").refused()
        for part in ("mine", *parts):
            assert part in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ("placement: xpu-onyl", ("mapping.placement of mine-x2", "did you mean 'xpu-only'")),
        ("splitter: best", ("mapping.splitter",)),
        ("splittr: paper", ("mapping.splittr", "did you mean 'splitter'")),
        ("prefill_share: 0.5", ("mapping.prefill_share", "has no source")),
        ("separate: 1", ("mapping.separate", "boolean")),
    ],
)
def test_a_bad_mapping(ask: Ask, write: Write, mapping: str, parts: tuple[str, ...]) -> None:
    path = write("sys.yaml", 'name: mine-x2\ndevice: h100\nmapping: {' + mapping + "}\n"
                 'devices_per_node: {value: 2, source: "assumed: two"}\n')  # fmt: skip
    message = ask("roofline", "llama-3-8b", "--system", path).refused()
    for part in parts:
        assert part in message


def test_all_that_is_wrong_with_a_file_is_said_at_once(ask: Ask, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding 14 of a trial: six runs for six errors; sources, missing and unknown keys, types. One line has the first."""
    text = DEVICE.replace("launch_us", "lunch_us").replace("node_link", "nod_link")
    text = text.replace('source: "assumed: vLLM\'s default"', "source: mine")
    text = text.replace('{value: 450, source: "the data sheet"}', "450")
    text = text.replace("fp16: 0.4", "fp16: low")
    monkeypatch.chdir(write("mine.yaml", text).parent)
    with pytest.raises(SeveralErrors) as caught:
        load_device("./mine.yaml")
    reasons = "; ".join(f"{e.subject}: {e.reason}" for e in caught.value.errors)
    for part in ("lunch_us: unknown key", "launch_us: is missing", "node_link: is missing", "nod_link: unknown key",
                 "source 'mine' is neither", "450 has no source", "compute_pJ_per_FLOP.fp16"):  # fmt: skip
        assert part in reasons
    said = ask("roofline", "llama-3-8b", "--system", "./mine.yaml").refused()
    assert len(said) <= MOST_SHOWN
    assert said.endswith("launch_us: is missing; and 4 more")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_names_lists_that_exist(ask: Ask, kind: str) -> None:
    """Finding 13 of a trial: a list that a template points to was an error."""
    for name in set(re.findall(r"opbyte list ([a-z-]+)", ask("init", kind).out)):
        assert ask("list", name).out


def test_the_device_above_is_good_unchanged(ask: Ask, write: Write) -> None:
    path = write("mine.yaml", DEVICE)
    found = ask("roofline", "llama-3-8b", "--system", path, "--json").json()
    assert found["system"] == "mine-x1"
    assert ask("roofline", "llama-3-8b", "--system", path, "--dtype", "fp32").refused()


TRACES: dict[str, tuple[str | bytes, str, tuple[str, ...]]] = {
    # name: (content, suffix of the place, parts); of many more: tests/workloads/test_requests_errors.py
    "missing column": (OWN.replace("output_tokens", "out"), ".csv:1", ("output_tokens",)),
    "truncated": (OWN + "0,0,1,1\n1,1,1", ".csv:3", ("3 cells",)),
    "all binary": (bytes(range(256)), ".csv", ()),
    "late": (OWN + "".join(f"{i},{i},10,2\n" for i in range(70_000)) + "x,70000,10,0\n",
             ".csv:70002", ("output_tokens",)),
    "too long for the memory": (OWN + "0,0,1,1\n1,0,2000000,1\n", "h100-x1",
                                ("request 1", "GiB available")),
}  # fmt: skip


@pytest.mark.parametrize("name", TRACES)
def test_a_bad_trace(ask: Ask, write: Write, tmp_path: Path, drawn: list[str], name: str) -> None:
    content, place, parts = TRACES[name]
    path, out = write("trace.csv", content), tmp_path / "out"
    command = "simulate", "llama-3-8b", "--system", "h100-x1", "--trace", path
    for more in ((), ("--json",), ("--seeds", "2")):
        message = ask(*command, *more, "--out", out).refused()
        for part in (place, *parts):
            assert part in message
        assert not out.exists()


def test_an_output_folder_that_cannot_be(ask: Ask, write: Write, tmp_path: Path) -> None:
    file = write("file", "in the way")
    for command in (
        ("list", "models"),
        ("inspect", "mixtral-8x7b"),
        ("roofline", "mixtral-8x7b", "--system", "h100-x4"),
        ("simulate", "llama-3-8b", "--system", "h100-x1", "--rate", "1"),
        ("simulate",),
    ):
        for out in (file, file / "below", "/proc/opbyte", "/dev/null/x", "x" * 300, "a\0b"):
            message = ask(*command, "--json", "--out", out).refused()
            assert message.startswith("--out ")
            assert "cannot be written" in message
    assert file.read_text() == "in the way"
    assert os.listdir(tmp_path) == ["file"]


RUN = ("simulate", "llama-3-8b", "--system", "h100-x1", "--rate", "9", "--requests", "9")


def test_a_file_that_cannot_be_replaced_leaves_all_as_it_was(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    out = tmp_path / "out"
    assert ask(*RUN, "--out", out).code == 0
    names = ["latency.png", "report.html", "requests.csv", "stages.csv", "summary.json", "timeline.json", "timing.json"]
    assert sorted(os.listdir(out)) == names
    before = (out / "requests.csv").read_bytes()
    (out / "stages.csv").unlink()
    (out / "stages.csv").mkdir()
    assert "stages.csv" in ask(*RUN, "--seed", "1", "--out", out).refused()
    assert sorted(os.listdir(out)) == names
    assert (out / "requests.csv").read_bytes() == before


def test_a_failing_figure_leaves_nothing(
    ask: Ask, tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(figure: object, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["opbyte.analysis.plots"], "save", full)
    out = tmp_path / "a/b"
    message = ask(*RUN, "--json", "--out", out).refused()
    assert "latency.png" in message
    assert "No space left" in message
    assert os.listdir(tmp_path) == []
    command = "roofline", "llama-3-8b", "--system", "h100-x1", "--batch", "9000", "--out", out
    assert "roofline.png" in ask(*command, "--context", "9000").refused()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Files may grow to 20 kB, requests.csv would be larger: the process sees a real failure."""
    code = (
        "import resource, signal, sys\n"
        "from opbyte.analysis.cli import main\n"
        "import opbyte.analysis.report.files as files\n"
        "files.write_report = lambda *a: None  # it comes first, and figures take seconds\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import opbyte.analysis.show.output as output\n"
        "make = output.OutputFolder.blocks\n"
        "def blocks(*a, **k):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "    return make(*a, **k)\n"
        "output.OutputFolder.blocks = blocks\n"
        "main(sys.argv[1:])\n"
    )
    command = [*RUN[:-1], "2000", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=100,
        env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("opbyte: error: ")
    assert "requests.csv: cannot be written (File too large)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []
