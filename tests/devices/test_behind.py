"""Is what is quoted of measured rows true: their format, their size, and what was moved?

Expected values: counts of the committed evidence, which a test below makes anew from the rows, and
the catalog's descriptions changed by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.answers.evidence import evidence
from opbyte.analysis.answers.memory_rows import by_place
from opbyte.analysis.validate.behind import evidence_files
from opbyte.analysis.validate.unequal import NAME
from opbyte.devices.calibrated.behind import SPANS, Behind, behind, folder, transferred
from opbyte.devices.calibrated.calibrate import by_device
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.kernel_sets import FRAMEWORKS, list_sets
from opbyte.devices.calibrated.layer_kernels import split_layers
from opbyte.devices.catalog import load_device
from opbyte.devices.ratios import Ratios
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.scenario.load import load
from opbyte.workloads.batch import Batch
from opbyte.workloads.kernel_tables import read_tables


def gemm(device: str, dtype: str, m: int = 64, path: Path | None = None) -> Behind:
    """What stands behind a projection of Llama-3-70B's size."""
    spec = load_device(path or device)[0]
    model, system = load("llama-3-8b", f"{device}-x1", dtype, None)
    d = deploy(model, system)
    ops = by_place(d, [Batch.of([100] * m)])["xpu"]
    family = families()["gemm"]
    x = family.from_op(ops["gate_up"])
    assert x is not None
    found = behind(spec, family, "typical", x)
    assert found is not None
    return found


def test_rows_are_counted_by_format() -> None:
    """Finding 9: an H100's GEMM rows by format; a format of no row says so, and errs more."""
    bf16, fp8 = gemm("h100", "bf16"), gemm("h100", "fp8")
    assert bf16.rows == fp8.others["bf16"] > 500
    assert fp8.rows == bf16.others["fp8"] > 500
    assert bf16.near > 20
    assert bf16.distance < 8
    untimed = gemm("a100-80gb", "int8")
    assert untimed.rows == untimed.near == 0
    assert untimed.distance == np.inf
    assert set(untimed.others) == {"bf16"}
    assert untimed.ratios.median_error > gemm("a100-80gb", "bf16").ratios.median_error
    assert gemm("a100-80gb", "fp8").rows > 500  # no unit: multiplied in 16 bits


def test_amd_s_bf16_rests_on_next_to_nothing() -> None:
    found = gemm("mi300x", "bf16")
    assert found.rows < 10
    assert found.others["fp8_block"] > 1000
    assert found.near == 0
    assert found.ratios.median_error > 0.3


@given(m=st.integers(1, 4096))
def test_farther_from_the_rows_is_never_surer(m: int) -> None:
    """A call beyond all rows carries the error of a transfer; one among them may not."""
    spec, family = load_device("h100")[0], families()["gemm"]
    model, system = load("llama-3-8b", "h100-x1", None, None)
    ops = by_place(deploy(model, system), [Batch.of([100] * m)])["xpu"]
    x = family.from_op(ops["gate_up"])
    assert x is not None
    far = x.copy()
    far[[0, 1, 2]] *= 1e5
    one, other = (behind(spec, family, "typical", v) for v in (x, far))
    assert one is not None
    assert other is not None
    assert one.near > 0 == other.near
    assert other.distance > 1e3 > one.distance
    wide = transferred("gemm")
    assert other.ratios.high - other.ratios.low >= wide.high - wide.low


@pytest.mark.parametrize(
    ("change", "told"),
    [("title: the same", ""), ("memory: {bandwidth_GBps: {value: 8000, source: 'assumed: more'}}", "h100")],
)
def test_a_changed_device_is_transferred(tmp_path: Path, change: str, told: str) -> None:
    """Finding 9: a hypothetical H100 does not rest on the H100's error."""
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: h100\nname: own\n{change}\n")
    found = gemm("h100", "bf16", path=path)
    assert bool(found.why) is bool(told)
    assert told in found.why
    same = gemm("h100", "bf16").ratios
    if told:
        assert found.ratios.high - found.ratios.low > same.high - same.low
    else:
        assert found.ratios == same
    model, system = load("llama-3-8b", str(path), None, None)
    (entry,) = [e for e in evidence(deploy(model, system), {}) if e["applies_to"] == "GEMM"]
    assert entry["basis"] == ("transferred" if told else "fitted")


def test_frameworks_have_rows_of_their_own() -> None:
    spec, family = load_device("h100")[0], families()["gemm"]
    model, system = load("llama-3-8b", "h100-x1", None, None)
    op = by_place(deploy(model, system), [Batch.of([100] * 64)])["xpu"]["down"]
    x = family.from_op(op)
    assert x is not None
    counts = {key: behind(spec, family, key, x) for key in FRAMEWORKS}
    assert counts["sglang"] is not None
    assert counts["trtllm"] is not None
    assert counts["typical"] is not None
    assert 0 < counts["sglang"].rows < counts["trtllm"].rows < counts["typical"].rows


def test_ratios() -> None:
    one, other = Ratios(-0.2, 0.0, 0.4), Ratios(-0.1, 0.1, 0.2)
    wider = one.wider(other)
    assert wider.middle == pytest.approx(0.1)
    assert wider.middle - wider.low == pytest.approx(np.hypot(0.2, 0.2))
    assert wider.high - wider.middle == pytest.approx(np.hypot(0.4, 0.1))
    assert one.at(np.array([-1.2816, 0.0, 1.2816])).tolist() == pytest.approx([-0.2, 0.0, 0.4])
    even = Ratios.of_errors(0.0674, 0.1)
    assert even.median_error == pytest.approx(0.067, abs=0.006)
    assert Ratios(0.0, 0.0, 0.0).median_error == 0.0


def test_every_size_is_a_quantity() -> None:
    for name, sizes in SPANS.items():
        assert set(sizes) <= set(families()[name].quantities)


def test_the_files_are_those_of_the_rows(data_set: Callable[[str], Path]) -> None:
    """`opbyte validate kernels TABLES --out` writes them; the catalog's are its own."""
    read, _ = read_tables([data_set("measured"), data_set("measured_2026")])
    split_layers(read)
    read.pop(NAME, None)
    made = evidence_files(by_device(read, []))
    held = {path.stem: path.read_text(encoding="utf-8") for path in folder().glob("*.csv")}
    assert set(held) <= {*list_sets(), "transfer"}
    assert made.keys() == held.keys()
    for name, text in made.items():
        lines, own = text.splitlines(), held[name].splitlines()
        apart = sum(a != b for a, b in zip(lines, own, strict=True))
        assert apart <= 0.01 * len(lines), name  # hundredths that round differently
