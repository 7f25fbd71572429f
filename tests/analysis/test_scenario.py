"""Is a scenario one object that commands, sweeps, capacity and Python read alike?

Expected values are those of the options themselves: a field's unit, range and help.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from opbyte import Scenario, simulate, simulate_seeds
from opbyte.analysis.answers.usual import as_usual
from opbyte.analysis.studies.capacity import capacity
from opbyte.analysis.studies.sweep.point import scenario_of
from opbyte.simulator.option import options_of
from opbyte.simulator.scenario.build import engine_settings
from opbyte.simulator.scenario.load import load
from opbyte.simulator.scenario.options import DeployOptions, EngineOptions, Workload
from opbyte.simulator.scenario.place import deployed
from opbyte.workloads.errors import InputError

from .conftest import Ask

OPTIONS = [*options_of(Scenario)]
WORK = {"rate": 4.0, "requests": 10, "input_len": 64, "output_len": 8}

ONE_FIELD = r"""
import contextlib, io, sys
from importlib.machinery import PathFinder, SourceFileLoader
sys.dont_write_bytecode = True
BEFORE = b"    policy: str | None"
FIELD = b'    speculate: int | None = whole("Draft tokens of a step.", 1, 8, unit="tokens")\n'

class Wider(SourceFileLoader):
    def get_data(self, path):
        if path.endswith(".pyc"):
            raise OSError
        text = super().get_data(path)
        assert text.count(BEFORE) == 1
        return text.replace(BEFORE, FIELD + BEFORE)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "opbyte.simulator.scenario.options":
            return None
        spec = PathFinder.find_spec(name, path)
        spec.loader = Wider(name, spec.origin)
        return spec

sys.meta_path.insert(0, Finder)
from opbyte import InputError, Scenario
from opbyte.analysis.cli import main
from opbyte.analysis.studies.sweep.point import check_parameter, scenario_of

def shown(*line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(line))
        except SystemExit as end:
            return end.code, " ".join(out.getvalue().split()), err.getvalue()

for command in ("simulate", "capacity"):
    code, out, _ = shown(command, "--help")
    assert code == 0 and "--speculate N Draft tokens of a step [tokens]." in out, out
work = ["llama-3-8b", "--speculate", "9", "--requests", "5"]
for line in (["simulate", *work, "--system", "h100-x1"],
             ["capacity", *work, "--systems", "h100-x1", "--slo", "ttft_p99=1"]):
    code, _, err = shown(*line)
    assert code == 2 and "--speculate: must be a whole number from 1 to 8, not 9" in err, err
