"""Are area, power and cost of chips those that are published, where the chip was not fitted?

Expected values: die sizes (NVIDIA, AMD, annotated photos), power limits of datasheets, LLMCompass (ISCA 2024)
and Duplex (MICRO 2024, section VII-E).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opbyte import roofline
from opbyte.analysis.answers.description import describe, spaces
from opbyte.analysis.studies.design import design_describe
from opbyte.analysis.studies.design.describe import device_of
from opbyte.devices.catalog import load_device
from opbyte.devices.silicon.area import area_model, parts_of
from opbyte.devices.silicon.constants import Die, constants
from opbyte.devices.silicon.describe import CACHE, dies_per_wafer, power_law, silicon_of


def size(die: Die) -> float:
    return sum(parts_of(die).values())


def test_dies_left_out_of_the_fit_are_within_15_percent_but_for_two() -> None:
    errors = area_model().left_out
    missed = {name for name, error in errors.items() if abs(error) > 0.15}
    assert missed == {"gv100", "aldebaran"}  # the miss is kept: +20 % and -16 %
    assert max(map(abs, errors.values())) < 0.21
    assert area_model().spread < 0.10


def test_dies_that_were_never_fitted() -> None:
    known = constants().dies
    errors = {n: size(d) / d.area_mm2 - 1 for n, d in known.items() if not d.fitted and d.area_mm2}
    assert set(errors) == {"gb100", "xcd", "iod", "gb202"}
    # Misses, kept: a compute die of MI300X 62 % too large, its I/O die 51 % too small (-8 % in all:
    # the errors cancel, so its area says little), GB100 16 % too small.
    assert {n for n, e in errors.items() if abs(e) > 0.15} == {"gb100", "xcd", "iod"}
    assert max(map(abs, errors.values())) < 0.65


def test_changes_of_ga100_as_llmcompass_has_them() -> None:
    """Table of its section on buffers: +5.8 % from 64 to 192 KB, L2 +9.6 % and +11.7 %; two designs."""
    ga100 = constants().dies["ga100"]
    assert size(replace(ga100, local=192 / 1024)) / size(replace(ga100, local=64 / 1024)) == pytest.approx(
        1.058, abs=0.01
    )
    cache = [size(replace(ga100, cache=mb)) for mb in (10, 40, 80)]
    assert cache[1] / cache[0] == pytest.approx(1.096, abs=0.02)
    assert cache[2] / cache[1] == pytest.approx(1.117, abs=0.02)
    latency = replace(ga100, cores=64, cache=24)
    assert size(latency) / size(ga100) == pytest.approx(1 - 0.421, abs=0.01)
    assert size(latency) == pytest.approx(478, rel=0.10)
    throughput = replace(ga100, cores=64, macs=4096, local=768 / 1024, hbm=0)
    assert size(throughput) + 256 * (0.64 + 0.056) == pytest.approx(787, rel=0.10)
    assert constants().nodes["N7"].wafer_USD / dies_per_wafer(478) == pytest.approx(80, abs=1)


def test_duplex_is_what_the_paper_prints() -> None:
    near = silicon_of(load_device("logic-pim")[0]).area_mm2
    assert near.value is not None
    assert near.value / 5 == pytest.approx(17.80, abs=0.02)
    duplex, gpu = (silicon_of(load_device(n)[0]) for n in ("duplex", "duplex-gpu"))
    assert duplex.area_mm2.value == pytest.approx(gpu.area_mm2.value + near.value)
    assert gpu.watts.value == pytest.approx(700, rel=0.15)
    for name in ("duplex-bankpim", "duplex-bankgroup"):  # the catalog's own scaling, by hand
        spec = load_device(name)[0]
        told = sum(sum(p.area_mm2.values()) for p in spec.processors.values() if p.area_mm2)
        found = silicon_of(spec).area_mm2.value - gpu.area_mm2.value
        assert found / spec.memory.stacks == pytest.approx(told, rel=0.15)


def test_products_listed_with_their_misses() -> None:
    found = design_describe().to_dict()
    assert found["held"]["area"] == "18 of 22"
    assert found["held"]["watts"] == "17 of 23"
    missed = {row["device"] for row in found["rows"] if abs(row["watts_error"]) > 0.15}
    # One die is sold at 250, 300 and 400 W, another at 300 and 450: a limit is a choice.
    assert missed == {"a100-40gb", "a100-pcie-40gb", "gb300", "rtx-4090", "rtx-6000-ada", "mi300x"}
    assert power_law().spread < 0.25


def test_what_design_reads_and_writes_can_be_described(tmp_path: Path) -> None:
    """Finding U13: spaces, and the system that `design` writes, were refused."""
    path = tmp_path / "best.yaml"
    path.write_text(describe("duplex-x4").text(), encoding="utf-8")
    values = silicon_of(load_device("duplex")[0]).values()
    for name in ("duplex", "duplex-x4", path, spaces()["duplex"]):
        assert silicon_of(device_of(name)).values() == pytest.approx(values)
    assert device_of("fpga-arrays").name == "zcu104"


@pytest.mark.parametrize("name", ["h100", "b200", "mi300x", "duplex", "cent", "v80"])
def test_parts_sum_to_the_value_and_lie_in_the_interval(name: str) -> None:
    found = silicon_of(load_device(name)[0])
    for each in (found.area_mm2, found.watts, found.usd):
        if each.value is None:
            assert "has no value" in each.why
            continue
        assert sum(each.parts.values()) == pytest.approx(each.value)
        assert each.interval is not None
        assert each.interval[0] < each.value < each.interval[1]
        assert all(part >= 0 for part in each.parts.values())


def test_what_adds_area_and_no_time_is_said(tmp_path: Path) -> None:
    """A step takes as long with a sixteenth of the buffers of units near memory."""
    path = tmp_path / "mine.yaml"
    path.write_text("""{extends: h100-logic-pim, name: mine, processors: {logic-pim: {mac_array: {
        input_buffer_KiB: {value: 64, source: "assumed: asked"}}}}}""")
    assert f"times depend on {CACHE}; " in silicon_of(load_device(path)[0]).area_mm2.why
    steps = [roofline("mixtral-8x7b", system=name, batch=64) for name in (path, "h100-logic-pim-x1")]
    assert steps[0].step_seconds == steps[1].step_seconds


def test_more_of_anything_is_never_smaller_or_cheaper() -> None:
    die = constants().dies["gh100"]
    for name in ("cores", "macs", "lanes", "local", "cache", "hbm", "links"):
        assert size(replace(die, **{name: getattr(die, name) * 1.1})) > size(die)
