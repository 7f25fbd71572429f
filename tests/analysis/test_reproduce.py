"""Does `reproduce` judge fairly, and do the paper's orders come out of the engine?

Expected values: closed forms of the device constants, and orders the paper states (Duplex,
arXiv 2409.01141, sections III and VII). The whole experiment takes minutes and is run by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from opbyte.analysis.papers.duplex import figures, memory, own, queries, variants
from opbyte.analysis.papers.duplex import rows as duplex_rows
from opbyte.analysis.papers.duplex.cases import ET as FINAL
from opbyte.analysis.papers.duplex.cases import GPU, HETERO, PE, PLAIN, TWO, closed, fixed
from opbyte.analysis.papers.duplex.rows import HETERO_LENGTHS
from opbyte.analysis.papers.duplex.static import EDAP_AREAS, EDAP_DEVICES, area_mm2, edap, edap_rows, near_processor
from opbyte.analysis.papers.figures.duplex import DRAWN, GROUPS, OPS, draw
from opbyte.analysis.papers.points import Measured, Point, run_alike, run_point, system_of
from opbyte.analysis.papers.published import published, rows_of
from opbyte.analysis.reproduce import base
from opbyte.analysis.reproduce.base import FAIL, PASS, PREDICTION, Reproduction, Table, judged
from opbyte.analysis.reproduce.write import write_reproduction
from opbyte.analysis.show.output import OutputFolder
from opbyte.devices.device import build_device
from opbyte.workloads.errors import InputError


@pytest.mark.parametrize(
    ("published", "simulated", "tolerance", "status"),
    [
        (2.67, 2.80, "5 %", PASS),
        (2.67, 2.81, "5 %", FAIL),
        (-0.583, -0.62, "0.04", PASS),
        (-0.583, -0.63, "0.04", FAIL),
        (0.11, 0.109, "below", PASS),
        (0.11, 0.11, "below", FAIL),
        (1.0, 0.0, "0", FAIL),
        (None, 3.0, "", PREDICTION),
        (2.0, None, "5 %", FAIL),
    ],
)
def test_a_row_is_judged_by_its_tolerance(
    published: float | None, simulated: float | None, tolerance: str, status: str
) -> None:
    assert judged("x", "x", "1", published, simulated, tolerance).status == status


def test_device_counts_are_those_of_section_vi() -> None:
    assert system_of(closed("mixtral-8x7b", GPU, 32, 256, 0)).name == "duplex-gpu-x4"
    twice = system_of(closed("glam-143b", "duplex-2xgpu", 32, 256, 0))
    assert (twice.nodes, twice.devices_per_node) == (2, 8)
    assert system_of(closed("grok-1", FINAL, 32, 256, 0)).name == "duplex-2x8"


def test_edap_of_logic_pim_follows_its_closed_form() -> None:
    """At 1 Op/B the weights bound both time and energy: E D A from the spec's constants."""
    weights, inputs = 2 * 16384 * 4096, 2 * (16384 + 4096)
    seconds = (weights + inputs) / (4 * 3.352e12 * 0.85)
    joules = weights * 1.921 * 8e-12 + inputs * 3.591 * 8e-12 + 2 * 16384 * 4096 * 0.23e-12
    assert edap(PLAIN, 1) == pytest.approx(joules * seconds * 17.81, rel=1e-9)


def test_edap_by_three_areas() -> None:
    """By hand: nine dies of 121 mm2 and 17.81 mm2 of units a stack; five stacks and 814 mm2."""
    stack = 9 * 121 + 17.81
    areas = {"edap": 17.81, "edap_stack": stack, "edap_device": 814 + 5 * stack}
    assert set(areas) == set(EDAP_AREAS)
    for which, area in areas.items():
        assert area_mm2(PLAIN, which) == pytest.approx(area)
        assert edap(PLAIN, 4, which) == pytest.approx(edap(PLAIN, 4) / 17.81 * area)
    ids = [row.id for row in edap_rows()]
    assert len(ids) == len(set(ids)) == 3 * 3 * 6


def test_bank_pim_loses_its_edge_as_reuse_grows() -> None:
    """Section IV-B: in-bank units suit 1 Op/B, units on the logic die 1 to 32."""
    ratio = [edap(EDAP_DEVICES["bank"], n) / edap(EDAP_DEVICES["logic"], n) for n in (1, 2, 4, 8, 16, 32)]
    assert ratio == sorted(ratio)
    assert ratio[0] < 1 < ratio[-1]


