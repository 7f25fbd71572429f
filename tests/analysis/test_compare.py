"""Does one comparison hold for all device kinds, and does it agree with what it is made of?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from opbyte.analysis.answers.compare import compare
from opbyte.analysis.answers.roofline import roofline
from opbyte.analysis.plots.bars import comparison
from opbyte.devices.catalog import load_device
from opbyte.simulator.fpga.deploy import deploy_fpga
from opbyte.simulator.fpga.frames import run_image
from opbyte.workloads.catalog import load_model

from .conftest import Ask

ALL = "h100-x1,duplex-x1,logic-pim-x1,zcu104-x1"


def test_layouts_and_kernels_are_told_and_why_on_request(ask: Ask) -> None:
    """Never in silence: each system's layout, whose kernels, and a line of evidence; with ``--why`` a table."""
    args = ("compare", "mixtral-8x7b", "--systems", "h100-x4,duplex-x4", "--batch", "8")
    short = ask(*args).out
    assert "Layouts: h100-x4 tp 4, dp 1, ep 4, op-per-byte, vllm's kernels; duplex-x4 tp " in short
    assert "no engine's kernels (--framework)" in short
    assert short.count("is based on") == 2
    assert short.count("More: --why.") == 1
    long = ask(*args[:3], "h100-x4", "--framework", "vllm", "--why").out
    assert "op-per-byte, vllm's kernels (--framework)." in long
    assert "is based on" not in long
    assert "family" in long
    row = ask(*args, "--json").json()["rows"][0]
    assert row["layout"] == "tp 4, dp 1, ep 4, op-per-byte"


def test_an_encoder_on_every_kind(ask: Ask) -> None:
    data = ask("compare", "m3vit-pascal", "--systems", ALL, "--json").json()
    assert {"model", "rows", "item", "images", "mean_queue"} <= set(data)
    rows = {row["system"]: row for row in data["rows"]}
    assert [row["kinds"] for row in rows.values()] == [["xpu"], ["xpu", "logic-pim"], ["logic-pim"], ["fpga"]]
    assert data["mean_queue"] == pytest.approx(4 * 1025 / 16)
    for row in rows.values():
        assert row["fits"]
        assert row["latency_s"] > 0
        assert row["items_per_s"] == pytest.approx(1 / row["latency_s"])
        assert row["joules_per_item"] == row["joules"] > 0
        assert {"attention", "moe", "ffn"} <= {part["layer"] for part in row["layers"]}
        assert {part["bound"] for part in row["layers"]} <= {"compute", "memory", "latency"}
    # M3ViT's finding: the GPU is faster in time.
    assert rows["h100-x1"]["latency_s"] < rows["zcu104-x1"]["latency_s"]


def test_rows_agree_with_what_they_are_made_of() -> None:
    result = compare("m3vit-pascal", ["zcu104-x1"])
    frame = run_image(deploy_fpga(load_model("m3vit-pascal"), load_device("zcu104")[0]))
    (row,) = result.table
    assert row.latency_s == pytest.approx(frame.cycles / 300e6)
    assert row.joules == pytest.approx(10 * frame.cycles / 300e6)
    assert sum(x.seconds for x in row.layers) == pytest.approx(row.latency_s, rel=1e-6)
    decode = compare("mixtral-8x7b", ["duplex-x4"], batch=64, context=512).table[0]
    step = roofline("mixtral-8x7b", "duplex-x4", batch=64, context=512)
    assert decode.latency_s == pytest.approx(step.step_seconds)
    assert decode.joules == pytest.approx(step.step_joules + decode.static_joules)


@pytest.mark.parametrize("system", ["h100-x1", "mi300x-x1", "tpu-v6e-x4"])
def test_a_step_is_equally_sure_whichever_command_costs_it(system: str) -> None:
    """The default kernels are an engine's, so its errors count in both commands, as where it is named."""
    (row,) = compare("qwen3-30b-a3b", [system], batch=64, context=512).table
    step = roofline("qwen3-30b-a3b", system, batch=64, context=512)
    assert step.sure == row.interval
    if step.engine[0]:
        assert step.sure == roofline("qwen3-30b-a3b", system, batch=64, context=512, framework=step.engine[0]).sure


