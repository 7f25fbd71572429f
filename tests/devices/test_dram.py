"""Does the DRAM model keep its standards' rules, and does it agree with what they imply?

Expected values are closed forms of the timings; runs of other simulators are compared in
`tests/analysis/test_dram.py`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.dram import timing
from opbyte.devices.dram.controller import advance
from opbyte.devices.dram.mapping import COL_SHIFT, FIELDS, ROW_SHIFT, read_mapping
from opbyte.devices.dram.model import BundleRead, bundles_of, meet, switch_clocks
from opbyte.devices.dram.pattern import Pattern, PatternRun, read_pattern
from opbyte.devices.dram.pim import PimStream, measure, run_stream, stream_of
from opbyte.devices.dram.run import Command, simulate, timeline
from opbyte.devices.dram.spec import DramSpec, describe_memory, list_memories, load_memory
from opbyte.devices.dram.state import new_channel
from opbyte.devices.dram.streams import mix_whole
from opbyte.workloads.errors import InputError, SpecError

HBM3, HBM2 = load_memory("hbm3-6400-8hi"), load_memory("hbm2-2000")
NAMES = ["hbm3-6400-8hi", "hbm2-2000", "hbm3-5200-8hi", "hbm4-8000-8hi"]


def bundles(spec: DramSpec, name: str, faw: bool = False) -> PimStream:
    """32,000 commands to the bundles of a pseudo channel; with `faw` a bundle's ACTs keep tRRD and tFAW."""
    plain = stream_of(spec, f"pim_mac_bundle_{name}", 32_000, False)
    return replace(plain, acts=plain.banks if faw else 1)


def available(spec: DramSpec) -> float:
    """Share of the time that refresh leaves: banks are closed before and opened after."""
    t = spec.timings
    return 1 - (t.RFC + t.RTP + t.RP + t.RCD_RD) / t.REFI


def fraction(memory: str, pattern: str) -> float:
    return simulate(load_memory(memory), read_pattern(pattern)).fraction


# --- catalog ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_memories())
def test_every_number_of_a_standard_has_a_source(name: str) -> None:
    spec, sources = describe_memory(name)
    assert spec.name == name
    assert {f"timings.{key}" for key in ("CL", "RCD_RD", "RFC")} <= set(sources)
    assert "organisation.rows" in sources


def test_rates_of_the_pins() -> None:
    # 2 pseudo channels x 32 pins x 6.4 Gb/s, x 16 channels; 2 x 64 pins x 2 Gb/s, x 8.
    assert HBM3.channel_bytes_per_s == pytest.approx(51.2e9)
    assert HBM3.stack_bytes_per_s == pytest.approx(819.2e9)
    assert HBM2.stack_bytes_per_s == pytest.approx(256e9)


# --- closed forms ------------------------------------------------------------------------------


def test_sequential_reads_fill_the_pins_without_refresh() -> None:
    assert fraction("hbm3-6400-8hi", "seq_read:rdq=64,refresh=none") == pytest.approx(1, abs=2e-3)
    assert fraction("hbm2-2000", "seq_read:refresh=none") == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("spec", [HBM3, HBM2], ids=["hbm3", "hbm2"])
def test_refresh_takes_its_share(spec: DramSpec) -> None:
    found = fraction(spec.name, "seq_read:rdq=64,wrq=64")
    assert found == pytest.approx(available(spec), abs=0.01)


@pytest.mark.parametrize("spec", [HBM3, HBM2], ids=["hbm3", "hbm2"])
def test_one_bank_and_a_new_row_each_time(spec: DramSpec) -> None:
    # Two atoms a row: the longer of tRC and tRCD + tCCD_L + tRTP + tRP for 2 of 2 BL a pair of PCs.
    t = spec.timings
    cycle = max(t.RC, t.RCD_RD + t.CCD_L + t.RTP + t.RP)
    found = fraction(spec.name, "stride_read:S=65536,refresh=none")
    assert found == pytest.approx(2 * t.BL / cycle / 2, rel=0.01)


