"""Is a derived efficiency the model's, kept on disk, and the ranking of layouts sound?

Fractions at 5.2 Gb/s are those of the reference runs (0.875 in sequence, 0.731 for 1 KB at random).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from opbyte.devices.catalog import load_device
from opbyte.devices.device import build_device
from opbyte.devices.dram import efficiency as module
from opbyte.devices.dram.catalog import load_memory
from opbyte.devices.dram.efficiency import (
    append_beside_reads,
    efficiency,
    expert_slices,
    pages,
    update_in_place,
    weights,
    weights_beside_gathers,
)
from opbyte.devices.dram.layouts import candidate_mappings, rank_mappings, rank_pages
from opbyte.devices.dram.model import with_dram
from opbyte.devices.dram.run import simulate
from opbyte.devices.prices import ALONE, P_BYTES
from opbyte.workloads.errors import InputError
from opbyte.workloads.ops import Op

MEMORY = load_memory("hbm3-5200-8hi")


def test_weights_and_pages() -> None:
    assert efficiency(MEMORY, weights()).fraction == pytest.approx(0.87533, abs=1e-5)
    # 16 KB over 16 channels are 1 KB on each.
    assert efficiency(MEMORY, pages(MEMORY, 16 * 1024)).fraction == pytest.approx(0.73135, abs=1e-5)


def test_order_of_patterns() -> None:
    streams = efficiency(MEMORY, weights()).fraction
    slices = efficiency(MEMORY, expert_slices(MEMORY, 8, 1 << 20)).fraction
    beside = efficiency(MEMORY, weights_beside_gathers(MEMORY, 16_384, 3, 1)).fraction
    gathers = efficiency(MEMORY, pages(MEMORY, 16_384)).fraction
    assert gathers < beside < streams
    assert gathers < slices <= streams + 0.01
    assert (
        efficiency(MEMORY, update_in_place()).fraction
        < efficiency(MEMORY, append_beside_reads(15)).fraction
    )


def test_small_pages_take_whole_atoms() -> None:
    assert MEMORY.organisation.atom_bytes == pages(MEMORY, 10).pattern.S
    with pytest.raises(InputError, match="positive"):
        pages(MEMORY, 0)


def test_numbers_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path)
    module._remembered.cache_clear()
    first = efficiency(MEMORY, weights())
    assert first.evidence == "derived"
    assert len(list((tmp_path / "dram").iterdir())) == 1

    def never(*_: object) -> None:
        raise AssertionError("simulated again")

    module._remembered.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "simulate", never)
        assert efficiency(MEMORY, weights()) == first
    next((tmp_path / "dram").iterdir()).write_text("{damaged")
    module._remembered.cache_clear()
    assert efficiency(MEMORY, weights()) == first
    module._remembered.cache_clear()


def test_another_memory_is_another_number() -> None:
    slower = MEMORY.model_copy(update={"timings": MEMORY.timings.model_copy(update={"RFC": 1000})})
    assert efficiency(slower, weights()).fraction < efficiency(MEMORY, weights()).fraction


def test_mappings_are_ranked_by_the_time_of_all_bytes() -> None:
    work = [(weights(), 3.0), (pages(MEMORY, 16_384), 1.0)]
    ranked = rank_mappings(MEMORY, work, ["rowlin", "col64", "banklin"])
    assert [r.mapping for r in ranked] == ["col64", "rowlin", "banklin"]
    best = ranked[0]
    assert best.fraction == pytest.approx(4.0 / (3.0 / best.each[0] + 1.0 / best.each[1]))
    assert best.each[0] == simulate(MEMORY, weights()).fraction
    assert len(set(candidate_mappings(MEMORY))) == len(candidate_mappings(MEMORY))


def test_pages_trade_row_hits_for_the_last_block() -> None:
    ranked = rank_pages(MEMORY, 4096, 2048, tokens=(8, 64), mappings=("col64",))
    assert ranked[0].useful == max(r.useful for r in ranked)
    whole = {r.tokens: r for r in ranked if r.parts == 1}
    assert whole[64].fraction > whole[8].fraction
    for r in ranked:
        assert r.useful == pytest.approx(r.fraction * 2048 / (2048 + r.tokens / 2))
    # At a short context a large block reads mostly what is not there.
    short = rank_pages(MEMORY, 4096, 16, tokens=(8, 128), mappings=("col64",))
    assert short[0].tokens == 8


def test_a_device_takes_its_bandwidth_from_its_dram() -> None:
    flat = build_device(load_device("duplex-plain")[0])
    derived = with_dram(flat, MEMORY)
    shared = {"layer": "attention", "phase": "decode", "shape": {}, "dtype": "fp16"}
    gemm = Op(name="out", kind="gemm", flops=1e6, weight_bytes=1e8, **shared)
    attention = Op(name="a", kind="attention_decode", flops=1e6, kv_read_bytes=1e8, **shared)
    streams = efficiency(MEMORY, weights()).fraction
    for op, share in ((gemm, streams), (attention, None)):
        model = derived.processors["xpu"].model
        cost = model.cost(op)
        words, fraction = model.pattern(op)
        assert share is None or fraction == share
        assert cost.memory_s == pytest.approx(
            op.bytes / (flat.processors["xpu"].bandwidth * fraction)
        )
        assert model.row(op, ALONE).params[P_BYTES] == pytest.approx(op.bytes / cost.memory_s)
        assert words
    near = derived.processors["logic-pim"].model
    # Rows of bundles in turn lose to refresh alone: 1 - (tRFC + tRTP + tRP + tRCD) / tREFI.
    t = MEMORY.timings
    lost = (t.RFC + t.RTP + t.RP + t.RCD_RD) / t.REFI
    assert near.pattern(attention)[1] == pytest.approx(1 - lost, abs=0.01)
    assert {e.basis for e in near.evidence([gemm, attention])} == {"derived"}
    assert len(derived.processors["xpu"].model.evidence([gemm, attention])) == 2