@pytest.fixture(scope="module")
def small() -> dict[str, Measured]:
    """Mixtral, batch 32, lengths 256, on the four devices of Fig. 11."""
    return {d: run_point(closed("mixtral-8x7b", d, 32, 256, 0, "uniform")) for d in (GPU, PLAIN, PE, FINAL)}


def test_systems_that_share_their_draws_are_what_each_is_alone(small: dict[str, Measured]) -> None:
    """To the bit: also where a batch's prompts have experts of their own, and beside another seed's."""
    alike = [closed("mixtral-8x7b", d, 32, 256, 0, "uniform") for d in small]
    assert run_alike(alike) == list(small.values())
    skewed = [replace(p, routing="measured", seed=s, stop=96) for p in alike[::3] for s in (1, 2)]
    assert run_alike(skewed) == [run_point(p) for p in skewed]


def test_each_mechanism_adds_throughput(small: dict[str, Measured]) -> None:
    speeds = [small[d].output_tokens_per_s for d in (GPU, PLAIN, PE, FINAL)]
    assert speeds == sorted(speeds)


def test_duplex_saves_energy(small: dict[str, Measured]) -> None:
    assert small[FINAL].joules_per_token < small[GPU].joules_per_token


def test_energy_saving_grows_with_length() -> None:
    """Section VII-D. Seen at batch 128, where prompts weigh most."""

    def saving(length: int) -> float:
        gpu, final = (run_point(closed("mixtral-8x7b", d, 128, length, 0)) for d in (GPU, FINAL))
        return 1 - final.joules_per_token / gpu.joules_per_token

    assert saving(1024) > saving(256)


def test_the_share_of_mixed_stages_is_that_of_a_full_batch(small: dict[str, Measured]) -> None:
    """Closed form of a batch that stays full: 1 - (1 - 1/Lout)^B = 0.118 (facts of section II-C)."""
    assert small[GPU].mixed_share == pytest.approx(1 - (1 - 1 / 256) ** 32, rel=0.1)


def test_energy_by_layer_and_path_adds_up(small: dict[str, Measured]) -> None:
    for measured in small.values():
        assert sum(measured.joules.values()) == pytest.approx(measured.joules_per_token)


@pytest.mark.parametrize(
    ("prompt", "published"), [(own, published("duplex")["rows"][f"T21.l{own[0]}"]) for own in HETERO_LENGTHS]
)
def test_hetero_holds_the_batches_of_fig_5c(prompt: tuple[int, int], published: int) -> None:
    """T21: 101, 75 and 50 printed. Outputs cut to 64: what is admitted at once is the same."""
    point = replace(fixed(HETERO, 128, prompt[0] + prompt[1] - 64, 64), stop=60)
    assert abs(run_point(point).decodes - published) <= 1


