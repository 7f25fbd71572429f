"""Do prices follow from what an op's access pattern gets of the DRAM, command by command?

Fractions at 5.2 Gb/s are those of the reference runs (0.875 in sequence, 0.731 for 1 KB at random);
those near memory follow from closed forms: rows opened meanwhile lose to refresh alone, rows one
after another take 31 tCCD_L + tRTP + tRP + tRCD for 32 columns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.device import build_device
from opbyte.devices.dram import efficiency as module
from opbyte.devices.dram.access import NEAR, run_of, share_near, share_of_pins, usual
from opbyte.devices.dram.efficiency import derive, efficiency, key_of, shipped, weights
from opbyte.devices.dram.layout import DataLayout
from opbyte.devices.dram.model import DerivedRoofline, with_dram
from opbyte.devices.dram.pattern import Pattern
from opbyte.devices.dram.ship import runs
from opbyte.devices.dram.spec import load_memory
from opbyte.devices.kinds import check_rows
from opbyte.simulator.deploy.deployment import deploy
from opbyte.workloads import jit
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.ops import ACCESSES, IN_SEQUENCE, Access, Op

MEMORY = load_memory("hbm3-5200-8hi")
GPU = DataLayout(standard="hbm3-5200-8hi")
ROWS = DataLayout(standard="hbm3-5200-8hi", interleave_bytes=65536, kv_block_tokens=256)
REFRESH = 1 - (MEMORY.timings.RFC + MEMORY.timings.RTP + MEMORY.timings.RP) / MEMORY.timings.REFI


def op(access: Access, kind: str = "gemm") -> Op:
    return Op("op", "ffn", kind, "decode", {}, "fp16", 1e6, weight_bytes=1e8, access=access)


# --- patterns -------------------------------------------------------------------------------------


def test_weights_and_pages() -> None:
    assert efficiency(MEMORY, weights()).fraction == pytest.approx(0.87533, abs=1e-5)
    # 16 KB over 16 channels are 1 KB on each.
    fine = GPU.model_copy(update={"interleave_bytes": 32, "kv_pieces": 1})
    found = share_of_pins(MEMORY, fine, Access("pages", 1024.0, 2), 16)
    assert found.fraction == pytest.approx(0.73135, abs=1e-5)


@pytest.mark.parametrize(
    ("access", "pattern"),
    [
        (IN_SEQUENCE, Pattern()),
        (Access("slices", 1e9, 8), Pattern("multistream", K=8, G=131_072)),
        (Access("slices", 1e9, 1), Pattern()),
        (Access("slices", 1e6, 6), Pattern("multistream", K=4, G=8192)),
        # Keys of 16 tokens, 8 KB: 256 B on each of 32 channels.
        (Access("pages", 1024.0, 2), Pattern("rand", S=256)),
        (Access("gather", 100.0), Pattern("rand", S=96)),
        (Access("scatter", 8192.0), Pattern("rand", S=256, X=256, reads=0, writes=1)),
        (Access("update", 1e6), Pattern("seq", X=1024, reads=1, writes=1, in_place=True)),
    ],
)
def test_what_an_access_asks_of_a_channel(access: Access, pattern: Pattern) -> None:
    assert run_of(MEMORY, GPU, access, 80).pattern == pattern


def test_order_of_patterns() -> None:
    def gets(kind: str, size: float, items: int = 1) -> float:
        return share_of_pins(MEMORY, GPU, Access(kind, size, items), 80).fraction

    streams = share_of_pins(MEMORY, GPU, IN_SEQUENCE, 80).fraction
    assert gets("gather", 8192.0) < gets("slices", 1e8, 8) <= streams + 0.01
    assert gets("scatter", 8192.0) < gets("gather", 8192.0)
    assert gets("update", 1e6) < streams


@given(
    kind=st.sampled_from(ACCESSES[1:]), size=st.floats(1.0, 1e9), items=st.integers(1, 64),
    interleave=st.sampled_from([32, 256, 8192, 65536]), tokens=st.sampled_from([1, 16, 256]),
    near=st.sampled_from(["", *NEAR]), spaces=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=60)
def test_no_pattern_beats_the_pins_or_the_units(
    kind: str, size: float, items: int, interleave: int, tokens: int, near: str, spaces: int
) -> None:
    layout = GPU.model_copy(update={"interleave_bytes": interleave, "kv_block_tokens": tokens})
    access = Access(kind, size, items)
    if not near:
        found = share_of_pins(MEMORY, layout, access, 80)
    else:
        multiple = 16.0 if near == "bank-pim" else 4.0
        found = share_near(MEMORY, layout, access, 80, kind=near, multiple=multiple, spaces=spaces)
        assert found.fraction <= REFRESH + 0.01
    assert 0.0 < found.fraction < 1.0


def test_units_read_rows_of_one_bundle_or_of_several_in_turn() -> None:
    t = MEMORY.timings
    row = 31 * t.CCD_L + t.RTP + t.RP + t.RCD_RD
    for kind, multiple in (("logic-pim", 4.0), ("bank-group-pim", 4.0), ("bank-pim", 16.0)):

        def gets(access: Access, spaces: int, kind: str = kind, multiple: float = multiple) -> float:
            return share_near(MEMORY, ROWS, access, 80, kind=kind, multiple=multiple, spaces=spaces).fraction

        # An expert lies in one memory space, the cache in the three others.
        expert = gets(Access("slices", 1e8, 8), 4)
        assert expert == pytest.approx(32 * t.CCD_L / row * REFRESH, rel=0.02)
        cache = gets(Access("pages", 512.0), 4)
        assert cache == pytest.approx(expert if kind == "bank-pim" else REFRESH, rel=0.02)
        # One column of a row: all sets of banks turn to a new row each tRC.
        banks, sets = {"logic-pim": (8, 4), "bank-group-pim": (16, 4), "bank-pim": (64, 1)}[kind]
        one = gets(Access("gather", 32.0 * banks), 1)
        assert one == pytest.approx(sets * t.CCD_L / t.RC * REFRESH, rel=0.03)


def test_usual_pieces_are_few() -> None:
    sizes = {usual(MEMORY, size) for size in range(1, 1 << 20, 100)}
    assert max(sizes) == 1 << 17
    assert len([size for size in sizes if size > 4096]) == 5


def test_an_unknown_access_is_refused() -> None:
    with pytest.raises(ValueError, match="none of sequence"):
        Access("hash", 1.0)
    with pytest.raises(ValueError, match="bytes of an item"):
        Access("pages")


# --- numbers kept and shipped ---------------------------------------------------------------------


def test_shipped_numbers_are_the_models() -> None:
    assert set(shipped()) == set(runs()), "run python -m opbyte.devices.dram.ship"
    for key, (memory, run) in runs().items():
        assert shipped()[key] == derive(memory, run)


@pytest.mark.parametrize("model", ["mixtral-8x7b", "llama-3-70b", "deepseek-v3", "jamba-mini"])
@pytest.mark.parametrize("system", ["duplex-2x8", "duplex-gpu-2x8", "duplex-bankpim-2x8"])
def test_catalog_devices_compile_nothing_for_their_dram(
    model: str, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opbyte.simulator.step.sections import placed_ops
    from opbyte.workloads.batch import Batch

    def never(*_: object) -> None:
        raise AssertionError("simulated, not shipped")

    monkeypatch.setattr(module, "derive", never)
    monkeypatch.setattr(jit, "cache_dir", lambda: None)
    module._remembered.cache_clear()
    deployment = deploy(load_model(model), load_system(system), memory="derived")
    for batch in (Batch.of([100], [(100, 0)]), Batch.of([100] * 64)):
        assert list(placed_ops(deployment, batch))
    module._remembered.cache_clear()


def test_numbers_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(weights(), read_queue=16)
    assert key_of(MEMORY, run) not in shipped()
    monkeypatch.setattr(jit, "cache_dir", lambda: tmp_path)
    module._remembered.cache_clear()
    first = efficiency(MEMORY, run)
    assert len(list((tmp_path / "dram").iterdir())) == 1

    def never(*_: object) -> None:
        raise AssertionError("simulated again")

    module._remembered.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "derive", never)
        assert efficiency(MEMORY, run) == first
    next((tmp_path / "dram").iterdir()).write_text("{damaged")
    module._remembered.cache_clear()
    assert efficiency(MEMORY, run) == first
    module._remembered.cache_clear()


def test_another_memory_is_another_number() -> None:
    slower = MEMORY.model_copy(update={"timings": MEMORY.timings.model_copy(update={"RFC": 1000})})
    assert efficiency(slower, weights()).fraction < efficiency(MEMORY, weights()).fraction


# --- devices --------------------------------------------------------------------------------------


def test_a_device_takes_its_bandwidth_from_its_dram() -> None:
    flat = build_device(load_device("duplex-plain")[0])
    derived = with_dram(flat)
    pages = op(Access("pages", 512.0), "attention_decode")
    for one in (op(IN_SEQUENCE), pages, op(Access("slices", 1e8, 8), "experts")):
        for name, processor in derived.processors.items():
            model = processor.model
            assert isinstance(model, DerivedRoofline)
            share = model.share_of(one.access)
            assert model.cost(one).memory_s == pytest.approx(
                one.bytes / (flat.processors[name].bandwidth * share.fraction)
            )
    xpu, near = (derived.processors[name].model for name in ("xpu", "logic-pim"))
    assert isinstance(near, DerivedRoofline)
    assert near.share_of(pages.access).fraction == pytest.approx(REFRESH, abs=0.01)
    found = near.evidence([op(IN_SEQUENCE), pages])
    assert [e.basis for e in found] == ["derived", "derived", "description"]
    assert xpu.roof("fp16").memory_efficiency == pytest.approx(0.87533, abs=1e-5)
    assert near.roof("fp16").memory_efficiency == pytest.approx(REFRESH, abs=0.01)
    check_rows(xpu)
    check_rows(near)


def test_fitted_processors_keep_their_fits() -> None:
    model = load_model("llama-3-8b")
    fitted = deploy(model, load_system("h100-x1"), memory="derived").device.processors["xpu"].model
    assert not isinstance(fitted, DerivedRoofline)
    plain = deploy(model, load_system("h100-x1"), costs="roofline", memory="derived").device
    assert isinstance(plain.processors["xpu"].model, DerivedRoofline)
    mixed = deploy(model, load_system("h100-logic-pim-x1"), memory="derived").device
    assert isinstance(mixed.processors["logic-pim"].model, DerivedRoofline)
    assert not isinstance(mixed.processors["xpu"].model, DerivedRoofline)


@pytest.mark.parametrize(
    ("memory", "change", "says"),
    [
        ("hbm3-6400-8hi", {}, "5 stacks of hbm3-6400-8hi carry 4,096 GB/s, the description says 3,352"),
        ("hbm3-5200-8hi", {"spaces": 8}, "spaces: 8 are more than the 4 bank bundles"),
        ("hbm3-5200-8hi", {"dram": None}, "names no DRAM"),
        ("hbm3-5200-8hi", {"mapping": "zigzag"}, "unknown name"),
        ("hbm3-5200-8hi", {"interleave_bytes": 100}, "100 is not a multiple of the 32 B"),
    ],
)
def test_a_dram_that_is_not_the_devices_gets_one_line(memory: str, change: dict[str, object], says: str) -> None:
    spec = load_device("duplex-plain")[0]
    layout = spec.memory.dram
    assert layout is not None
    named = layout.model_copy(
        update={"standard": memory} | {k: v for k, v in change.items() if k in DataLayout.model_fields}
    )
    own = {k: v for k, v in change.items() if k not in DataLayout.model_fields}
    device = build_device(spec.model_copy(update={"memory": spec.memory.model_copy(update={"dram": named} | own)}))
    with pytest.raises(InputError, match=says) as raised:
        with_dram(device)
    assert "\n" not in str(raised.value)


def test_units_faster_than_their_commands_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text(
        "extends: duplex\nname: wide\nprocessors:\n"
        '  logic-pim: {bandwidth_multiple: {value: 8, source: "assumed: a test"}}\n'
    )
    device = build_device(load_device(tmp_path / "wide.yaml")[0])
    with pytest.raises(InputError, match="8 is more than the 4 times the pins' rate"):
        with_dram(device)


def test_a_standard_of_ones_own_lies_beside_the_device(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text(
        'extends: hbm3-5200-8hi\nname: slow\ntitle: slow\ntimings: {RFC: {value: 900, source: "assumed: a test"}}\n'
    )
    (tmp_path / "own.yaml").write_text("extends: duplex-gpu\nname: own\nmemory: {dram: {standard: ./slow.yaml}}\n")
    spec, _ = load_device(tmp_path / "own.yaml")
    device = with_dram(build_device(spec))
    model = device.processors["xpu"].model
    assert isinstance(model, DerivedRoofline)
    assert model.memory.name == "slow"
    assert model.share_of(IN_SEQUENCE).fraction < 0.8
