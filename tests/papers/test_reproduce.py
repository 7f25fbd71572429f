"""Does `reproduce` judge fairly, and do the paper's orders come out of the engine?

Expected values: closed forms of the device constants, and orders the paper states (Duplex,
arXiv 2409.01141, sections III and VII). The whole experiment takes minutes and is run by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from opbyte.analysis.papers.duplex import figures, own, variants
from opbyte.analysis.papers.duplex import rows as duplex_rows
from opbyte.analysis.papers.duplex.cases import ET as FINAL
from opbyte.analysis.papers.duplex.cases import GPU, HETERO, PE, PLAIN, SPLIT, Means, closed, fixed, poisson
from opbyte.analysis.papers.duplex.rows import HETERO_LENGTHS
from opbyte.analysis.papers.duplex.static import EDAP_OPS, area_mm2, edap, edap_rows, near_processor
from opbyte.analysis.papers.figures.duplex import DRAWN, ENERGY, draw
from opbyte.analysis.papers.points import Measured, requests_of, run_point, system_of, that_fits
from opbyte.analysis.papers.published import published, rows_of
from opbyte.analysis.reproduce import base
from opbyte.analysis.reproduce.base import FAIL, PASS, PREDICTION, Reproduction, Table, judged, write_reproduction
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
    """At 1 Op/B the weights bound both time and energy: E D A from the spec's constants.

    By hand: nine dies of 121 mm2 and 17.81 mm2 of units a stack; five stacks and 814 mm2.
    """
    weights, inputs = 2 * 16384 * 4096, 2 * (16384 + 4096)
    seconds = (weights + inputs) / (4 * 3.352e12 * 0.85)
    joules = weights * 1.921 * 8e-12 + inputs * 3.591 * 8e-12 + 2 * 16384 * 4096 * 0.23e-12
    assert area_mm2(PLAIN) == pytest.approx(814 + 5 * (9 * 121 + 17.81))
    assert edap(PLAIN, 1) == pytest.approx(joules * seconds * area_mm2(PLAIN), rel=1e-9)


def test_edap_is_that_of_fig_8() -> None:
    """Eighteen printed values, one row each; the worst design of an Op/B is 1."""
    rows = rows_of("duplex", edap_rows())
    assert len({row.id for row in rows}) == 3 * 6
    assert {row.status for row in rows} == {PASS}
    assert [row.simulated for row in rows].count(1.0) == len(EDAP_OPS)


@pytest.fixture(scope="module")
def small() -> dict[str, Measured]:
    """Mixtral, batch 32, lengths 256, on the four devices of Fig. 11."""
    return {d: run_point(closed("mixtral-8x7b", d, 32, 256, 0, "uniform")) for d in (GPU, PLAIN, PE, FINAL)}


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


def test_the_highest_load_is_below_the_rate_of_full_engines() -> None:
    """Poisson arrivals below that rate complete as they come; above it, full engines complete what they can."""
    rate = run_point(duplex_rows.full(GPU, [0], "uniform")[0]).completion_rate
    below, above = (run_point(poisson(GPU, round(rate * share), 0, "uniform")) for share in (0.8, 1.5))
    assert below.completion_rate == pytest.approx(round(rate * 0.8), rel=0.02)
    assert below.t2ft_p50 < 0.1
    assert above.t2ft_p50 > 10
    assert above.completion_rate == pytest.approx(rate, rel=0.03)
    results = defaultdict(lambda: SimpleNamespace(completion_rate=7.0))
    rows = duplex_rows.loads(Means(results, [0], "uniform"))  # type: ignore[arg-type]
    assert {row.value for row in rows} == {6.0}


def test_a_closed_loop_has_no_more_requests_than_fit() -> None:
    """As many as `fixed` requests of the mean length run at once; the batch of Fig. 16 and a dense model's."""
    split, opt = closed("mixtral-8x7b", SPLIT, 128, 4096, 0), closed("opt-66b", FINAL, 128, 1024, 0)
    assert that_fits(split).batch == run_point(fixed(SPLIT, 128, 4096, 4096)).decodes
    # (4 x 80 GiB - 2 B x 66 billion parameters) / (2,047 tokens x 2 x 9,216 x 64 layers x 2 B)
    assert that_fits(opt).batch == pytest.approx((320 * 2**30 - 2 * 65.7e9) / (2047 * 2 * 9216 * 64 * 2), abs=1)
    assert that_fits(replace(opt, batch=32)).batch == 32


