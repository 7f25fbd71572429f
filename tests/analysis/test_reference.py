"""Is the reference what the code says, do templates work as they are, and do schemas know the files?"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from opbyte.analysis.commands.app import names
from opbyte.analysis.manual.keywords import module
from opbyte.analysis.manual.page import NAMED_ELSEWHERE, page
from opbyte.analysis.names import LISTS, catalog
from opbyte.analysis.reference.keys import blocks, meanings
from opbyte.analysis.reference.kinds import TEMPLATES, schema, template
from opbyte.analysis.studies.sweep.point import FIGURES
from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.dram.spec import DramSpec, load_memory
from opbyte.devices.hosts.catalog import load_host
from opbyte.devices.spec import SystemSpec
from opbyte.workloads.ops import OP_KINDS

from .conftest import Ask

ROOT = Path(__file__).parents[2]
DEVICES = sorted((ROOT / "devices" / "specs").glob("*.yaml"))


def errors(kind: str, found: Any) -> list[str]:
    checker = jsonschema.Draft202012Validator(schema(kind))
    return [f"{list(e.path)}: {e.message[:200]}" for e in checker.iter_errors(found)]


def test_the_page_is_what_the_code_says() -> None:
    """After a change of options, keys or names: python -m opbyte.analysis.manual."""
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == page()


def test_types_of_options_are_current() -> None:
    """So that checkers of users' scripts know every option; written as the page is."""
    path = ROOT / "simulator" / "scenario" / "keywords.pyi"
    own, written = ast.parse(module()), ast.parse(path.read_text(encoding="utf-8"))
    assert ast.dump(own) == ast.dump(written)  # the formatter may break its lines


def test_the_example_of_a_study_runs(tmp_path: Path) -> None:
    """`make types` checks its types as those of one who imports the package."""
    script = ROOT / "docs" / "examples" / "study.py"
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env={**os.environ, "MPLBACKEND": "Agg"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "study.csv").read_text(encoding="utf-8").splitlines()) == 7
    assert (tmp_path / "study.png").stat().st_size > 5000


def test_every_key_says_what_it_is() -> None:
    known = [*blocks(SystemSpec), *blocks(DramSpec)]
    silent = [f"{b.name}.{k.name}" for b in known for k in b.keys if not k.text]
    assert not silent
    keys = {f"{b.name}.{k.name}" for b in known for k in b.keys}
    assert set(meanings()) <= keys  # none of a key that is gone


@pytest.mark.parametrize("path", DEVICES, ids=lambda p: p.stem)
def test_the_schema_knows_every_device_of_the_catalog(path: Path) -> None:
    assert errors("device", yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("kind", ["device", "system", "host", "memory", "sweep", "engine"])
def test_schemas_are_schemas_and_know_their_templates(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    read = json.loads if kind == "engine" else yaml.safe_load
    assert errors(kind, read(template(kind))) == []


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("device", {"memory": {"bandwith_GBps": 80}}),
        ("device", {"memory": {"capacity_GiB": {"value": "eighty", "source": "a book"}}}),
        ("device", {"processors": {"xpu": {"peak_TFLOPS": {"fp16": "fast"}}}}),
        ("system", {"mapping": {"splitter": "best"}}),
        ("host", {"link": {"peer_acess": True}}),
        ("sweep", {"axes": {}, "base": {"modle": "llama-3-8b"}}),
        ("sweep", {"axes": {}, "objectives": {"ttft_s_p99": "least"}}),
    ],
)
def test_schemas_refuse_what_the_reader_refuses(kind: str, wrong: dict[str, Any]) -> None:
    assert errors(kind, wrong)


def test_the_schema_knows_every_memory_and_the_template_is_one(tmp_path: Path) -> None:
    for path in sorted((ROOT / "devices" / "dram" / "specs").glob("*.yaml")):
        assert errors("memory", yaml.safe_load(path.read_text(encoding="utf-8"))) == [], path.name
    assert errors("memory", {"timings": {"CLS": 3}})
    path = tmp_path / "hbm3-7200.yaml"
    path.write_text(template("memory"), encoding="utf-8")
    assert load_memory(path).timings.CL == 23


def test_every_command_metric_kind_and_list_is_on_the_page() -> None:
    text = page()
    assert [name for name in names() if f"### opbyte {name}\n" not in text] == []
    metrics = [str(row["name"]) for row in catalog("metrics")]
    assert set(metrics) == FIGURES
    rows = {line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")}
    assert {*metrics, *OP_KINDS} <= {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {kind for kind in LISTS if f"### {kind}\n" not in text} == set(NAMED_ELSEWHERE)
    silent = re.findall(r"^\| `[^`]+` \|\s*\|$", text, re.MULTILINE)
    assert silent == []


def test_a_device_and_a_system_to_start_from_work(ask: Ask, tmp_path: Path) -> None:
    for kind in ("device", "system"):
        (tmp_path / f"{kind}.yaml").write_text(ask("init", kind).out, encoding="utf-8")
    assert set(load_device(tmp_path / "device.yaml")[0].processors) == {"xpu", "logic-pim"}
    assert load_system(tmp_path / "system.yaml").device.name == "wide-logic-pim"
    named = (tmp_path / "system.yaml").read_text().replace("h100-logic-pim", "device.yaml")
    (tmp_path / "mine.yaml").write_text(named, encoding="utf-8")
    answer = ask("roofline", "mixtral-8x7b", "--system", tmp_path / "mine.yaml", "--json").json()
    assert answer["step_seconds"] > 0


def test_a_host_to_start_from_works(tmp_path: Path) -> None:
    path = tmp_path / "my-host.yaml"
    path.write_text(template("host"), encoding="utf-8")
    assert load_host(path)[0].link.bandwidth_bytes_per_s == 16e9
    for known in sorted((ROOT / "devices" / "specs" / "hosts").glob("*.yaml")):
        assert errors("host", yaml.safe_load(known.read_text(encoding="utf-8"))) == []


def test_an_engine_a_study_and_a_table_to_start_from_work(ask: Ask, tmp_path: Path) -> None:
    for kind, name in (("engine", "engine.json"), ("sweep", "study.yaml"), ("kernels", "gemm.csv")):
        (tmp_path / name).write_text(template(kind), encoding="utf-8")
    run = ask("simulate", "llama-3-8b", "--system", "h100-x1", "--engine", tmp_path / "engine.json",
              "--requests", 4, "--json")  # fmt: skip
    assert run.json()["requests"] == 4
    assert not run.err
    assert ask("validate", "kernels", tmp_path / "gemm.csv", "--json").json()["rows"][0]["n"] == 3
    found = ask("sweep", tmp_path / "study.yaml", "--out", tmp_path / "out", "--json").json()
    assert found["done"] == found["points"] == 4


def test_init_writes_a_file_or_a_schema(ask: Ask, tmp_path: Path) -> None:
    ask("init", "engine", "--out", tmp_path)
    ask("init", "device", "--schema", "--out", tmp_path)
    assert (tmp_path / TEMPLATES["engine"]).read_text() == template("engine")
    assert json.loads((tmp_path / "device.schema.json").read_text())["title"] == "A device"


@pytest.mark.parametrize(
    ("args", "says"), [(("init", "devise"), "did you mean 'device'"), (("init", "kernels", "--schema"), "tables")]
)
def test_what_there_is_not_is_said_in_a_line(ask: Ask, args: tuple[str, ...], says: str) -> None:
    found = ask(*args)
    assert found.code == 2
    assert says in found.err
