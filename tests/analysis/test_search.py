"""Does the search find designs at least as good as the published ones, within the board?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.answers.compare import compare
from opbyte.analysis.parallel.study import Study
from opbyte.analysis.studies.design.engines import EngineAnswer, search
from opbyte.analysis.studies.design.stream_designs import tile_share
from opbyte.devices.catalog import load_device
from opbyte.devices.checks import engine_of
from opbyte.simulator.fpga.designs import FpgaDesign

from .conftest import Ask

FABRIC = engine_of(load_device("zcu104")[0])[2]
ENGINE = engine_of(load_device("zcu104")[0])[1]


@pytest.fixture(scope="module")
def found() -> EngineAnswer:
    return search("m3vit-pascal", "zcu104")


def test_at_least_as_fast_as_m3vit_within_its_board(found: EngineAnswer) -> None:
    """M3ViT's own buffers are 2 % more than the board has; the found design's are not."""
    assert found.best.latency_s <= found.published.latency_s
    assert found.published.latency_s == pytest.approx(69.08e-3, rel=1e-3)
    assert found.excess == ("5,075,712 on-chip bytes, 4,976,640 available",)
    for design in (found.best, *found.front):
        assert design.dsp <= FABRIC.dsp
        assert design.on_chip_bytes <= FABRIC.on_chip_bytes


def test_no_design_is_faster_than_its_multipliers(found: EngineAnswer) -> None:
    """31.8 GMAC at 1,728 a cycle and the share of useful cycles bound every latency."""
    floor = 31.79e9 / (FABRIC.dsp * 0.8913) / 300e6
    assert floor < found.best.latency_s < 1.02 * floor


def front(designs: Sequence[FpgaDesign]) -> list[FpgaDesign]:
    study: Study[FpgaDesign, FpgaDesign] = Study(lambda design: design, lambda design: design.key)
    return study.front(designs)


def test_the_front_is_one(found: EngineAnswer) -> None:
    assert list(found.front) == front(found.front)
    assert found.best.latency_s == found.front[0].latency_s
    assert len({design.key for design in found.front}) == len(found.front) > 10


@given(st.lists(st.tuples(*[st.integers(1, 6)] * 3), max_size=30))
def test_pareto_against_its_definition(points: list[tuple[int, int, int]]) -> None:
    designs = [FpgaDesign(ENGINE, 1, float(a), float(a), float(b), float(c)) for a, b, c in points]
    kept = [design.key for design in front(designs)]
    expected = {p for p in points if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in points)}
    assert set(kept) == expected
    assert kept == sorted(kept)


def test_fill_energy_and_files(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data: dict[str, Any] = ask(
        "search", "edge-moe-cityscapes", "--board", "zcu102", "--fill", 0.5, "--json", "--out", out,
    ).json()  # fmt: skip
    assert data["best"]["dsp"] <= 0.5 * 2520
    assert data["best"]["joules"] == min(design["metrics"]["joules"] for design in data["front"])
    assert data["best"]["latency_s"] < data["published"]["latency_s"]
    assert data["limits"]["on-chip bytes"] == 0.5 * 912 * 4608
    assert {"front.png", "design.json"} <= {path.name for path in out.iterdir()}


@pytest.fixture(scope="module")
def decoding() -> EngineAnswer:
    return search("llama-2-7b", "u280", dtype="int4", context=512)


def test_a_streaming_engine_is_found_within_the_board(decoding: EngineAnswer) -> None:
    """No design decodes faster than its streams; the board's own is FlightLLM's, as compared."""
    fabric = engine_of(load_device("u280")[0])[2]
    floor = (decoding.model.weight_bytes - 2 * 32000 * 4096) / 460e9  # without the input embedding
    for design in (decoding.best, *decoding.front):
        assert design.dsp <= fabric.dsp
        assert design.on_chip_bytes <= fabric.on_chip_bytes
        assert design.latency_s > floor
        assert design.tokens_per_s == pytest.approx(1 / design.latency_s)
        assert design.joules_per_token == pytest.approx(45 * design.latency_s)
    assert decoding.best.latency_s <= decoding.published.latency_s
    step = compare("llama-2-7b", ["flightllm-x1"], dtype="int4", kv_dtype="int8", context=512)
    assert decoding.published.latency_s == pytest.approx(step.table[0].latency_s)


def test_fewer_multipliers_never_help_and_batches_share_weights(decoding: EngineAnswer) -> None:
    by_size = sorted(decoding.front, key=lambda d: d.dsp)
    assert by_size[0].latency_s >= by_size[-1].latency_s
    many = search("llama-2-7b", "u280", dtype="int4", context=512, batch=4)
    assert many.best.tokens_per_s > decoding.best.tokens_per_s
    assert many.best.macs >= decoding.best.macs


def test_small_tiles_read_less_of_the_bandwidth() -> None:
    shares = [tile_share(kib * 1024, 2) for kib in (4, 64, 1024)]
    assert 0 < shares[0] < shares[1] <= shares[2] <= 1