@pytest.mark.parametrize("length", [256, 4096])
def test_a_closed_loop_starts_as_the_warm_up_leaves_it(length: int) -> None:
    """10,000 stages are many generations of short outputs, and fewer than three of long ones, which end in a wave."""
    point = closed("mixtral-8x7b", GPU, 128, length, 0)
    requests = pd.DataFrame(requests_of(point))
    first, later = requests[:128], requests[128:]
    left = first["num_decode_tokens"] / length
    assert left.min() > 0
    assert left.std() > 0.25 if length == 256 else left.std() < 0.06
    whole = first["num_prefill_tokens"] - length + first["num_decode_tokens"]
    assert whole.mean() == pytest.approx(length * (1 + (0.4 * 256 / length) ** 2), rel=0.05)  # long ones run longer
    assert later["num_prefill_tokens"].mean() == pytest.approx(length, rel=0.05)
    assert len(later) >= point.stop


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
    """From the tables of runs that are all alike; looked at by hand when they change."""
    alike = defaultdict(lambda: Measured(*[1.0] * 10, dict.fromkeys(ENERGY, 0.1)))
    tables = figures.tables(Means(alike, [0], "uniform"))  # type: ignore[arg-type]
    drawn = draw({table.name: (table.title, pd.DataFrame(table.rows)) for table in tables})
    assert list(drawn) == list(DRAWN)
    for name, figure in drawn.items():
        assert figure.axes, name
        assert figure.axes[-1].get_xlabel() or name in ("fig12_latency", "fig16_split"), name


def test_a_points_memory_reaches_its_run() -> None:
    """The GPU's KV pages lie in pieces of 256 B, or as Duplex lays them out."""
    cases = variants.ASSUMED, variants.OWN, variants.ALIKE
    points = [next(p for p in variants.varied(case, 0, "uniform") if p.batch == 32) for case in cases]
    assert {p.device for p in points} == {GPU}
    layouts = [system_of(p).device.memory.dram for p in points]
    assert [layout.interleave_bytes for layout in layouts if layout] == [256, 256, 32_768]
    speeds = [run_point(p).output_tokens_per_s for p in points]
    assert len(set(speeds)) == 3
    assert speeds[1] < speeds[2]


def test_the_headline_reads_pairs_in_order() -> None:
    """Duplex twice as fast at three quarters of the energy, on every pair."""
    results = {
        p: SimpleNamespace(
            output_tokens_per_s=1.0 + (p.device == FINAL), joules_per_token=1.0 - 0.25 * (p.device == FINAL)
        )
        for p in variants.points(0, "uniform")
    }
    found = variants.headline(results, variants.OWN, 0, "uniform")  # type: ignore[arg-type]
    assert {name: value for name, value in found.items() if "T19" in name} == {
        "T19.mixtral": 0.25, "T19.glam": 0.25, "T19.grok": 0.25,
    }  # fmt: skip
    assert {value for name, value in found.items() if "T19" not in name} == {2.0}
    rows = variants.rows(results, 0, "uniform")  # type: ignore[arg-type]
    assert {row.status for row in rows} == {PREDICTION}
    moved, patterns = variants.tables(results, 0, "uniform")  # type: ignore[arg-type]
    assert [row["case"] for row in moved.rows] == list(variants.CASES)
    gets = {(row["device"], row["on"], row["ops"]): row["gets"] for row in patterns.rows}
    assert gets["Duplex+PE+ET", "logic-pim", "experts"] < 0.85
    assert gets["Duplex+PE+ET", "logic-pim", "attention_decode"] > 0.85


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