def test_activation_window_bounds_single_reads() -> None:
    # One atom an ACT: four in tFAW on each pseudo channel, less what refresh takes.
    t = HBM3.timings
    bound = 4 * t.BL / t.FAW * available(HBM3)
    found = fraction("hbm3-6400-8hi", "rand_read:S=32,rdq=128,wrq=128")
    assert 0.9 * bound < found <= bound


def test_a_fifth_activation_waits_for_the_window() -> None:
    """Four in tFAW, whatever else allows the next one."""
    free = SimpleNamespace(next_act=0)
    state = SimpleNamespace(
        config=[SimpleNamespace(faw=HBM3.timings.FAW)], groups=[free], s=[SimpleNamespace(row_bus=0)],
        banks=[SimpleNamespace(pc=0, group=0, next_act=0)],
        pcs=[SimpleNamespace(next_act=7, act4=1000)],
    )  # fmt: skip
    at = getattr(timing.at_act, "py_func", timing.at_act)
    assert at(state, 0) == 1000 + HBM3.timings.FAW
    state.pcs[0].act4 = -1000
    assert at(state, 0) == 7


def test_row_bus_bounds_hbm2() -> None:
    # ACT 2 clocks and PRE 1 on the channel's row bus for each atom, which is 1 of 2 BL / 2.
    bound = 1 / 3 * available(HBM2)
    assert fraction("hbm2-2000", "rand_read:S=32,rdq=128,wrq=128") == pytest.approx(bound, rel=0.02)


@pytest.mark.parametrize("size", [64, 1024])
def test_a_state_in_place_opens_each_row_once(size: int) -> None:
    pattern = f"seq_rw:rw=1:1,X={size},refresh=none"
    # A row of 32 atoms, each read and written: an ACT for 64 requests. Half a channel apart the two
    # streams open each other's rows.
    found = simulate(HBM3, read_pattern(f"{pattern},inplace=yes"))
    assert found.acts_per_request == pytest.approx(1 / 64, rel=0.02)
    assert found.fraction > 1.4 * simulate(HBM3, read_pattern(pattern)).fraction


def test_in_bank_rows_take_turns_or_overlap() -> None:
    # 31 intervals, then tRTP + tRP + tRCD to the next row of the same banks; else the interval.
    spec = load_memory("hbm3pim-5.2gbps")
    t = spec.timings
    rows = 64
    alone = run_stream(spec, stream_of(spec, "pim_mac_ab", 32 * rows, False))
    assert alone == pytest.approx(rows * (31 * 6 + t.RTP + t.RP + t.RCD_RD), rel=0.005)
    turns = run_stream(spec, stream_of(spec, "pim_mac_sb_rot", 32 * rows, False))
    assert turns == pytest.approx(rows * 32 * 6, rel=0.005)


def test_bundles_of_logic_pim_read_four_times_the_pins() -> None:
    # 8 banks each tCCD_L against one atom each tBL of a pseudo channel: 4x, times availability.
    spec = load_memory("hbm3-5200-8hi")
    t = spec.timings
    whole = measure(spec, bundles(spec, "rot"))
    assert whole.over_pins == pytest.approx(4, rel=0.002)
    same = measure(spec, bundles(spec, "fix"))
    row = 31 * t.CCD_L + t.RTP + t.RP + t.RCD_RD
    assert same.fraction == pytest.approx(32 * t.CCD_L / row, rel=0.002)
    held = measure(spec, bundles(spec, "fix", faw=True))
    assert held.fraction < same.fraction


# --- rules, read off the commands that go out ---------------------------------------------------


