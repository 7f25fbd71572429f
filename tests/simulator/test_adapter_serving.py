"""Do requests wait for adapters as slots and link say, and only then?

Closed forms: a single user of a slot waits one load; a slow reference follows the rule of
`simulator/parts/adapters` event by event. A run without adapters does not change by a bit.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.analysis.answers.simulate import Simulation
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.fleet.pools import Pools
from opbyte.simulator.parts.adapters.run import (
    AdapterCounts,
    AdapterShelf,
    Choices,
    HostLink,
    by_names,
    load_seconds,
    popularity,
)
from opbyte.workloads.adapters import Tenants
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.requests import RequestBlock, open_requests

MODEL, SYSTEM = "llama-2-7b", "a100-80gb-x1"
LOAD_S = 1.0
COMMON = {"requests": 60, "input_len": 64, "output_len": 12, "seed": 3}


def run(**options: object) -> Simulation:
    return simulate(MODEL, SYSTEM, **{**COMMON, "rate": 20, **options})


@given(
    slots=st.integers(1, 4),
    jobs=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 3), st.floats(0.01, 4)), min_size=1, max_size=30),
)
@settings(max_examples=100)
def test_slots_hold_what_is_used_and_the_link_carries_one_after_another(
    slots: int, jobs: list[tuple[int, float, float]]
) -> None:
    env = simpy.Environment()
    began: dict[int, float] = {}
    running: dict[int, int] = {}

    def release(row: int, at: float, _cached: int) -> None:
        began[row] = at
        name, service = jobs[row][0], jobs[row][2]
        assert at == pytest.approx(env.now)
        assert cache_state._ready[name] <= at  # it is there
        running[row] = name
        assert len(set(running.values())) <= slots

        def end(_: simpy.Event) -> None:
            del running[row]
            cache_state.done(row, env.now)

        env.timeout(service).callbacks.append(end)

    choices, state = Choices(Tenants(6, 8, slots), 0), SimpleNamespace()
    link = HostLink(SimpleNamespace(state=state, parts={}, step_totals=SimpleNamespace(cache_state=None)))
    cache_state = AdapterShelf(
        lambda at, call: env.timeout(max(at - env.now, 0.0)).callbacks.append(lambda _: call()),
        choices, link, LOAD_S, AdapterCounts(), release,
    )  # fmt: skip
    names = np.array([name for name, _, _ in jobs])
    none = np.ones(len(jobs), dtype=np.int64)
    choices.read(RequestBlock(none, none * 0.0, none, none, adapters=names))
    arrival = np.cumsum([gap for _, gap, _ in jobs])
    for row, at in enumerate(arrival):
        env.timeout(at).callbacks.append(lambda _, row=row: cache_state.ask(row, env.now))
    env.run()
    assert len(began) == len(jobs)  # nothing is lost
    assert all(began[row] >= arrival[row] - 1e-9 for row in began)
    c = cache_state.counts
    waited = sum(began[row] - arrival[row] for row in began)
    assert c.waited_s == pytest.approx(waited, abs=1e-6)
    assert c.link_s == pytest.approx(c.loads * LOAD_S)
    assert len(set(names)) <= c.loads <= c.asked == len(jobs)
    assert max(began.values()) <= arrival[-1] + sum(s + LOAD_S for _, _, s in jobs) + 1e-6


def test_a_lone_request_waits_one_load_and_the_next_of_its_tenant_none() -> None:
    """At a request every 10 s: two tenants in turn on one slot load each time; one tenant once."""
    d = deploy(load_model(MODEL), load_system(SYSTEM), adapters=Tenants(2, 16, 1))
    load = load_seconds(d)
    assert load == pytest.approx(10e-6 + 16 * 2_498_560 * 2 / 25e9)

    def ttft(names: str) -> tuple[float, int]:
        rows = "".join(f"{10 * i},64,4,{name}\n" for i, name in enumerate(names))
        path = Path("trace.csv")
        path.write_text(f"arrival_s,input_tokens,output_tokens,adapter\n{rows}")
        found = simulate(MODEL, SYSTEM, trace="trace.csv", adapters=2, adapters_resident=1).run
        return float(found.ttft_s.mean), found.parts["adapters"].counts.loads

    alone, once = ttft("0000")
    turns, each = ttft("0101")
    assert (once, each) == (1, 4)
    assert turns - alone == pytest.approx(load * 3 / 4, rel=1e-6)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_closed_loops_and_sessions_wait_too() -> None:
    options = {"rate": None, "closed_loop": 6, "adapters": 12, "adapters_resident": 3}
    found = run(**options).run
    assert len(found.requests.request_id) == 60
    assert found.parts["adapters"].counts.loads > 3
    turns = run(rate=2, turns=3, requests=30, adapters=12, adapters_resident=3).run
    assert len(turns.requests.request_id) == 30


def test_a_column_of_adapters_changes_nothing_without_them() -> None:
    block = open_requests(rate=5.0, input_len=50, output_len=8, limit=40).read()
    text = "arrival_s,input_tokens,output_tokens"
    columns = (block.arrival_s, block.input_tokens, block.output_tokens)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    Path("bare.csv").write_text("\n".join([text, *(f"{a!r},{i},{o}" for a, i, o in rows)]) + "\n")
    named = [f"{a!r},{i},{o},{k % 3}" for k, (a, i, o) in enumerate(rows)]
    Path("named.csv").write_text("\n".join([f"{text},adapter", *named]) + "\n")
    bare, with_names = (simulate(MODEL, SYSTEM, trace=name).run for name in ("bare.csv", "named.csv"))
    assert np.array_equal(bare.requests.last_token_s, with_names.requests.last_token_s)
    assert bare.joules == with_names.joules
    read = open_requests("named.csv").read()
    assert read.adapters is not None
    assert read.adapters.tolist() == [k % 3 for k in range(len(rows))]


def test_steps_use_adapters_as_often_as_requests_name_them() -> None:
    rows = "".join(f"{i},64,4,{(i % 4 == 0) * 5}\n" for i in range(40))
    Path("t.csv").write_text(f"arrival_s,input_tokens,output_tokens,adapter\n{rows}")
    stream = open_requests("t.csv")
    d = deploy(load_model(MODEL), load_system(SYSTEM), adapters=Tenants(6, 8, 6))
    prob = by_names(d.parts["adapters"], Pools((d,)), stream).entry[0].experts[0].router.prob[0]
    assert prob.tolist() == [0.75, 0, 0, 0, 0, 0.25]
    slots = deploy(load_model(MODEL), load_system(SYSTEM), adapters=Tenants(6, 8, 2))
    both = by_names(slots.parts["adapters"], Pools((slots,), (slots,)), stream)
    assert both.entry[0] is both.decode[0]
    assert both.decode[0].experts[0].router.prob[0].tolist() == prob.tolist()
    assert by_names(d.parts["adapters"], Pools((d,)), open_requests(rate=1.0, limit=5)).entry[0] is d
    assert popularity(Tenants(4, 8, 4)).tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("7", {"adapters": 4}, "t.csv: row 3: adapter must be from 0 to 3 (adapters 4), not 7"),
        ("-1", {"adapters": 4}, "t.csv:4: adapter '-1' must be a whole number from 0"),
        ("x", {"adapters": 4}, "t.csv:4"),
        ("0", {"adapter_rank": 4}, "adapter_rank: needs adapters N"),
        ("0", {"adapters": 4, "adapter_rank": 9000}, "adapter_rank: must be at most 4096"),
        ("0", {"adapters": 4, "experts_resident": "2"}, "experts_resident"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(cell: str, options: dict[str, object], message: str) -> None:
    rows = "".join(f"{i},64,4,{cell if i == 2 else 0}\n" for i in range(5))
    Path("t.csv").write_text(f"arrival_s,input_tokens,output_tokens,adapter\n{rows}")
    with pytest.raises(InputError) as caught:
        simulate(MODEL, SYSTEM, trace="t.csv", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapters_that_no_memory_holds_are_refused() -> None:
    with pytest.raises(CapacityError, match="adapters_resident N leaves all but N"):
        run(adapters=1000)
    with pytest.raises(CapacityError, match=r"4000 adapters need 297\.9 GiB"):
        run(adapters=4000, adapters_resident=4)