def test_rooflines_do_not_depend_on_caches() -> None:
    """Devices with kernel models are costed by rooflines too with --costs roofline; without, they get no note."""
    compared = [compare("llama-3-8b", ["h100-x1", "mi300x-x1"], costs=costs) for costs in ("auto", "roofline")]
    assert [c.notes for c in compared] == [
        (),
        ("caches of 50 to 256 MiB: the roofline cost model does not see cache_MiB",),
    ]


def test_mixed_bases_are_said_aloud(ask: Ask) -> None:
    """Finding 4 of a trial: a speed-up that is a change of cost model must not look like a device's."""
    mixed = ask("compare", "mixtral-8x7b", "--systems", "h100-x4,h100-logic-pim-x4,duplex-x4").out
    times, energy = (line for line in mixed.splitlines() if line.startswith("NOT LIKE FOR LIKE"))
    assert "h100-x4 on kernel models fitted to measurements; h100-logic-pim-x4 on" in times
    assert "fitted to measurements, logic-pim on rooflines with assumed efficiencies" in times
    assert "duplex-x4 on rooflines with assumed efficiencies" in times
    assert "h100-x4, h100-logic-pim-x4 on the power model of a whole board; duplex-x4 on" in energy
    alike = ask("compare", "mixtral-8x7b", "--systems", "h100-x4,h200-x4")
    assert "NOT LIKE FOR LIKE" not in alike.out


def test_mixed_bases_are_said_of_a_sweep_and_its_front(ask: Ask, tmp_path: Path) -> None:
    study = tmp_path / "mixed.yaml"
    study.write_text(
        "base: {model: llama-3-8b, requests: 8, input_len: 32, output_len: 8, rate: 4}\n"
        "axes: {system: [h100-x1, duplex-x1]}\nobjectives: {output_tokens_per_s: max}\n"
    )
    assert ask("sweep", study, "--out", tmp_path / "out").out.count("NOT LIKE FOR LIKE") == 2


def test_a_decode_layer_on_hbm_boards(ask: Ask) -> None:
    """At one token an FPGA with HBM is bound by it: weights over 65.9 % of 460 GB/s."""
    data = ask("compare", "mixtral-8x7b", "--systems", "h100-x1,u280-x1,u55c-x1", "--layers", 1,
               "--batch", 1, "--context", 0, "--json").json()  # fmt: skip
    assert data["layers"] == 1
    for row in data["rows"][1:]:
        moe = next(part for part in row["layers"] if part["layer"] == "moe")
        weights = 2 * 3 * 4096 * 14336 * 2  # top-2 experts at 16 bit
        assert moe["bound"] == "memory"
        assert moe["seconds"] == pytest.approx(weights / (0.659 * 460e9), rel=0.06)


def test_a_model_that_does_not_fit_says_so(ask: Ask) -> None:
    answer = ask("compare", "mixtral-8x7b", "--systems", "h100-x4,u280-x1,zcu102-x1")
    assert answer.code == 0
    assert "u280-x1 left out" in answer.out
    data = ask("compare", "mixtral-8x7b", "--systems", "h100-x1,u280-x1", "--json").json()
    for row in data["rows"]:
        assert not row["fits"]
        assert "needs" in row["reason"]
        assert "available" in row["reason"]
        assert row["latency_s"] is None
    cached = compare("mixtral-8x7b", ["u280-x1"], layers=1, schedule="cache").table[0]
    assert "schedule cache does not fit: needs 1352" in cached.reason
    batch = compare("llama-2-7b", ["h100-x1"], batch=4000, context=4000)
    assert "KV cache of 4,000 sequences does not fit" in batch.table[0].reason
    copied = compare("deepseek-v3", ["b200-x8"], batch=64, context=65536, dtype="fp8")  # fits with --dp 8 --tp 1
    assert "try more --dp" in copied.table[0].reason
    assert copied.rows()[0]["GiB per replica"] == "901.27 of 1,289.2"  # finding U16: it is of one copy alone


def test_break_even_queues(ask: Ask) -> None:
    data = ask("compare", "m3vit-pascal", "--systems", "h100-x1,zcu104-x1", "--json").json()
    gpu, fpga = (row["break_even"][0] for row in data["rows"])
    assert fpga["tokens"] == fpga["weights_only_tokens"] == pytest.approx(48, rel=0.01)
    assert gpu["weights_only_tokens"] == pytest.approx(989.4e12 * 0.8 / (3352e9 * 0.85), rel=1e-6)
    assert gpu["tokens"] is None  # its activations alone are below the ridge