def legal(memory: str, commands: list[Command]) -> None:
    """Check rules of one bank and of activations of any two and five, in clocks of the commands' ends."""
    spec = load_memory(memory)
    t, clock = spec.timings, spec.tCK_s
    longer = {"ACT": 0.5, "RD": 0.0, "WR": 0.0, "PRE": -0.5}
    if spec.protocol == "hbm2":
        longer = {"ACT": 1.0, "RD": 0.0, "WR": 0.0, "PRE": 0.0}
    last: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    acts: dict[int, list[float]] = defaultdict(list)
    rows: dict[tuple[int, int], int] = {}
    needed = {("ACT", "RD"): t.RCD_RD, ("ACT", "WR"): t.RCD_WR, ("ACT", "PRE"): t.RAS,
              ("ACT", "ACT"): t.RC, ("PRE", "ACT"): t.RP, ("RD", "PRE"): t.RTP,
              ("WR", "PRE"): t.CWL + t.BL + t.WR, ("RD", "RD"): t.CCD_L}  # fmt: skip
    for c in commands:
        if c.name not in longer:
            for key in [key for key in rows if key[0] == c.pseudo_channel]:
                del rows[key]
            continue
        bank, end = (c.pseudo_channel, c.bank), c.start_s / clock + longer[c.name]
        for (before, after), clocks in needed.items():
            if after == c.name and before in last[bank]:
                assert end - last[bank][before] >= clocks - 1e-6, (before, after, c)
        last[bank][c.name] = end
        if c.name == "ACT":
            window = acts[c.pseudo_channel]
            assert not window or end - window[-1] >= t.RRD_S - 1e-6, c
            assert len(window) < 4 or end - window[-4] >= t.FAW - 1e-6, c
            window.append(end)
            rows[bank] = c.row
        elif c.name == "PRE":
            rows.pop(bank, None)
        else:
            assert rows[bank] == c.row, "a column command to a row that is not open"


@pytest.mark.parametrize("memory", NAMES)
@pytest.mark.parametrize("pattern", ["rand_read:S=64", "rand_rw:S=256,rw=2:1", "seq_rw:rw=1:1", "stride_read:S=8256"])
def test_commands_keep_the_timings(memory: str, pattern: str) -> None:
    commands = timeline(load_memory(memory), read_pattern(pattern), 20_000)
    assert len(commands) == 20_000
    assert {c.name for c in commands} >= {"ACT", "PRE", "REFab"}
    legal(memory, commands)


def test_refresh_comes_every_interval() -> None:
    commands = timeline(HBM3, read_pattern("seq_read"), 60_000)
    starts = [c.start_s for c in commands if c.name == "REFab" and c.pseudo_channel == 0]
    assert len(starts) >= 5
    gaps = np.diff(starts) / (HBM3.timings.REFI * HBM3.tCK_s)
    assert gaps == pytest.approx(np.ones(len(gaps)), abs=0.02)


# --- properties -----------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> PatternRun:
    kind = draw(st.sampled_from(["seq", "rand", "stride", "multistream", "mix"]))
    size = 64 * draw(st.integers(1, 300))
    pair = (1, 0) if kind == "mix" else draw(st.sampled_from([(1, 0), (2, 1), (1, 1), (0, 1)]))
    pattern = Pattern(
        kind=kind, S=size, X=64, K=draw(st.integers(1, 9)), G=64 * draw(st.integers(1, 20)),
        reads=pair[0], writes=pair[1], a=draw(st.integers(1, 3)), b=draw(st.integers(0, 2)),
        in_place=draw(st.booleans()),
    )  # fmt: skip
    return PatternRun(
        pattern=pattern,
        mapping=draw(st.sampled_from(["col64", "bgi", "rowlin", "banklin", "col64+xor"])),
        rate=draw(st.sampled_from([None, Fraction(1, 4), Fraction(9, 10)])),
        window=draw(st.sampled_from([None, 5, 20])),
        read_queue=draw(st.sampled_from([8, 32])),
        write_queue=draw(st.sampled_from([8, 32])),
        refresh=draw(st.sampled_from(["all", "pb", "none"])),
        row_hits_first=draw(st.booleans()),
        closed_after=draw(st.sampled_from([None, None, 2])),
        requests=3000,
    )


@given(run=runs(), name=st.sampled_from(NAMES))
@settings(max_examples=60)
def test_bytes_are_conserved_and_pins_not_beaten(run: PatternRun, name: str) -> None:
    memory = load_memory(name)
    channel = new_channel(memory, run)
    advance(channel, 1 << 40, 2000)
    s = channel.s[0]
    waiting = s["reads"] + s["writes"] + s["active"]
    assert s["accepted"] == s["reads_done"] + s["writes_done"] + waiting
    seconds = int(s["clock"]) * memory.tick_s
    moved = int(s["reads_done"] + s["writes_done"]) * memory.organisation.atom_bytes
    assert moved <= memory.channel_bytes_per_s * seconds + 2 * memory.organisation.atom_bytes


