"""Does the harness count what it should: cold inputs, left alone, in the usual state of the machine?

No time is asserted: a test machine is never quiet.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from opbyte.kernels import experts, rmsnorm
from opbyte.kernels.ceilings import MachineRates, rates
from opbyte.kernels.lab import Bench, kernels
from opbyte.kernels.measure import QUICK
from opbyte.kernels.rounds import MeasuringPlan, RoundTimes, TimedCase, counted, together, usual, visit_all
from opbyte.kernels.timing import TASKS, CoreWaits, TimedRuns, pinned, repeat

SLOW, USUAL, FAST = MachineRates(27e9, 118e9), MachineRates(31e9, 235e9), MachineRates(55e9, 235e9)


def visit(state: MachineRates, *seconds: float, alone: bool = True) -> RoundTimes:
    count = len(seconds)
    return RoundTimes(TimedRuns([*seconds], [alone] * count, [*seconds]), state, state)


def memory_bound(rates: MachineRates) -> float:
    """Least seconds of reading 31 MB."""
    return 31e6 / rates.read_Bps


WORK = TimedCase(lambda i: None, memory_bound)


def test_the_usual_state_is_the_most_frequent() -> None:
    near = MachineRates(32e9, 230e9)
    assert usual([FAST, USUAL, SLOW, near, FAST, USUAL, SLOW]) == USUAL


def test_only_visits_in_the_usual_state_count() -> None:
    visits = [visit(USUAL, 1e-3, 1.1e-3), visit(SLOW, 9e-3, 9e-3, 9e-3), visit(FAST, 1e-4)]
    taken, chosen = together(visits, WORK, USUAL)
    assert chosen == visits[:1]
    assert (taken.accepted, taken.taken) == (2, 2)
    assert taken.median_s == pytest.approx(1.05e-3)
    assert counted(visits, USUAL) == 2


def test_a_state_that_ended_halfway_does_not_count() -> None:
    changed = RoundTimes(TimedRuns([1e-3], [True], [1e-3]), USUAL, FAST)
    assert not changed.within(USUAL)


def test_times_of_another_state_are_scaled_by_their_floor() -> None:
    """1 ms of reading at 31 GB/s where the rate was 55: 0.56 ms, and what is not reading stays."""
    read_s = memory_bound(FAST)
    taken, _ = together([visit(FAST, read_s + 2e-4)], WORK, USUAL)
    assert taken.median_s == pytest.approx((read_s + 2e-4) * (1 + (1e-3 - read_s) / (read_s + 2e-4)))
    assert taken.median_s == pytest.approx(1e-3 + 2e-4)


def test_where_none_was_left_alone_the_callers_time_stands() -> None:
    times = TimedRuns([5e-3, 4e-3, 9e-3, 9e-3], [False] * 4, [2e-3, 3e-3, 2e-3, 3e-3])
    taken = times.sample()
    assert taken.median_s == pytest.approx(3e-3)  # the quarter that had a core for most of it
    assert (taken.accepted, taken.taken) == (0, 4)


def test_rounds_end_and_go_on_for_those_that_lack() -> None:
    calls: list[list[int]] = [[], []]
    work = [TimedCase(seen.append, lambda _: 0.0) for seen in calls]
    plan = MeasuringPlan(rounds=2, most_rounds=4, enough=1, visit_s=1e-4, budget_s=0.0, least=1)
    visits, state = visit_all(work, Bench(64 << 20, 1), plan)
    assert state.read_Bps > 0
    assert state.fma_flops_per_s > 0
    for seen, one in zip(calls, visits, strict=True):
        assert 2 <= len(one) <= 3
        assert seen == list(range(len(seen))) or len(set(seen)) > len(seen) // 2  # sets in turn


def test_threads_are_held_and_let_go() -> None:
    if not hasattr(os, "sched_getaffinity") or not TASKS.is_dir():
        pytest.skip("no system that holds threads to cores")
    before = os.sched_getaffinity(0)
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    assert other.native_id is not None
    with pinned():
        held = os.sched_getaffinity(0), os.sched_getaffinity(other.native_id)
    after = os.sched_getaffinity(0), os.sched_getaffinity(other.native_id)
    go.set()
    other.join()
    if len(before) > 1:
        assert [len(cores) for cores in held] == [1, 1]
        assert held[0] != held[1]
    assert after == (before, before)


def test_waiting_is_known_or_said_to_be_unknown() -> None:
    with CoreWaits() as waits:
        first, second = waits.seconds(), waits.seconds()
    assert len(first) == len(second)
    assert all(0 <= a <= b for a, b in zip(first, second, strict=True))
    assert waits.seconds() == []


def test_repeat_goes_on_where_it_is_told_and_warms_up() -> None:
    calls: list[int] = []
    times = repeat(calls.append, threads=1, least=1, most=2, budget_s=1.0, warm_up=3, first=7)
    assert calls == list(range(7, 10 + len(times.seconds)))
    assert len(times.seconds) == len(times.counts) == len(times.own_s)


def test_inputs_of_a_case_do_not_share_memory() -> None:
    """The largest experts once took more than the block: gate and up weights were one array."""
    bench = Bench(64 << 20, 1)
    with pytest.raises(ValueError, match="do not fit"):
        experts.case({"dtype": "fp32", "tokens": 1, "hidden": 2048, "inter": 768, "experts": 24, "topk": 8}, bench)
    assert bench.copies(1.0) > 64


def test_quick_shapes_fit_the_block() -> None:
    largest = max(
        3 * 4.0 * s["experts"] * s["hidden"] * s["inter"]
        for k in kernels("numba") if k.name == "experts" for s in k.shapes(True)
    )  # fmt: skip
    assert largest < 512 << 20
    assert QUICK.enough >= 5


def test_residuals_take_turns_like_inputs() -> None:
    bench = Bench(64 << 20, 1)
    ready = rmsnorm.case({"kernel": "fused_add_rmsnorm", "rows": 16, "cols": 512}, bench)
    ready.check()
    assert ready.copies > 64
    room = bench.room((4, 16))
    assert np.isfinite(room).all()
    assert not np.shares_memory(room, bench.block)


def test_rates_are_taken() -> None:
    found = rates(Bench(64 << 20, 1))
    assert found.read_Bps > 1e8
    assert found.fma_flops_per_s > 1e8
