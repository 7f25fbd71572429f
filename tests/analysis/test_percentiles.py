"""Is a percentile of a latency one name and one number in every command?

Expected values are quantiles of the requests' own timestamps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.studies.loads import judged, read_level
from opbyte.analysis.studies.sweep import sweep
from opbyte.analysis.studies.sweep.expression import parse
from opbyte.analysis.studies.sweep.point import FIGURES
from opbyte.workloads.latencies import MEASURES

from .conftest import Ask, Write

WORK = {"rate": 20.0, "requests": 60, "input_len": 64, "output_len": 16, "lengths": "lognormal"}
BASE = {"model": "llama-3-8b", "system": "h100-x1", **WORK}
SHOWN = "p95, 99.9,p37.5"
RUN = simulate(**BASE).run
WAITS = RUN.requests.first_token_s - RUN.requests.arrival_s


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 999), st.sampled_from(sorted(MEASURES)), st.booleans())
def test_a_percentile_is_the_same_wherever_it_is_asked_for(tenth: int, measure: str, unit: bool) -> None:
    quantile = f"p{tenth / 10:g}"
    value = getattr(RUN, f"{measure}_s").at(quantile)
    name = f"{measure}_s_{quantile}" if unit else f"{measure}_{quantile}"
    if measure == "ttft":
        assert value == pytest.approx(np.quantile(WAITS, tenth / 1000))
    assert judged(RUN, 20.0, read_level(f"{name}=1")).figures[name] == value
    condition = parse(f"2 * {name} <= {2 * value!r}", "limit", FIGURES)
    assert condition.names == {f"{measure}_s_{quantile}"}


def test_simulations_and_sweeps_show_the_percentiles_asked_for(write: Write, tmp_path: Path) -> None:
    one = simulate(**BASE, percentiles=SHOWN)
    expected = {q: RUN.tpot_s.at(q) for q in ("mean", "p37.5", "p50", "p90", "p95", "p99", "p99.9")}
    assert one.to_dict()["tpot_s"] == expected
    assert {**one.frame().set_index("metric")["value"]}["tpot_s_p99.9"] == expected["p99.9"]
    text = "\n".join(f"  {name}: {value}" for name, value in BASE.items() if name != "rate")
    study = f"base:\n{text}\naxes: {{rate: [20.0]}}\nconstraints: [tpot_p99.9 < 1]\nobjectives: {{tpot_s_p95: min}}\n"
    found = sweep(write("study.yaml", study), tmp_path / "out", workers=1)
    (row,) = found.table
    assert [row["tpot_s_p95"], row["tpot_s_p99.9"], row["feasible"]] == [expected["p95"], expected["p99.9"], True]


def test_a_sweep_refuses_what_is_no_percentile(ask: Ask, write: Write) -> None:
    """Of other commands `refused.txt` has lines."""
    base = "base: {model: llama-3-8b, system: h100-x1}\naxes: {rate: [1]}\n"
    for text in ("objectives: {ttft_p0: min}", "constraints: [ttft_p100 < 1]", "constraints: [ttft_s_p99.99 < 1]"):
        said = ask("sweep", write("s.yaml", f"{base}{text}\n")).refused()
        assert "must be a percentile from p0.1 to p99.9" in said
        assert "s.yaml" in said
