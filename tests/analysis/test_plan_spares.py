"""Are there enough spare replicas for the share of time that is asked, and does a simulation with failures agree?

Expected values: the binomial distribution summed term by term; the failures of `simulate`, with the planned replicas.
"""

from __future__ import annotations

from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import InputError, plan, simulate
from opbyte.analysis.studies.plan.spares import Outages, latencies, met_by

WORK: dict[str, Any] = {"input_len": 256, "output_len": 64, "lengths": "lognormal"}
LEVEL = "ttft_p99=0.25,tpot_p99=0.02"
FAILS: dict[str, Any] = {"mtbf": 120.0, "repair": 6.0}


@given(
    needed=st.integers(1, 40), mtbf=st.floats(10.0, 1e6), rarer=st.floats(1.0, 100.0), repair=st.floats(0.0, 10.0),
    asked=st.sampled_from([0.5, 0.9, 0.99, 0.999, 0.99999]),
)  # fmt: skip
def test_more_failures_never_need_fewer_replicas(
    needed: int, mtbf: float, rarer: float, repair: float, asked: float
) -> None:
    """The number is the fewest that suffices, and falls neither with the failures nor with the share of time."""
    often, rare = Outages(mtbf, repair, asked), Outages(mtbf * rarer, repair, asked)
    count = often.replicas(needed)
    assert rare.replicas(needed) <= count
    assert Outages(mtbf, repair, asked / 2 + 0.5).replicas(needed) >= count
    up = often.up
    up_at_least = sum(comb(count, n) * up**n * (1 - up) ** (count - n) for n in range(needed, count + 1))
    assert often.share(needed, count) == pytest.approx(up_at_least, rel=1e-6)
    assert up_at_least >= asked * (1 - 1e-9)
    assert count == needed or often.share(needed, count - 1) < asked


def test_planned_spares_hold_in_a_simulation_with_failures() -> None:
    """Requests of a run with random failures meet the limits but for the share of time in which too few are up."""
    given_: dict[str, Any] = {"load": 60.0, "most_devices": 8, "workers": 1, "tp": 1, **WORK}
    usual = plan("llama-3-8b", "a100-80gb-x1", LEVEL, **given_)
    found = plan("llama-3-8b", "a100-80gb-x1", LEVEL, availability=0.99, **FAILS, **given_)
    p, outage = found.winner, found.searched[0].outage
    assert p is not None
    assert usual.winner is not None
    assert outage is not None
    assert p.copies == usual.winner.copies == outage.needed
    assert p.spares > 0
    assert p.devices == p.started == outage.replicas
    assert outage.share >= 0.99
    assert (outage.without["tpot_p99"] or 0.0) < (outage.during["tpot_p99"] or 0.0)
    assert "Failures: " in str(found.blocks())
    assert found.to_dict()["winner"]["copies"] == p.started
    assert "Failures: " not in str(usual.blocks())
    assert "outage" not in usual.to_dict()["winner"]
    run = simulate("llama-3-8b", "a100-80gb-x1", rate=60.0, requests=20_000, replicas=p.started, policy="vllm", **FAILS,
                   **WORK).run  # fmt: skip
    assert run.failures > 5
    r = run.requests
    late = (r.first_token_s - r.arrival_s > 0.25).mean()
    assert late <= 0.01 + 2 * (1 - outage.share)


def test_what_an_outage_meets_is_not_what_it_does_not() -> None:
    """Requests that have ended before, or arrive when the replica is back, are not counted."""
    run = simulate("llama-3-8b", "a100-80gb-x1", rate=40.0, requests=400, **WORK).run
    r = run.requests
    met = met_by(run, 2.0, Outages(100.0, 3.0))
    assert 0 < met.sum() < len(r)
    assert r.last_token_s[met].min() > 2.0
    assert r.arrival_s[met].max() < 5.0
    figures = latencies(run, {"e2e_mean": 1.0, "tbt_p99": 1.0}, met)
    assert figures == {"e2e_mean": pytest.approx(float((r.last_token_s - r.arrival_s)[met].mean()))}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mtbf": 100.0}, "mtbf: needs repair"),
        ({"availability": 0.9}, "availability: needs mtbf and repair"),
        ({"mtbf": 1.0, "repair": 100.0}, "repair: must be at most 99 times mtbf"),
        ({"mtbf": 1e4, "repair": 1.0, "fail": ("0@1",)}, "fail: cannot be combined with mtbf"),
        ({"mtbf": 1e4, "repair": 1.0, "availability": 1.5}, "availability"),
    ],
)
def test_options_of_failures_are_refused_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        plan("llama-3-8b", "a100-80gb-x1", LEVEL, load=1.0, **options)
