"""How far are replayed serving runs from the measured ones, and is bad input refused clearly?

Bounds are what is reached with a little slack, in fractions; `docs/serving.md` has the figures and
says what is missing. The issue's bars (TTFT 5 %, TPOT 2 %, latency 3 %) are not all met.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.validate_serving import validate_serving
from opbyte.workloads.errors import InputError

BOUNDS = {
    "rtx4090--llama-3.1-8b": {"ttft": 0.02, "tpot": 0.03, "latency": 0.04},
    # Ragged decodes are slower than the tables' equal ones; not modelled.
    "rtxpro6000--llama-3.1-8b": {"ttft": 0.16, "tpot": 0.04, "latency": 0.06},
}


@pytest.mark.parametrize("name", BOUNDS)
def test_replayed_runs(name: str, data_set: Callable[[str], Path]) -> None:
    found = validate_serving([data_set("serving_runs") / name])
    (run,) = found.runs
    metrics = run.metrics()
    assert len(metrics) == 12
    assert len(run.table) == 300
    for metric, values in metrics.items():
        bound = BOUNDS[name][metric.partition("_")[0]]
        assert abs(values["error"]) < bound, (metric, values)
        assert values["error"] == pytest.approx(values["simulated"] / values["measured"] - 1)
    # Nobody gets a token before arriving, and all tokens come.
    assert (run.simulated.ttft > 0).all()
    assert (run.simulated.latency >= run.simulated.ttft).all()
    # Every op is inside the tables, and the answer says so.
    (told,) = (each["kernel_tables"] for each in found.to_dict()["runs"])
    assert [(row["family"], row["outside"]) for row in told] == [
        ("attention", 0), ("matmul", 0), ("vector", 0),
    ]  # fmt: skip
    assert any("Outside the kernel tables" in block for block in found.blocks() if block)


@pytest.fixture
def copy(data_set: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run whose files may be spoilt."""
    source = data_set("serving_runs") / "rtx4090--llama-3.1-8b"
    return Path(shutil.copytree(source, tmp_path / "run"))


def test_bad_runs_are_refused(copy: Path, tmp_path: Path) -> None:
    requests = copy / "requests.csv"
    good = requests.read_text()
    head, *rows = good.splitlines()
    with pytest.raises(InputError, match=r"nowhere.*is no folder"):
        validate_serving([tmp_path / "nowhere"])
    requests.write_text("\n".join([head.replace("queued_s", "queue_s"), *rows]))
    with pytest.raises(InputError, match=r"requests\.csv.*lacks the columns queued_s"):
        validate_serving([copy])
    requests.write_text(head + "\n")
    with pytest.raises(InputError, match=r"requests\.csv.*has no requests"):
        validate_serving([copy])
    requests.unlink()
    with pytest.raises(InputError, match=r"requests\.csv.*does not exist"):
        validate_serving([copy])
    requests.write_text(good)
    shutil.rmtree(copy / "kernels")
    with pytest.raises(InputError, match=r"kernels.*no kernel tables"):
        validate_serving([copy])
    with pytest.raises(InputError, match="at least one folder"):
        validate_serving([])