@pytest.mark.parametrize("off", [0.8, 1.02, 1.3])
def test_the_highest_load_is_found(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    """Against a rule that says outright which loads are sustained, whatever an overloaded system completes."""
    limit = {GPU: 7, FINAL: 16, TWO: 63}
    asked: list[int] = []

    class Fake:
        def run(self, points: Iterable[Point]) -> None:
            asked.extend(1 for _ in points)

    def sustained(runner: object, device: str, qps: int, *_: object) -> tuple[bool, float]:
        return qps <= limit[device], min(qps, off * limit[device])

    monkeypatch.setattr(queries, "sustained", sustained)
    found = queries.highest(Fake(), [0], "uniform")  # type: ignore[arg-type]
    assert found == {"gpu": 7, "duplex": 16, "2xgpu": 63}
    assert len(asked) <= (13 if off == 1.02 else 30)


def test_changes_of_a_point_reach_its_system() -> None:
    point = replace(closed("mixtral-8x7b", FINAL, 32, 256, 0), latency_s=0.8e-6, efficiency=0.775)
    device = system_of(point).device
    assert device.link.latency_s == 0.8e-6
    assert {p.memory_efficiency for p in device.processors.values()} == {0.775}


OWN = """
extends: duplex
name: wide-pim
processors:
  logic-pim:
    bandwidth_multiple: {value: 8, source: "assumed: twice the TSVs"}
    mac_array: {modules_per_stack: 32, macs_per_module: 1024, clock_MHz: 650, source: "assumed: twice the MACs"}
    area_mm2: {tsv: 21.78, gemm_modules: 6.04, buffers: 2.26, softmax: 1.64, source: "assumed: twice the TSVs and MACs"}
"""


def test_a_newcomers_logic_pim_stands_on_the_same_table(tmp_path: Path) -> None:
    """Closed form: twice the MACs at 650 MHz; twice the bandwidth cannot make it slower."""
    path = tmp_path / "wide-pim.yaml"
    path.write_text(OWN)
    own.check(str(path))
    spec, name = near_processor(str(path))
    peak = build_device(spec).processors[name].peak["fp16"] / 5
    assert peak == pytest.approx(32 * 1024 * 2 * 650e6)
    point = closed("mixtral-8x7b", FINAL, 32, 256, 0)
    base, wide = (run_point(replace(point, device=d)) for d in (FINAL, str(path)))
    assert wide.output_tokens_per_s > base.output_tokens_per_s
    assert edap(str(path), 1) != edap(PLAIN, 1)


@pytest.mark.parametrize("device", ["duplex-gpu", "duplex-hetero", "nothing"])
def test_what_cannot_stand_there_is_refused(device: str) -> None:
    with pytest.raises(InputError):
        own.check(device)


def test_only_experiments_that_compare_take_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(seeds: object, routing: object, told: object) -> Reproduction:
        return Reproduction("plain", (), 0, 0.0)

    monkeypatch.setitem(base.EXPERIMENTS._items, "plain", plain)
    assert base.reproduce("plain", figures=True).experiment == "plain"
    with pytest.raises(InputError, match="--device"):
        base.reproduce("plain", device="duplex")


def test_written_results_hold_rows_tables_and_figures(tmp_path: Path) -> None:
    row = judged("T1", "peak", "TFLOPS", 21.3, 21.0, "0.5 %", "why")
    edap_rows = list(figures._edap())
    result = Reproduction(
        "duplex", (row,), 3, 1.0, tables=(Table("skew", "Skew", [{"a": 1.5, "b": "x|y"}], "n"),),
        assumptions=("3.0 us",), figures=(Table("fig08_edap", "EDAP", edap_rows),), plots="opbyte.analysis.papers.figures.duplex",
    )  # fmt: skip
    with OutputFolder(tmp_path) as files:
        write_reproduction(result, files)
    names = {p.name for p in tmp_path.iterdir()}
    written = {"rows.json", "table.md", "skew.csv", "fig08_edap.csv", "fig08_edap.png"}
    assert names == written | {"timing.json"}
    text = (tmp_path / "table.md").read_text()
    assert "| T1 | peak | 21.30 | 21.00 |" in text
    assert "x/y" in text
    assert "- 3.0 us" in text
    assert "T1: why" in "".join(str(b) for b in result.blocks())


def test_every_figure_draws() -> None:
    """From tables of the right columns with made-up values; looked at by hand when they change."""

    def rows(**columns: Sequence[object]) -> list[dict[str, object]]:
        names = list(columns)
        return [dict(zip(names, c, strict=True)) for c in itertools.product(*columns.values())]

    devices = ["Duplex", "Duplex+PE", "Duplex+PE+ET", "2xGPU"]
    metrics = list(figures.TIMES.values())
    pairs = [f"({i}, {o})" for i, o in figures.SHORT]
    tables = {
        "fig04a_time": rows(model=["a", "b"], batch=[32, 64], stage=["mixed", "decoding-only"],
                            group=list(GROUPS), share=[0.2]),
        "fig04b_roofline": rows(model=["a", "b"], batch=[32, 64], op=list(OPS), op_per_byte=[4.0],
                                utilisation=[0.01]),
        "fig05a_stages": rows(batch=[32, 64], length=[256], mixed=[0.1], formula=[0.11]),
        "fig05b_hetero": rows(lengths=pairs, metric=metrics, ratio=[2.0]),
        "fig05c_hetero": rows(lengths=pairs, gpu_batch=[128.0], hetero_batch=[101.0], ratio=[0.8]),
        "fig08_edap": list(figures._edap()),
        "fig11_throughput": rows(model=["a", "b"], batch=[32], length=[256, 512], device=devices,
                                 ratio=[1.5]),
        "fig12_latency": rows(length=[256, 512], metric=metrics, device=devices, ratio=[0.5]),
        "fig13_load": rows(device=["GPU", "2xGPU"], qps=[4, 5], completion_rate=[4.0],
                           tbt_p50_s=[0.01], tbt_p90_s=[0.02], t2ft_p50_s=[0.1]),
        "fig14_bankpim": rows(model=["a"], batch=[32], length=[256], device=["Bank-PIM"],
                              ratio=[1.2]),
        "fig15_energy": rows(model=["a"], batch=[32], length=[256], device=["GPU", "Duplex+PE+ET"],
                             group=["fc", "attention", "moe"], path=["dram", "compute"],
                             over_gpu=[0.1]),
        "fig16_split": rows(length=[1, 2, 3], metric=metrics, split_over_duplex=[0.5]),
    }  # fmt: skip
    drawn = draw({name: (name, pd.DataFrame(table)) for name, table in tables.items()})
    assert list(drawn) == list(tables) == list(DRAWN)
    for name, figure in drawn.items():
        assert figure.axes, name
        assert figure.axes[-1].get_xlabel() or name in ("fig12_latency", "fig16_split"), name


def test_a_points_memory_reaches_its_run() -> None:
    """The GPU's KV pages lie in pieces of 256 B, or as Duplex lays them out."""
    points = {case: next(p for p in memory.varied(case, 0, "uniform") if p.batch == 32) for case in memory.CASES}
    assert {p.device for p in points.values()} == {GPU}
    layouts = [system_of(p).device.memory.dram for p in points.values()]
    assert [layout.interleave_bytes for layout in layouts if layout] == [256, 256, 32_768]
    speeds = [run_point(p).output_tokens_per_s for p in points.values()]
    assert len(set(speeds)) == 3
    assert speeds[1] < speeds[2]


def test_the_headline_on_own_dram_reads_pairs_in_order() -> None:
    """Duplex twice as fast at three quarters of the energy, on every pair."""
    case = memory.OWN
    results = {
        p: SimpleNamespace(
            output_tokens_per_s=1.0 + (p.device == FINAL), joules_per_token=1.0 - 0.25 * (p.device == FINAL)
        )
        for case in memory.CASES
        for p in memory.varied(case, 0, "uniform")
    }
    found = memory.headline(results, case, 0, "uniform")  # type: ignore[arg-type]
    assert found["T3"] == found["T4"] == 2.0
    assert {name: value for name, value in found.items() if "T19" in name} == {
        "T19.mixtral": 0.25, "T19.glam": 0.25, "T19.grok": 0.25,
    }  # fmt: skip
    rows = memory.rows(results, 0, "uniform")  # type: ignore[arg-type]
    assert {row.status for row in rows} == {PREDICTION}
    moved, patterns = memory.tables(results, 0, "uniform")  # type: ignore[arg-type]
    assert [row["memory"] for row in moved.rows] == list(memory.CASES)
    gets = {(row["device"], row["on"], row["ops"]): row["gets"] for row in patterns.rows}
    assert gets["Duplex+PE+ET", "logic-pim", "experts"] < 0.85
    assert gets["Duplex+PE+ET", "logic-pim", "attention_decode"] > 0.85


def test_headline_of_variants_reads_pairs_in_order() -> None:
    """Speeds 1 and 2 on every pair of GPU and Duplex: largest and mean ratio are 2."""
    points = variants.varied(0, "uniform")

    class Fake(dict[Point, object]):
        pass

    speeds = Fake({p: SimpleNamespace(output_tokens_per_s=1.0 + (p.device == FINAL)) for p in points})
    found = variants._headline(speeds, points)  # type: ignore[arg-type]
    assert found["T3 (largest)"] == found["T4 (mean)"] == 2.0


@pytest.mark.parametrize(("growth", "holds"), [(0.01, 1.0), (0.0, 0.0), (-0.01, 0.0)])
def test_the_order_of_energy_is_judged_at_every_batch(growth: float, holds: float) -> None:
    """Made-up savings of 10 % that change by `growth` with each length."""

    class Fake:
        def ratios(self, models: Sequence[str], a: str, b: str, name: str) -> list[float]:
            return [0.9 - growth * (i % 3) for i in range(9 * len(models))]

    made = duplex_rows.energy(Fake())  # type: ignore[arg-type]
    found = {row.id: row for row in rows_of("duplex", made)}
    assert found["order.energy"].simulated == holds
    assert found["order.energy"].status == (PASS if holds else FAIL)
    assert found["T20"].simulated == pytest.approx(0.1 + growth)
