"""Are the measured tables that come with the package what their rule says, with licence, small and in order?"""

from __future__ import annotations

import csv
import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.validate.kernels import fractions, own_tables, validate_kernels
from opbyte.workloads.kernel_tables import read_tables

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def box() -> ModuleType:
    spec = importlib.util.spec_from_file_location("box", ROOT / "docs" / "converters" / "box.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows() -> list[dict[str, str]]:
    found = []
    for path in sorted(own_tables().glob("*.csv")):
        with path.open(newline="") as file:
            found += list(csv.DictReader(line for line in file if not line.startswith("#")))
    return found


def test_they_are_few_and_whole(box: ModuleType) -> None:
    files = sorted(own_tables().glob("*.csv"))
    assert [path.stem for path in files] == sorted(box.FAMILIES)
    assert sum(path.stat().st_size for path in files) < 1 << 20
    tables, skipped = read_tables([own_tables()])
    assert not skipped
    for table in tables.values():
        count = Counter(table["device"].tolist())
        assert max(count.values()) <= box.ROWS
        assert set(count) <= set(box.DEVICES)
    assert sum(map(len, tables.values())) > 3000


def test_every_source_has_its_licence(box: ModuleType) -> None:
    sources = {row["source"].partition("/")[0] for row in rows()}
    assert sources == set(box.SOURCES)
    licences = (own_tables() / "LICENCES.md").read_text()
    data = (ROOT / "docs" / "data-kernels.md").read_text()
    for where in box.SOURCES.values():
        repository = where.partition(",")[0]
        assert repository in licences
        assert f"github.com/{repository}" in data
        assert any(licence in where for licence in ("Apache-2.0", "MIT"))


def test_the_rule_chooses_them(
    box: ModuleType, data_set: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["box.py", str(data_set("measured")), "--out", str(tmp_path)])
    box.main()
    for path in own_tables().glob("*.csv"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_choice_does_not_depend_on_the_order(box: ModuleType) -> None:
    lines = ["source,device,x"] + [f"aiter/1,MI300X-192GB,{i}" for i in range(500)]
    chosen = box.thinned(lines)
    assert len(chosen) == box.ROWS + 1
    assert set(box.thinned([lines[0], *reversed(lines[1:])])) == set(chosen)
    assert box.thinned([*lines, "other,MI300X-192GB,1", "aiter/1,A40-48GB,1"]) == chosen


def test_the_models_are_within_their_bounds_and_say_that_they_know_them() -> None:
    result = validate_kernels()
    assert result.passed
    assert result.seen == len(rows())
    assert "of a fit" in str(result.blocks()[-1])
    assert {check.device for check in result.checks} == {"a100-80gb", "b200", "h100", "h200", "mi300x"}


def test_fractions_follow_from_the_rows() -> None:
    """Of one call each by hand: a decode is bound by its cache, a prompt's experts by arithmetic."""
    checks = [c for c in validate_kernels().checks if c.rows is not None and c.device == "h100"]
    found = fractions(checks)
    assert set(found["family"]) == {"attention_decode", "attention_prefill", "moe"}
    assert found["measured"].between(0.0, 4.0).all()
    (decode,) = (c for c in checks if c.family == "attention_decode")
    t, own = decode.table, found[found["family"] == "attention_decode"].reset_index()
    sizes = np.where(t["kv_dtype"] == "fp8", 1.0, 2.0)
    window = np.where(t["window"] > 0, t["window"], np.inf)
    keys = np.minimum(t["kv_len"], window)
    moved = t["batch"] * t["head_dim"] * (2 * t["heads_kv"] * keys * sizes + 4 * t["heads_q"])
    flops = 4.0 * t["batch"] * t["heads_q"] * t["head_dim"] * keys
    np.testing.assert_allclose(own["op_per_byte"], flops / moved, rtol=1e-9)
    seconds = np.maximum(flops / 989.4e12, moved / 3.35e12)
    np.testing.assert_allclose(own["measured"], seconds / t["measured_s"], rtol=2e-3)