def test_several_images_and_boards() -> None:
    one, four, two = (
        compare("edge-moe-cityscapes", [system], images=images).table[0]
        for system, images in (("zcu102-x1", 1), ("zcu102-x1", 4), ("zcu102-x2", 4))
    )
    assert four.latency_s == pytest.approx(4 * one.latency_s, rel=0.01)
    assert two.latency_s == pytest.approx(2 * one.latency_s, rel=0.01)
    assert two.joules == pytest.approx(4 * one.joules, rel=0.01)


def test_files_and_the_figure(ask: Ask, tmp_path: Path) -> None:
    ask("compare", "edge-moe-cityscapes", "--systems", "h100-x1,zcu102-x1,zcu104-x1", "--out", tmp_path)
    assert {"compare.png", "compare.json"} <= {path.name for path in tmp_path.iterdir()}


def test_what_the_figure_shows() -> None:
    rows = pd.DataFrame(
        [("a", "xpu", True, 1e-3, 0.1), ("b", "fpga", True, 1e-1, 0.2), ("c", "fpga", False, None, None)],
        columns=["system", "kinds", "fits", "latency_s", "joules_per_item"],
    )
    layers = pd.DataFrame(
        [("a", "moe", 1e-3, "memory"), ("b", "attention", 3e-2, "compute"), ("b", "moe", 7e-2, "compute")],
        columns=["system", "layer", "seconds", "bound"],
    )
    figure = comparison(rows, layers, "title", "image")
    time, energy, share = figure.axes[:3]
    for axes in (time, energy):
        assert [p.get_gid() for p in axes.patches].count("bar") == 2
    shares = [p for p in share.patches if p.get_gid() == "share"]
    assert sorted(p.get_width() for p in shares) == pytest.approx([30, 70, 100])
    assert shares[0].get_hatch() == "////"
    assert any(text.get_text() == "does not fit" for text in time.texts)
    empty = comparison(rows.iloc[2:], layers.iloc[:0], "title", "image")
    assert any("No system fits" in text.get_text() for text in empty.axes[2].texts)


@pytest.mark.parametrize("schedule", ["reordered", "cache"])
def test_frames_command(ask: Ask, tmp_path: Path, schedule: str) -> None:
    arguments = ("frames", "edge-moe-cityscapes", "--system", "zcu102-x1", "--images", 4,
                 "--tasks", "random", "--rate", 20, "--schedule", schedule)  # fmt: skip
    data = ask(*arguments, "--json", "--out", tmp_path).json()
    assert data["images"] == 4
    assert data["joules"] == pytest.approx(14.54 * data["makespan_s"])
    assert sum(unit["share"] for unit in data["units"]) == pytest.approx(1, abs=1e-3)
    assert {"frames.csv", "summary.json"} <= {path.name for path in tmp_path.iterdir()}
    table = (tmp_path / "frames.csv").read_bytes()
    ask(*arguments, "--out", tmp_path)
    assert (tmp_path / "frames.csv").read_bytes() == table


def test_boards_are_listed(ask: Ask) -> None:
    names = ask("list", "devices", "--json").json()["names"]
    assert {"zcu104", "zcu102", "u280", "u55c", "vck190"} <= set(names)


@pytest.mark.parametrize(
    ("device", "dtype", "framework"),
    [
        ("h100", "nvfp4", "trtllm"),
        ("mi300x", "nvfp4", "trtllm"),
        ("l40s", "mxfp4_fp4", "vllm"),
        ("a100", "fp8", "vllm"),
    ],
)
def test_weights_in_a_format_that_a_device_lacks_are_multiplied_in_16_bits(
    device: str, dtype: str, framework: str
) -> None:
    """No product may exceed the peak of the format it is computed in, and 16-bit weights take as long if they fit."""
    options = {"batch": 0, "prefill": 8192, "framework": framework}
    op = next(op for op in roofline("llama-3.1-8b", f"{device}-x1", dtype=dtype, **options).ops if op.name == "gate_up")
    assert op.dtype == "bf16"
    assert op.flops / op.seconds < load_device(device)[0].processors["xpu"].peak_flops_per_s["bf16"]