check_parameter("speculate", "axes.speculate")
point = {"model": "llama-3-8b", "system": "h100-x1", "speculate": 2}
scenario = scenario_of(point)
assert scenario == Scenario.of("llama-3-8b", "h100-x1", speculate=2)
assert scenario.serving.speculate == 2
assert [(p.name, p.option.unit, x) for p, x in scenario.given()][2:] == [("speculate", "tokens", 2)]
assert "speculate : int | None\n        Draft tokens of a step [tokens]." in type(scenario.serving).__doc__
"""


def test_an_option_is_one_field(root: Path) -> None:
    """One line in one file, and every command, sweep and report has it with its range."""
    run = subprocess.run([sys.executable, "-c", ONE_FIELD], capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr


def test_every_option_says_what_it_is() -> None:
    assert len({p.name for p in OPTIONS}) == len(OPTIONS)
    for placed in OPTIONS:
        assert placed.option.help.endswith(".")
        assert placed.option.metavar or placed.option.kind is bool


@pytest.mark.parametrize("placed", [p for p in OPTIONS if p.option.low is not None], ids=lambda p: p.name)
def test_ranges_hold_at_both_ends(placed: object) -> None:
    name, option = placed.name, placed.option  # type: ignore[attr-defined]
    for good in (option.low, option.high):
        assert Scenario.of(**{name: option.kind(good)}).option(name) == good
    less = option.low - 1 if option.kind is int or option.low <= 0 else option.low / 2
    more = option.high + 1 if option.kind is int else option.high * 2
    for bad in (less, more):
        with pytest.raises(InputError, match=placed.flag):  # type: ignore[attr-defined]
            Scenario.of(**{name: bad})


def test_parts_and_options_are_interchangeable() -> None:
    flat = Scenario.of("llama-3-8b", "h100-x1", **WORK, tp=1, max_seqs=4)
    parts = Scenario("llama-3-8b", "h100-x1", Workload(**WORK), EngineOptions(max_seqs=4), DeployOptions(tp=1))
    assert flat == parts == scenario_of({"model": "llama-3-8b", "system": "h100-x1", **WORK, "tp": 1, "max_seqs": 4})
    assert Scenario.of(flat, workload=Workload(), rate=2.0).workload == Workload(rate=2.0)
    assert pickle.loads(pickle.dumps(flat)) == flat
    with pytest.raises(InputError, match="--max-sqs: unknown option; did you mean 'max_seqs'"):
        flat.changed(max_sqs=3)
    with pytest.raises(InputError, match="--policee: unknown option"):
        capacity("llama-3-8b", "h100-x1", "e2e_p90=1", policee="vllm")


def test_python_takes_a_scenario_or_keywords() -> None:
    scenario = Scenario.of("llama-3-8b", "h100-x1", **WORK)
    one, two = simulate(scenario), simulate("llama-3-8b", "h100-x1", **WORK)
    assert one.scenario == two.scenario == as_usual(scenario)
    assert one.to_dict() | {"wall_s": 0} == two.to_dict() | {"wall_s": 0}
    seeds = simulate_seeds(scenario, seeds=2)
    assert [run.scenario.seed for run in seeds.runs] == [0, 1]
    assert seeds.runs[0].run.tbt_s == one.run.tbt_s
    lengths = scenario.changed(rate=None)
    first = capacity(lengths, "h100-x1", "e2e_p90=3", tolerance=0.5)
    given = {name: WORK[name] for name in WORK if name != "rate"}
    assert first == capacity("llama-3-8b", "h100-x1", "e2e_p90=3", tolerance=0.5, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rate: is varied by the search"):
        capacity(scenario, "h100-x1", "e2e_p90=3")
    with pytest.raises(InputError, match="MODEL: is needed"):
        simulate(rate=1.0)


def test_capacity_takes_uneven_arrivals(ask: Ask) -> None:
    """The probe is a closed loop, which has no arrivals that could vary."""
    line = ("capacity", "llama-3-8b", "--systems", "h100-x1", "--slo", "e2e_p90=3", "--requests", 8,
            "--input-len", 64, "--output-len", 8, "--cv", 2, "--tolerance", 0.9, "--json")  # fmt: skip
    assert ask(*line).json()["rows"][0]["load_per_s"] > 0


def test_options_come_before_the_engines_file(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({
        "tensor_parallel_size": 2, "enable_expert_parallel": True, "max_num_seqs": 7,
        "max_num_batched_tokens": 99, "max_model_len": 50, "dtype": "bfloat16",
    }))  # fmt: skip
    scenario = Scenario.of("llama-3-8b", "h100-x2", engine=file)
    own = engine_settings(scenario)
    assert (own.tp, own.ep, own.max_model_len, own.dtype) == (2, 2, 50, "bf16")
    assert (own.policy.name, own.policy.max_sequences, own.policy.token_budget) == ("vllm", 7, 99)
    model, system = load("llama-3-8b", "h100-x2")
    assert deployed(model, system, scenario.deployment, own).layout.tp == 2  # no experts: no ep
    told = engine_settings(scenario.changed(tp=1, max_seqs=3, max_model_len=20, dtype="fp8"))
    assert (told.tp, told.max_model_len, told.dtype) == (1, 20, "fp8")
    assert (told.policy.max_sequences, told.policy.token_budget) == (3, 99)
    with pytest.raises(InputError, match="tp"):
        simulate(scenario.changed(tp=0), **WORK)
