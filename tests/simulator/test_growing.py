"""Runs that grow are those that begin anew, to the bit."""

from dataclasses import fields

import numpy as np
import pytest

from opbyte.simulator.fleet.growing import Growing
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario

BASE = Scenario.of(
    "llama-3-8b", system="h100-x1", input_len=512, output_len=128, lengths="lognormal", rate=30.0, policy="vllm"
)
CASES = {
    "alone": {},
    "overloaded": {"rate": 200.0, "seed": 3},
    "replicas": {"rate": 90.0, "replicas": 3},
    "experts": {"model": "mixtral-8x7b", "system": "h100-x4", "rate": 8.0, "policy": "chunked"},
    "ranks": {"model": "mixtral-8x7b", "system": "h100-x4", "rate": 6.0, "policy": "chunked", "tp": 2, "dp": 2},
    "router": {"rate": 90.0, "replicas": 3, "router": "least-loaded"},
    "stages": {"system": "h100-x2", "tp": 1, "pp": 2, "rate": 20.0},
}
APART = ("router", "stages")


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_grows_is_the_one_that_begins_anew(case: str) -> None:
    """Stamps, counts, joules and windows, whatever it grew from; what is not alone is run anew each time."""
    scenario, grown = BASE.changed(**CASES[case]), Growing()
    for count in (100, 150, 400):
        asked = scenario.changed(requests=count)
        new, more = run_scenario(asked), run_scenario(asked, grown=grown)
        for field in fields(new):
            a, b = getattr(new, field.name), getattr(more, field.name)
            if field.name == "requests":
                for name, column in a.columns().items():
                    assert np.array_equal(column, b.columns()[name], equal_nan=column.dtype.kind == "f"), name
            elif field.name not in ("wall_s", "deployment", "policy"):
                assert repr(a) == repr(b), field.name
    assert (grown.driver is None) == (case in APART)