@given(run=runs(), name=st.sampled_from(NAMES))
@settings(max_examples=40)
def test_skipping_ticks_changes_nothing(run: PatternRun, name: str) -> None:
    memory = load_memory(name)
    fast, slow = new_channel(memory, run), new_channel(memory, run)
    ticks = 4000
    advance(fast, ticks, 1 << 40)
    for tick in range(1, ticks + 1):
        advance(slow, tick, 1 << 40)
    for counter in ("clock", "accepted", "acts", "pres", "latency", "reads_done", "writes_done"):
        assert fast.s[counter][0] == slow.s[counter][0], counter


@given(
    kind=st.sampled_from(["seq", "stride", "multistream"]),
    size=st.sampled_from([512, 2048, 8192, 65536, 8256]),
    mapping=st.sampled_from(["col64", "rowlin", "banklin", "col64+xor"]),
    name=st.sampled_from(NAMES),
    pair=st.sampled_from([(1, 0), (0, 1), (1, 1)]),
    in_place=st.booleans(),
)
@settings(max_examples=25)
def test_repetition_is_exact(
    kind: str, size: int, mapping: str, name: str, pair: tuple[int, int], in_place: bool
) -> None:
    pattern = Pattern(kind=kind, S=size, X=64, K=3, G=1024, reads=pair[0], writes=pair[1], in_place=in_place)
    memory = load_memory(name)
    run = PatternRun(pattern=pattern, mapping=mapping, requests=300_000)
    found = simulate(memory, run)
    channel = new_channel(memory, run)
    refi, accepted = int(channel.config["refi"][0]), [0]
    while accepted[-1] < run.length:
        advance(channel, len(accepted) * refi, 1 << 40)
        accepted.append(int(channel.s["accepted"][0]))
    start = next(k for k, n in enumerate(accepted) if n >= run.length // 10)
    span = (accepted[-1] - accepted[start]) / ((len(accepted) - 1 - start) * refi)
    peak = memory.channel_bytes_per_s * memory.tick_s / memory.organisation.atom_bytes
    assert found.fraction == pytest.approx(span / peak, rel=1e-12)
    assert found.requests == accepted[-1]


@pytest.mark.parametrize("refresh", ["all", "none"])
def test_gigabytes_are_not_simulated_request_by_request(refresh: str) -> None:
    whole = simulate(HBM2, read_pattern(f"seq_read:refresh={refresh},requests=33554432"))
    assert whole.requests >= 1 << 25  # 32 B each: 1 GB
    assert whole.simulated < 0.1 * whole.requests
    part = simulate(HBM2, read_pattern(f"seq_read:refresh={refresh},requests=600000"))
    assert whole.fraction == pytest.approx(part.fraction, rel=1e-3)


visits = st.lists(st.builds(BundleRead, st.integers(0, 3), st.integers(1, 64), st.integers(2, 6)), max_size=20)


@given(first=visits, second=visits)
def test_two_masters_lie_between_the_longer_and_the_sum(first: list[BundleRead], second: list[BundleRead]) -> None:
    memory = load_memory("hbm3-5200-8hi")
    assert bundles_of(memory) == 4
    alone = [sum(v.columns * v.clocks for v in side) for side in (first, second)]
    both = meet(memory, first, second)
    assert both.columns == [sum(v.columns for v in side) for side in (first, second)]
    price = switch_clocks(memory)
    assert max(alone) <= both.clocks <= sum(alone) + both.switches * price
    if not {v.bundle for v in first} & {v.bundle for v in second}:
        assert both.clocks == max(alone)


@given(order=st.permutations(["pc", "bg", "ba", "sid", "ro", "co"]), xor=st.booleans(),
       blocks=st.lists(st.integers(0, (1 << 25) - 1), unique=True, max_size=50))  # fmt: skip
def test_mappings_give_every_block_a_place_of_its_own(order: list[str], xor: bool, blocks: list[int]) -> None:
    mapping = read_mapping(",".join(order) + ("+xor" if xor else ""), HBM3)
    places = set()
    for block in blocks:
        place = 0
        for byte, table in enumerate(mapping.tables):
            place ^= int(table[block >> 8 * byte & 255])
        bank, row = place & (1 << COL_SHIFT) - 1, place >> ROW_SHIFT
        assert bank < HBM3.organisation.banks_per_channel
        assert row < HBM3.organisation.rows
        places.add(place)
    assert len(places) == len(blocks)


def test_random_numbers_are_splitmix64() -> None:
    # The first two numbers of Vigna's splitmix64.c from state 0.
    assert mix_whole(0) == 0xE220A8397B1DCDAF
    assert mix_whole(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


# --- bad descriptions ---------------------------------------------------------------------------

OWN = """
extends: hbm3-6400-8hi
name: own
title: Own memory
sources: {{made: made up for this test}}
{body}
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("timings: {RP: 0, source: made}", "tRP is zero"),
        ("timings: {RAS: 20, source: made}", "tRAS (20) is less than tRCD (31)"),
        ("timings: {RFC: 7000, source: made}", "leaves no time in tREFI"),
        ("organisation: {bank_groups: 64, source: made}", "more than the 128"),
        ("organisation: {banks: 3, source: made}", "power of two"),
        ("pim: {bundle_banks: 32, source: made}", "crosses stacks"),
        ("timings: {CL: 20.5, source: made}", "CL"),
        ("timings: {XX: 1, source: made}", "unknown key"),
        ("tCK_ns: 0.7", "has no source"),
    ],
)
def test_bad_descriptions_get_one_line(tmp_path: Path, body: str, says: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(body=body))
    with pytest.raises(SpecError) as caught:
        load_memory(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("co,pc,bg,ba,sid,xx", "unknown field 'xx'"),
        ("co,pc,bg,ba,sid", "leaves out bit 0 of ro"),
        ("co,co,pc,bg,ba,sid,ro", "twice"),
        ("colonel", "unknown name"),
        ("col64+add", "+add is unknown"),
    ],
)
def test_bad_mappings_get_one_line(mapping: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_mapping(mapping, HBM3)
    assert says in str(caught.value)
    assert all(field in FIELDS for field in ("pc", "ro"))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("walk_read", "unknown pattern"),
        ("stride_read", "needs S="),
        ("rand_read:S=100", "multiple of 32"),
        ("rand_read:Z=1", "unknown key 'Z'"),
        ("rand_read:rdq=0", "positive whole number"),
        ("seq_rw:rw=0:0", "2:1"),
        ("seq_read:nch=99", "16 channels"),
        ("seq_read:refresh=often", "refresh must be one of"),
        ("seq_read:page=shut", "closedcapN"),
        ("seq_read:rate=0", "rate must be"),
    ],
)
def test_bad_patterns_get_one_line(pattern: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        simulate(HBM3, read_pattern(pattern))
    assert says in str(caught.value)


def test_a_new_standard_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    body = "tCK_ns: {value: 0.5, source: made}\ntimings: {FAW: 30, source: made}"
    path.write_text(OWN.format(body=body))
    memory = load_memory(path)
    assert memory.channel_bytes_per_s == pytest.approx(64e9)
    found = simulate(memory, read_pattern("seq_read"))
    # The same clocks at another rate: the same share of the pins, but for tFAW.
    assert found.fraction == pytest.approx(fraction("hbm3-6400-8hi", "seq_read"), abs=0.01)


def test_channels_of_one_stream_are_alike() -> None:
    one = simulate(HBM3, replace(read_pattern("seq_read"), requests=20_000))
    all_of_them = simulate(HBM3, replace(read_pattern("seq_read:nch=16"), requests=20_000))
    assert all_of_them.fraction == pytest.approx(one.fraction, rel=1e-12)
    assert all_of_them.bytes_per_s == pytest.approx(16 * one.bytes_per_s)
