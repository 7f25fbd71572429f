"""Do both paths price what comes from outside alike?

The extensions are those of docs/extending.md, registered for this module alone. As everywhere, the
explicit path is the definition and the compiled one agrees to 1e-9.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.devices.kinds import PROCESSOR_KINDS
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.placement import PLACEMENTS
from opbyte.simulator.step.lowering import lower
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.hf.families import ARCHITECTURES
from opbyte.workloads.layers import LAYER_KINDS

from .pieces import batches_up_to
from .two_paths import check_paths

REGISTRIES: Any = (PLACEMENTS, PROCESSOR_KINDS, LAYER_KINDS, ARCHITECTURES)


@pytest.fixture(scope="module")
def outside(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The document's files, and its rule, layer kind and processor kind registered for a while."""
    folder = tmp_path_factory.mktemp("outside")
    text = (root / "docs" / "extending-models.md").read_text(encoding="utf-8")
    text += (root / "docs" / "extending.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^<!-- file: (\S+) -->\n+```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for name, body in files.items():
        (folder / name).write_text(body)
    kept = [(r, dict(r._items), dict(r._titles)) for r in REGISTRIES]
    modules = ("placement_rule", "layer_kind", "processor_kind")
    sys.path.insert(0, str(folder))
    for name in modules:
        import_module(name)
    yield folder
    sys.path.remove(str(folder))
    for name in modules:
        del sys.modules[name]
    for registry, items, titles in kept:
        registry._items, registry._titles = items, titles


batches = batches_up_to(20_000)


@pytest.mark.parametrize(
    ("model", "system", "options"),
    [
        ("adapters.json", "h100-x2", {"tp": 1, "dp": 2}),
        ("adapters.json", "duplex-x4", {}),
        ("llama-3-8b", "systolic.yaml", {}),
        ("adapters.json", "systolic.yaml", {}),
        ("mixtral-8x7b", "duplex-plain-x4", {"placement": "energy-delay"}),
    ],
)
def test_both_paths_agree(model: str, system: str, options: dict[str, Any], outside: Path) -> None:
    if model.endswith(".json"):
        model = str(outside / model)
    if system.endswith(".yaml"):
        system = str(outside / system)
    d = deploy(load_model(model), load_system(system), **options)
    plan, _ = lower(d)

    @given(batch=batches, step=st.integers(0, 99))
    @settings(max_examples=10)
    def agree(batch: Batch, step: int) -> None:
        check_paths(d, [[batch] * d.ranks], step, plan=plan)

    agree()
